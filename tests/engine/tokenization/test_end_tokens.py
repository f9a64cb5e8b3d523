"""Every token that ends a turn ends a reply, whichever place tells of it."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from gguf import GGUFWriter
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers

from glmtui.chat import Message
from glmtui.engine.checkpoint.gguf import convert_gguf
from glmtui.engine.models import glm4, llama
from glmtui.engine.tokenization.hf_tokenizer import TemplateFormat, TokenizerJson
from support.checkpoints import MERGES, TEMPLATE, TOKENS, write_gguf

CHAT = "{% for m in messages %}<|role|>{{ m.role }}\n{{ m.content }}{{ END }}{% endfor %}"


def stops(
    folder: Path,
    added: dict[str, bool],
    template: str = "{{ messages[0].content }}",
    config: dict[str, Any] | None = None,
    generation: dict[str, Any] | None = None,
    **settings: Any,
) -> set[str]:
    """The names of the tokens that end a reply; `added` says whether each is special."""
    letters = {char: n for n, char in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    fast = Tokenizer(models.BPE(letters, []))
    fast.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    for name, special in added.items():
        token = AddedToken(name, special=special, normalized=False)
        (fast.add_special_tokens if special else fast.add_tokens)([token])
    fast.save(str(folder / "tokenizer.json"))
    said = {"chat_template": template, **settings}
    (folder / "tokenizer_config.json").write_text(json.dumps(said))
    (folder / "generation_config.json").write_text(json.dumps(generation or {}))
    tokenizer = TokenizerJson.load(folder)
    assert tokenizer is not None
    ids = TemplateFormat.load(tokenizer, folder, config or {}).stop_ids
    return {str(fast.id_to_token(i)) for i in ids}


@pytest.mark.parametrize(
    "name",
    [
        "<|im_end|>",
        "<|eot_id|>",
        "<|end|>",
        "<end_of_turn>",
        "<|endoftext|>",
        "<|eom_id|>",
        "[EOT]",
    ],
)
@pytest.mark.parametrize("special", [True, False])
def test_a_token_that_is_named_so_ends_a_turn(tmp_path: Path, name: str, special: bool) -> None:
    added = {"<|base|>": True, name: special, "<|role|>": True}
    assert stops(tmp_path, added, eos_token="<|base|>") == {"<|base|>", name}


def test_an_end_that_is_not_marked_special_cannot_be_typed(tmp_path: Path) -> None:
    template = "{% for m in messages %}{{ m.content }}<|im_end|>{% endfor %}"
    assert stops(tmp_path, {"<|im_end|>": False}, template) == {"<|im_end|>"}
    tokenizer = TokenizerJson.load(tmp_path)
    assert tokenizer is not None
    ids = TemplateFormat.load(tokenizer, tmp_path, {}).encode([Message("user", "a<|im_end|>b")])
    assert [i for i in ids if i >= 256] == ids[-1:]
    assert len(ids) == len("a<|im_end|>b") + 1


def test_what_the_template_puts_behind_a_reply_ends_it(tmp_path: Path) -> None:
    added = {"<|role|>": True, "<|fin|>": True, "<|other|>": True}
    assert stops(tmp_path, added, CHAT.replace("{{ END }}", "\n<|fin|>\n")) == {"<|fin|>"}


def test_a_template_that_refuses_is_no_fault_yet(tmp_path: Path) -> None:
    assert stops(tmp_path, {"<|role|>": True}, "{{ raise_exception('no') }}") == set()


def test_a_template_without_an_end_adds_none(tmp_path: Path) -> None:
    assert stops(tmp_path, {"<|role|>": True}, CHAT) == set()


@pytest.mark.parametrize(
    ("config", "generation"),
    [
        ({"eos_token_id": 256}, {"eos_token_id": [257, 258]}),
        ({"eos_token_id": [256, 257]}, {"eos_token_id": 258}),
        ({"text_config": {"eos_token_id": 256}}, {"eos_token_id": [257, 258, None, True, "x"]}),
        ({"eos_token_id": None}, {"eos_token_id": [256, 257], "stop_strings": ["c", "<c>"]}),
    ],
)
def test_configs_name_one_or_several(
    tmp_path: Path, config: dict[str, Any], generation: dict[str, Any]
) -> None:
    added = {"<a>": True, "<b>": True, "<c>": True, "<d>": True}
    found = stops(tmp_path, added, config=config, generation=generation)
    assert found == {"<a>", "<b>", "<c>"}


def test_a_part_of_a_harmony_reply_does_not_end_it(tmp_path: Path) -> None:
    added = dict.fromkeys(("<|return|>", "<|call|>", "<|end|>", "<|role|>"), True)
    template = CHAT.replace("{{ END }}", "<|end|>")
    assert stops(tmp_path, added, template) == {"<|return|>", "<|call|>"}


def test_named_tokens_may_be_in_a_file_of_their_own(tmp_path: Path) -> None:
    named = {"eos_token": {"content": "<a>"}, "bos_token": {}, "pad_token": 7}
    (tmp_path / "special_tokens_map.json").write_text(json.dumps(named))
    assert stops(tmp_path, {"<a>": True, "<b>": True}) == {"<a>"}


def test_generation_config_counts_for_families_with_prompts_of_their_own(tmp_path: Path) -> None:
    pieces = (base64.b64encode(bytes([byte])) + b" %d" % byte for byte in range(256))
    (tmp_path / "tokenizer.model").write_bytes(b"\n".join(pieces) + b"\n")
    tokenizer = glm4.load_tokenizer(tmp_path, {})
    assert tokenizer is not None
    before = glm4.chat_format(tokenizer, tmp_path, {"eos_token_id": 256}).stop_ids
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [256, 259, null]}')
    after = glm4.chat_format(tokenizer, tmp_path, {"eos_token_id": 256}).stop_ids
    assert 259 not in before
    assert after == before | {259}


# ---- GGUF files


def gguf_stops(tmp_path: Path, tokenizer: Any) -> set[str]:
    source = write_gguf(tmp_path / "tiny.gguf", tokenizer=tokenizer)
    folder = tmp_path / "out"
    folder.mkdir()
    convert_gguf(source, folder)
    raw = json.loads((folder / "config.json").read_text())
    loaded = llama.load_tokenizer(folder, raw)
    assert isinstance(loaded, TokenizerJson)
    names = {i: name for name, i in loaded.special.items()}
    return {names[i] for i in llama.chat_format(loaded, folder, raw).stop_ids}


@pytest.mark.parametrize("kind", [1, 3, 4])
@pytest.mark.parametrize("end", ["<|im_end|>", "<|eot_id|>"])
def test_a_gguf_file_whose_end_is_the_base_models(tmp_path: Path, kind: int, end: str) -> None:
    """Whatever type the file gives the end of a turn, it is one, as in llama.cpp."""

    def tokenizer(writer: GGUFWriter) -> None:
        tokens = [*TOKENS]
        tokens[2] = end
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre("smollm")
        writer.add_token_list(tokens)
        writer.add_token_types([3, 3, kind] + [1] * (len(tokens) - 3))
        writer.add_token_merges(MERGES)
        writer.add_eos_token_id(0)

    assert gguf_stops(tmp_path, tokenizer) == {"<|endoftext|>", end}


def test_a_gguf_file_without_an_end_of_its_own(tmp_path: Path) -> None:
    def tokenizer(writer: GGUFWriter) -> None:
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre("smollm")
        writer.add_token_list(TOKENS)
        writer.add_token_types([3, 3, 3] + [1] * (len(TOKENS) - 3))
        writer.add_token_merges(MERGES)

    assert "<|im_end|>" in TEMPLATE
    assert gguf_stops(tmp_path, tokenizer) == {"<|endoftext|>", "<|im_end|>"}
