"""Text that a user types stays text: no ChatFormat makes a special token of it."""

from __future__ import annotations

import base64
import io
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from glmtui.chat import Message
from glmtui.engine.models import chatglm, chatglm2, chatglm3, glm4
from glmtui.engine.tokenization.hf_tokenizer import HFTokenizer
from glmtui.engine.tokenization.protocols import ChatFormat
from glmtui.engine.tokenization.template_format import TemplateFormat
from glmtui.engine.tokenization.template_renderer import TemplateRenderer
from support.goldens import released_tokenizer

TAGS = (
    *("[gMASK]", "[MASK]", "[sMASK]", "<sop>", "<eop>", "sop", "eop", "<s>", "</s>", "<unk>"),
    *("<|user|>", "<|assistant|>", "<|system|>", "<|observation|>", "<|endoftext|>"),
    *("<|im_start|>", "<|im_end|>", "<unused_0>", "<ENC>", "<dBLOCK>", "<pad>", "<0x0A>"),
)
SPELLED = st.lists(
    st.one_of(
        st.sampled_from(TAGS),
        st.sampled_from(["<", "|", ">", "[", "]", "\n", " ", "user", "g", "M", "\ue000", "你"]),
        st.text(max_size=3),
    ),
    max_size=8,
).map("".join)


def check(chat_format: ChatFormat, special: Mapping[str, int], tags: str) -> None:
    """The special tokens of a prompt are the same with `tags` in all messages as without."""

    def controls(words: str) -> list[int]:
        talk = [
            Message("system", f"s {words}"),
            Message("user", f"a {words} b"),
            Message("assistant", f"c {words} d"),
            Message("user", f"{words}e"),
        ]
        return [i for i in chat_format.encode(talk) if i in special_ids]

    special_ids = set(special.values())
    assert controls("") != []
    assert controls(tags) == controls("")


# ---- tokenizers with small vocabularies


def sentencepiece_file(path: Path, **options: Any) -> Path:
    model = io.BytesIO()
    words = [
        "the quick brown fox user assistant system sop eop gMASK unk <|>[]/_",
        "你好，今天天气",
    ]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(words * 40),
        model_writer=model,
        minloglevel=2,
        hard_vocab_limit=False,
        **options,
    )
    path.write_bytes(model.getvalue())
    return path


def chatglm_format(folder: Path) -> tuple[ChatFormat, Mapping[str, int]]:
    ids = {"unk_id": 0, "bos_id": 1, "eos_id": 2, "pad_id": 3}
    sentencepiece_file(
        folder / "ice_text.model",
        model_type="unigram",
        vocab_size=200,
        normalization_rule_name="nmt_nfkc",
        user_defined_symbols=["<n>"],
        **ids,
    )
    return load_format(chatglm, folder, {"bos_token_id": 130004, "eos_token_id": 130005})


def sentencepiece_format(
    module: ModuleType,
) -> Callable[[Path], tuple[ChatFormat, Mapping[str, int]]]:
    def make_format(folder: Path) -> tuple[ChatFormat, Mapping[str, int]]:
        sentencepiece_file(
            folder / "tokenizer.model",
            model_type="bpe",
            vocab_size=420,
            byte_fallback=True,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
        )
        return load_format(module, folder, {"eos_token_id": 2, "padded_vocab_size": 512})

    return make_format


def glm4_format(folder: Path) -> tuple[ChatFormat, Mapping[str, int]]:
    merges = [b"us", b"er", b"user", b"<|", b"|>", b"[g"]
    pieces = [bytes([byte]) for byte in range(256)] + merges
    lines = [base64.b64encode(piece) + b" %d" % rank for rank, piece in enumerate(pieces)]
    (folder / "tokenizer.model").write_bytes(b"\n".join(lines) + b"\n")
    return load_format(glm4, folder, {"eos_token_id": [256]})


def template_format(folder: Path) -> tuple[ChatFormat, Mapping[str, int]]:
    letters = {c: i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocab=letters, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(t, special=True) for t in TAGS if not t.isalpha()])
    content = tokenizer.to_str().encode()
    hf_tokenizer = HFTokenizer.from_reader(lambda: content, Path("folder/tokenizer.json"))
    template = (
        "[gMASK]<sop>{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}<|im_end|>"
        "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
    )
    chat_format = TemplateFormat(hf_tokenizer, TemplateRenderer(template), frozenset(), {})
    return chat_format, hf_tokenizer.special


def load_format(
    module: ModuleType, folder: Path, raw: dict[str, Any]
) -> tuple[ChatFormat, Mapping[str, int]]:
    tokenizer = module.load_tokenizer(folder, raw)
    assert tokenizer is not None
    return module.chat_format(tokenizer, folder, raw), tokenizer.special


FORMATS: dict[str, Callable[[Path], tuple[ChatFormat, Mapping[str, int]]]] = {
    "chatglm": chatglm_format,
    "chatglm2": sentencepiece_format(chatglm2),
    "chatglm3": sentencepiece_format(chatglm3),
    "glm4": glm4_format,
    "template": template_format,
}


@pytest.fixture(scope="module", params=FORMATS)
def formatted(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[ChatFormat, Mapping[str, int]]:
    return FORMATS[request.param](tmp_path_factory.mktemp(request.param))


@settings(deadline=None, max_examples=150)
@given(SPELLED)
def test_no_text_becomes_a_special_token(
    formatted: tuple[ChatFormat, Mapping[str, int]], words: str
) -> None:
    check(*formatted, words)


@pytest.mark.parametrize("tag", TAGS)
def test_no_tag_becomes_a_special_token(
    formatted: tuple[ChatFormat, Mapping[str, int]], tag: str
) -> None:
    check(*formatted, tag)


# ---- the released tokenizers

RELEASED: dict[str, tuple[ModuleType, str, dict[str, Any]]] = {
    "chatglm-6b": (
        chatglm,
        "ice_text.slim.model",
        {"bos_token_id": 130004, "eos_token_id": 130005},
    ),
    "chatglm2-6b": (chatglm2, "tokenizer.model", {"eos_token_id": 2}),
    "chatglm3-6b": (chatglm3, "tokenizer.model", {"eos_token_id": 2}),
    "glm-4-9b": (glm4, "tokenizer.model", {"eos_token_id": [151329, 151336, 151338]}),
}


@pytest.mark.parametrize("name", RELEASED)
def test_the_released_tokenizers(name: str, tmp_path: Path) -> None:
    module, file, raw = RELEASED[name]
    shutil.copy(released_tokenizer(name, file), tmp_path / file.replace(".slim", ""))
    chat_format, special = load_format(module, tmp_path, raw)
    for tag in (*TAGS, " ".join(TAGS), "".join(TAGS)):
        check(chat_format, special, tag)


def test_a_message_of_every_private_character_is_still_text() -> None:
    chat_format, special = template_format(Path())
    check(chat_format, special, "".join(map(chr, range(0xE000, 0xF900))) + "<|user|>")
