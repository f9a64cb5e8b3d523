"""A Llama folder with tokenizer.model only: the ids are those of the SentencePiece library."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
from hypothesis import given
from hypothesis import strategies as st

from glmtui.chat import Message
from glmtui.engine.models import llama
from glmtui.engine.tokenization.hf_tokenizer import HFTokenizer
from glmtui.engine.tokenization.sandbox.sentencepiece_conversion import (
    InvalidTokenizer,
    read_sentencepiece_model,
)
from glmtui.engine.tokenization.template_format import TemplateFormat
from glmtui.errors import BadCheckpoint

WORDS = [
    "hello",
    "world",
    "how",
    "are",
    "you",
    "the",
    "quick",
    "brown",
    "fox",
    "What",
    "is",
    "this",
    "你好",
    "世界",
    "hé",
    "llo",
]
CHAT = "{{ bos_token }}{% for m in messages %}<|user|>{{ m.content }}<|end|>{% endfor %}"
ADDED = {
    str(n): {"content": content, "special": True, "rstrip": False}
    for n, content in enumerate(("<|user|>", "<|end|>"), 320)
}


def train(folder: Path, **options: Any) -> Path:
    (folder / "text.txt").write_text("\n".join(" ".join(WORDS[n:]) for n in range(15)) * 9)
    sentencepiece.SentencePieceTrainer.train(
        input=str(folder / "text.txt"),
        model_prefix=str(folder / "tokenizer"),
        vocab_size=320,
        byte_fallback=True,
        minloglevel=2,
        **{
            "model_type": "bpe",
            "normalization_rule_name": "identity",
            "remove_extra_whitespaces": False,
            "hard_vocab_limit": False,
            **options,
        },
    )
    for name in ("text.txt", "tokenizer.vocab"):
        (folder / name).unlink()
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = train(tmp_path_factory.mktemp("pieces"))
    named = {"bos_token": "<s>", "eos_token": {"content": "</s>"}, "chat_template": CHAT}
    settings = {**named, "added_tokens_decoder": ADDED, "tokenizer_class": "LlamaTokenizer"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> HFTokenizer:
    loaded = llama.load_tokenizer(folder, {})
    assert isinstance(loaded, HFTokenizer)
    return loaded


@pytest.fixture(scope="module")
def pieces(folder: Path) -> sentencepiece.SentencePieceProcessor:
    return sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))


@given(st.lists(st.sampled_from([*WORDS, "x", "\n", "é", "🙂", "a b", "1"])).map(" ".join))
def test_ids_and_text_are_those_of_the_library(
    tokenizer: HFTokenizer, pieces: sentencepiece.SentencePieceProcessor, text: str
) -> None:
    ids = tokenizer.encode(text)
    assert ids == pieces.encode(text)
    assert tokenizer.decode(ids) == text
    spelled = b"".join(map(tokenizer.token_bytes, ids))
    assert spelled.removeprefix(b" ").decode() == text


def test_a_prompt_has_its_added_tokens(
    folder: Path, tokenizer: HFTokenizer, pieces: sentencepiece.SentencePieceProcessor
) -> None:
    """Without ``legacy``, only the first word of a text gets a leading space."""
    chat_format = TemplateFormat.load(tokenizer, folder, {})
    assert chat_format.stop_ids == {2, 321}
    ids = chat_format.encode([Message("user", "hello <|end|>")])
    start = len(pieces.encode("x"))
    assert ids[:2] == [1, 320]
    assert ids[2:-1] == pieces.encode("xhello <|end|>")[start:]
    assert ids[-1] == 321


def test_legacy_puts_a_space_before_every_part(folder: Path, tmp_path: Path) -> None:
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({**settings, "legacy": True}))
    (tmp_path / "tokenizer.model").write_bytes((folder / "tokenizer.model").read_bytes())
    loaded = HFTokenizer.load_sentencepiece(tmp_path)
    assert loaded is not None
    ids = TemplateFormat.load(loaded, tmp_path, {}).encode([Message("user", "hello")])
    assert ids == [1, 320, *loaded.encode("hello"), 321]


def test_added_tokens_may_be_in_a_file_of_their_own(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes((folder / "tokenizer.model").read_bytes())
    (tmp_path / "added_tokens.json").write_text(json.dumps({"<|im_end|>": 321, "<x>": 320}))
    (tmp_path / "special_tokens_map.json").write_text(json.dumps({"eos_token": "<|im_end|>"}))
    loaded = HFTokenizer.load_sentencepiece(tmp_path)
    assert loaded is not None
    assert loaded.special["<|im_end|>"] == 321
    assert loaded.encode("<x>")[-1:] == [320]


def test_a_tokenizer_json_beside_it_is_read_first(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes((folder / "tokenizer.model").read_bytes())
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(BadCheckpoint, match=r"tokenizer\.json is not a tokenizer"):
        HFTokenizer.load(tmp_path)
    assert llama.load_tokenizer(tmp_path, {}) is not None  # loads in the background


@pytest.mark.parametrize(
    ("added", "message"),
    [
        ({"999": {"content": "<far>"}}, "does not have id 999"),
        ({"5": {"content": "<other>"}}, "does not have id 5"),
    ],
)
def test_added_tokens_that_do_not_fit(
    folder: Path, tmp_path: Path, added: dict[str, Any], message: str
) -> None:
    (tmp_path / "tokenizer.model").write_bytes((folder / "tokenizer.model").read_bytes())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": added}))
    with pytest.raises(BadCheckpoint, match=message) as caught:
        HFTokenizer.load_sentencepiece(tmp_path)
    assert "tokenizer.json" in caught.value.hint


def test_unigram_pieces_are_named(tmp_path: Path) -> None:
    train(tmp_path, model_type="unigram")
    with pytest.raises(BadCheckpoint, match="of type 1"):
        HFTokenizer.load_sentencepiece(tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x0a",
        b"<html>404</html>",
        b"\x0a\x05\x0a\x0a",
        b"\xff" * 50,
        b"\x08\x01",
        b"\x0a\x00" * 9,
    ],
)
def test_other_files_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "tokenizer.model").write_bytes(content)
    with pytest.raises(BadCheckpoint, match="is not a tokenizer"):
        HFTokenizer.load_sentencepiece(tmp_path)


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(content: bytes) -> None:
    with contextlib.suppress(InvalidTokenizer):
        assert read_sentencepiece_model(content).pieces
