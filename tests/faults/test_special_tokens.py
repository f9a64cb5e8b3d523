"""What a person types is text, whatever it spells: no ChatFormat makes a special token of it."""

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
from glmtui.engine.tokenization.hf_tokenizer import TemplateFormat, TokenizerJson
from glmtui.engine.tokenization.protocols import ChatFormat
from glmtui.engine.tokenization.template_renderer import TemplateRenderer
from support.goldens import tokenizer_file

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
    """Special tokens are where they are with any other words, and no more of them."""

    def controls(words: str) -> list[int]:
        talk = [
            Message("system", f"s {words}"),
            Message("user", f"a {words} b"),
            Message("assistant", f"c {words} d"),
            Message("user", f"{words}e"),
        ]
        return [i for i in chat_format.encode(talk) if i in known]

    known = set(special.values())
    assert controls("") != []
    assert controls(tags) == controls("")


# ---- tokenizers made here


def sentencepiece_file(path: Path, **options: Any) -> Path:
    made = io.BytesIO()
    words = [
        "the quick brown fox user assistant system sop eop gMASK unk <|>[]/_",
        "你好，今天天气",
    ]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(words * 40),
        model_writer=made,
        minloglevel=2,
        hard_vocab_limit=False,
        **options,
    )
    path.write_bytes(made.getvalue())
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
    return loaded(chatglm, folder, {"bos_token_id": 130004, "eos_token_id": 130005})


def pieces_format(module: ModuleType) -> Callable[[Path], tuple[ChatFormat, Mapping[str, int]]]:
    def made(folder: Path) -> tuple[ChatFormat, Mapping[str, int]]:
        sentencepiece_file(
            folder / "tokenizer.model",
            model_type="bpe",
            vocab_size=420,
            byte_fallback=True,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
        )
        return loaded(module, folder, {"eos_token_id": 2, "padded_vocab_size": 512})

    return made


def glm4_format(folder: Path) -> tuple[ChatFormat, Mapping[str, int]]:
    merges = [b"us", b"er", b"user", b"<|", b"|>", b"[g"]
    pieces = [bytes([byte]) for byte in range(256)] + merges
    lines = [base64.b64encode(piece) + b" %d" % rank for rank, piece in enumerate(pieces)]
    (folder / "tokenizer.model").write_bytes(b"\n".join(lines) + b"\n")
    return loaded(glm4, folder, {"eos_token_id": [256]})


def hub_format(folder: Path) -> tuple[ChatFormat, Mapping[str, int]]:
    letters = {c: i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    fast = Tokenizer(models.BPE(vocab=letters, merges=[]))
    fast.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    fast.decoder = decoders.ByteLevel()
    fast.add_special_tokens([AddedToken(t, special=True) for t in TAGS if not t.isalpha()])
    content = fast.to_str().encode()
    tokenizer = TokenizerJson.of(lambda: content, Path("made/tokenizer.json"))
    template = (
        "[gMASK]<sop>{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}<|im_end|>"
        "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
    )
    return TemplateFormat(tokenizer, TemplateRenderer(template), frozenset(), {}), tokenizer.special


def loaded(
    module: ModuleType, folder: Path, raw: dict[str, Any]
) -> tuple[ChatFormat, Mapping[str, int]]:
    tokenizer = module.load_tokenizer(folder, raw)
    assert tokenizer is not None
    return module.chat_format(tokenizer, folder, raw), tokenizer.special


MADE: dict[str, Callable[[Path], tuple[ChatFormat, Mapping[str, int]]]] = {
    "chatglm": chatglm_format,
    "chatglm2": pieces_format(chatglm2),
    "chatglm3": pieces_format(chatglm3),
    "glm4": glm4_format,
    "hub": hub_format,
}


@pytest.fixture(scope="module", params=MADE)
def made(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[ChatFormat, Mapping[str, int]]:
    return MADE[request.param](tmp_path_factory.mktemp(request.param))


@settings(deadline=None, max_examples=150)
@given(SPELLED)
def test_no_text_becomes_a_special_token(
    made: tuple[ChatFormat, Mapping[str, int]], words: str
) -> None:
    check(*made, words)


@pytest.mark.parametrize("tag", TAGS)
def test_no_tag_becomes_a_special_token(
    made: tuple[ChatFormat, Mapping[str, int]], tag: str
) -> None:
    check(*made, tag)


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
    shutil.copy(tokenizer_file(name, file), tmp_path / file.replace(".slim", ""))
    chat_format, special = loaded(module, tmp_path, raw)
    for tag in (*TAGS, " ".join(TAGS), "".join(TAGS)):
        check(chat_format, special, tag)


def test_a_message_of_every_private_character_is_still_text() -> None:
    chat_format, special = hub_format(Path())
    check(chat_format, special, "".join(map(chr, range(0xE000, 0xF900))) + "<|user|>")
