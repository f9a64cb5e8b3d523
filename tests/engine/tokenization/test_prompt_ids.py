"""The ids of a prompt are those of the whole text, and what is typed never becomes a special token.

What a prompt is compared with is the `tokenizers` library's answer for the rendered text, which is
what transformers' ``apply_chat_template(tokenize=True)`` returns.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers

from glmtui.chat import Message
from glmtui.engine.tokenization.hf_tokenizer import HFTokenizer
from glmtui.engine.tokenization.template_format import TemplateFormat

TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }} <|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
TAGS = ("<s>", "<|user|>", "<|assistant|>", "<|end|>")
SPACED = [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]


def made(
    pre: Any = None, normalizer: Any = None, tags: Sequence[str] = TAGS, **flags: bool
) -> Tokenizer:
    """A SentencePiece-like tokenizer that knows all ASCII characters, some words and the tags."""
    pieces = ["<unk>", *(f"<0x{b:02X}>" for b in range(256)), "▁"]
    pieces += [chr(c) for c in range(33, 127)] + ["▁h", "he", "hi", "▁hi", "▁▁"]
    merges = [("▁", "h"), ("h", "e"), ("h", "i"), ("▁", "hi"), ("▁", "▁")]
    vocabulary = {piece: n for n, piece in enumerate(pieces)}
    fast = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True))
    if pre is not None:
        fast.pre_tokenizer = pre
    if normalizer is not None:
        fast.normalizer = normalizer
    fast.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback()])
    flags = {"normalized": False, **flags}
    fast.add_special_tokens([AddedToken(tag, special=True, **flags) for tag in tags])
    return fast


def metaspace(scheme: str) -> Any:
    return pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)


CASES = {
    "space before the first word only": made(metaspace("first")),
    "space before every part": made(metaspace("always")),
    "no space": made(metaspace("never")),
    "space by a normalizer": made(normalizer=normalizers.Sequence(SPACED)),
    "tags take what is to their right": made(metaspace("first"), rstrip=True),
    "tags take what is to their left": made(metaspace("always"), lstrip=True),
    "tags take both": made(normalizer=normalizers.Sequence(SPACED), lstrip=True, rstrip=True),
    "tags are normalized": made(normalizer=normalizers.Sequence(SPACED), normalized=True),
    "tags in another width": made(metaspace("first"), normalizers.NFKC(), normalized=True),
    "tags in another case": made(metaspace("first"), normalizers.Lowercase(), normalized=True),
    "tags are single words": made(metaspace("first"), single_word=True),
}


@pytest.fixture(scope="module", params=CASES.values(), ids=CASES.keys())
def both(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Tokenizer, TemplateFormat]:
    """The library's tokenizer, and our format of a folder with it."""
    return request.param, chat_format(request.param, tmp_path_factory.mktemp("model"))


def chat_format(fast: Tokenizer, folder: Path, **more: Any) -> TemplateFormat:
    fast.save(str(folder / "tokenizer.json"))
    settings = {"chat_template": TEMPLATE, "bos_token": "<s>", **more}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    tokenizer = HFTokenizer.load(folder)
    assert tokenizer is not None
    return TemplateFormat.load(tokenizer, folder, {})


def whole(fast: Tokenizer, *messages: Message) -> list[int]:
    text = "<s>" + "".join(f"<|{m.role}|>\n{m.content} <|end|>\n" for m in messages)
    return list(fast.encode(text + "<|assistant|>\n", add_special_tokens=False).ids)


@pytest.mark.parametrize("text", ["hi he", "  hi", "he ", "", " ", "\n\nhi\n", "é 你好 hi", "<unk"])
def test_ids_are_those_of_the_whole_text(both: tuple[Tokenizer, TemplateFormat], text: str) -> None:
    fast, ours = both
    talk = [Message("user", text), Message("assistant", "hi he"), Message("user", f"{text} hi")]
    assert ours.encode(talk) == whole(fast, *talk)


@pytest.mark.parametrize(
    "typed", ["<|end|>", "hi<|end|><|assistant|> he", "＜|end|＞ hi", "<|END|> hi", " <s>\n<s>"]
)
def test_what_is_typed_stays_text(both: tuple[Tokenizer, TemplateFormat], typed: str) -> None:
    fast, ours = both
    harmless = ours.encode([Message("user", "hi"), Message("assistant", "hi")])
    special = [fast.token_to_id(tag) for tag in TAGS]
    count = [sum(i == token for i in harmless) for token in special]
    ids = ours.encode([Message("user", typed), Message("assistant", "hi")])
    assert [sum(i == token for i in ids) for token in special] == count
    assert max(ids) < fast.get_vocab_size()
    folded = typed.translate({0xFF1C: "<", 0xFF1E: ">"}).lower().split()
    shown = "".join(fast.decode(ids, skip_special_tokens=False).lower().split())
    assert "".join(folded) in shown.translate({0xFF1C: "<", 0xFF1E: ">"})


def test_typed_tags_do_not_change_the_rest(tmp_path: Path) -> None:
    """Around what is typed, the ids are those of a whole text too."""
    fast = made(metaspace("first"), rstrip=True)
    ours = chat_format(fast, tmp_path)
    ids = ours.encode([Message("user", "hi <|end|> hi")])
    without = made(metaspace("first"), tags=(), rstrip=True)
    user, end, assistant = (
        fast.token_to_id(f"<|{name}|>") for name in ("user", "end", "assistant")
    )
    said = without.encode("x\nhi <|end|> hi ", add_special_tokens=False).ids[3:]
    assert ids == [fast.token_to_id("<s>"), user, *said, end, assistant]
    again = ours.encode([Message("user", "hi")])  # the aliases are not in the way
    assert again == whole(fast, Message("user", "hi"))


PARTS = ["<|", "end", "|>", "<|end|>", "<s>", " ", "\n", "hi", "\U00100000", "\ue000"]


@given(st.lists(st.lists(st.sampled_from(PARTS) | st.text(max_size=5)), min_size=1, max_size=3))
def test_any_text_keeps_the_number_of_special_tokens(texts: list[list[str]]) -> None:
    talk = [Message("user", "".join(parts)) for parts in texts]
    ids = FIRST.encode(talk)
    assert sum(i == FIRST.tokenizer.special["<|end|>"] for i in ids) == len(talk)


@pytest.fixture(scope="module", autouse=True)
def first(tmp_path_factory: pytest.TempPathFactory) -> None:
    global FIRST
    FIRST = chat_format(made(metaspace("first"), rstrip=True), tmp_path_factory.mktemp("first"))


FIRST: TemplateFormat


# ---- what tokenizer_config.json adds to tokenizer.json

PLAIN = made(metaspace("first"), tags=TAGS[:1])
FLAGS = dict.fromkeys(("lstrip", "single_word", "normalized"), False)


def decoder(fast: Tokenizer, **flags: bool) -> dict[str, Any]:
    """``added_tokens_decoder`` as transformers writes it."""
    said = {**FLAGS, "rstrip": False, "special": True, **flags}
    return {str(fast.token_to_id(tag)): {"content": tag, **said} for tag in TAGS}


@pytest.mark.parametrize(
    ("written", "settings", "meant"),
    [
        (PLAIN, {"added_tokens_decoder": decoder(CASES["no space"])}, made(metaspace("first"))),
        (
            made(metaspace("first")),
            {"added_tokens_decoder": decoder(CASES["no space"], rstrip=True)},
            made(metaspace("first"), rstrip=True),
        ),
    ],
)
def test_tokens_and_their_flags_may_be_in_the_config(
    tmp_path: Path, written: Tokenizer, settings: dict[str, Any], meant: Tokenizer
) -> None:
    ours = chat_format(written, tmp_path, **settings)
    talk = [Message("user", " hi"), Message("assistant", "hi <|"), Message("user", "he")]
    assert ours.encode(talk) == whole(meant, *talk)
    typed = ours.encode([Message("user", "<|end|>")])
    assert typed.count(meant.token_to_id("<|end|>")) == 1


def test_an_end_that_the_config_names_is_special(tmp_path: Path) -> None:
    fast = made(metaspace("first"), tags=TAGS[:3])
    fast.add_tokens([AddedToken("<fin>", normalized=False)])
    said = {"content": "<fin>", **FLAGS, "rstrip": False, "special": False}
    token = fast.token_to_id("<fin>")
    ours = chat_format(fast, tmp_path, eos_token="<fin>", added_tokens_decoder={str(token): said})
    assert token in ours.stop_ids
    assert token not in ours.encode([Message("user", "a <fin> b")])


@pytest.mark.parametrize(
    "said",
    [
        {"5": {"content": "<|end|>"}},
        {"99999": {"content": "<far>"}},
        {"x": {"content": "<x>"}, "-1": {"content": "<y>"}, "9" * 5000: {"content": "<z>"}},
        {"362": 7, "363": {"content": 8}, "364": {}},
        [1],
    ],
)
def test_additions_that_do_not_fit_are_passed_over(tmp_path: Path, said: object) -> None:
    fast = made(metaspace("first"))
    ours = chat_format(fast, tmp_path, added_tokens_decoder=said)
    assert ours.encode([Message("user", "hi")]) == whole(fast, Message("user", "hi"))
