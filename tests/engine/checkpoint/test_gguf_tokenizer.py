"""The tokenizer a GGUF file describes: its cuts, its special tokens, and kinds it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from gguf import GGUFWriter
from tokenizers import Tokenizer

from glmtui.engine.checkpoint.gguf import convert_gguf
from glmtui.engine.checkpoint.gguf.file import read_gguf
from glmtui.engine.checkpoint.gguf.tokenizer import build_tokenizer
from glmtui.errors import BadCheckpoint, UnsupportedModel
from support.checkpoints import MERGES, TOKENS, byte_level_tokenizer, llama_tensors, write_gguf


def built(tmp_path: Path, write: Any = byte_level_tokenizer) -> Any:
    return build_tokenizer(read_gguf(write_gguf(tmp_path / "tiny.gguf", tokenizer=write)))


def pieces(tokenizer: Any, text: str) -> list[str]:
    return list(tokenizer.encode(text, add_special_tokens=False).tokens)


def test_text_is_cut_and_merged(tmp_path: Path) -> None:
    tokenizer = built(tmp_path)
    assert pieces(tokenizer, "hello whe") == ["hello", "Ġw", "he"]
    assert pieces(tokenizer, "é") == ["Ã", "©"]
    assert pieces(tokenizer, "a  b") == ["a", "Ġ", "Ġ", "b"]


def test_each_way_of_cutting_has_its_digits(tmp_path: Path) -> None:
    # the merge "1 2" shows whether digits stay together
    expected = {"smollm": ["1", "2"], "gpt-2": ["12"], "llama-bpe": ["12"]}
    for pre, cut in expected.items():
        folder = tmp_path / pre
        folder.mkdir()
        tokenizer = built(folder, lambda writer, pre=pre: byte_level_tokenizer(writer, pre))
        assert pieces(tokenizer, "12") == cut


def test_llama3_takes_whole_tokens_before_merges(tmp_path: Path) -> None:
    def write(writer: GGUFWriter, pre: str) -> None:
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(pre)
        writer.add_token_list([*TOKENS, "hex"])  # no merge leads to it
        writer.add_token_merges(MERGES)

    for pre, cut in (("llama-bpe", ["hex"]), ("smollm", ["he", "x"])):
        folder = tmp_path / pre
        folder.mkdir()
        assert pieces(built(folder, lambda writer, pre=pre: write(writer, pre)), "hex") == cut


def test_special_tokens_are_special_and_whole(tmp_path: Path) -> None:
    tokenizer = built(tmp_path)
    ids = tokenizer.encode("<|im_start|>hello<|im_end|>", add_special_tokens=False).ids
    assert ids == [1, TOKENS.index("hello"), 2]
    assert tokenizer.decode(ids) == "hello"
    tokenizer.encode_special_tokens = True  # as glmtui encodes what a person types
    assert 1 not in tokenizer.encode("<|im_start|>", add_special_tokens=False).ids


def test_user_defined_tokens_are_whole_but_text(tmp_path: Path) -> None:
    def write(writer: GGUFWriter) -> None:
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre("smollm")
        writer.add_token_list([*TOKENS, "<think>"])
        writer.add_token_types([3] * 3 + [1] * (len(TOKENS) - 3) + [4])
        writer.add_token_merges(MERGES)
        writer.add_eos_token_id(2)

    tokenizer = built(tmp_path, write)
    assert pieces(tokenizer, "<think>hello") == ["<think>", "hello"]
    assert tokenizer.decode([len(TOKENS)]) == "<think>"


@pytest.mark.parametrize(
    "text", ["hello  world\n\n", "你好，世界 🙂", "e\u0301\t\r\n\x00", "<|im_end|"]
)
def test_every_text_comes_back(tmp_path: Path, text: str) -> None:
    tokenizer = built(tmp_path)
    assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False).ids) == text


def test_the_saved_file_is_the_same_tokenizer(tmp_path: Path) -> None:
    source = write_gguf(tmp_path / "tiny.gguf")
    folder = tmp_path / "out"
    folder.mkdir()
    convert_gguf(source, folder)
    saved = Tokenizer.from_file(str(folder / "tokenizer.json"))
    assert saved.to_str() == build_tokenizer(read_gguf(source)).to_str()
    added = json.loads((folder / "tokenizer.json").read_text())["added_tokens"]
    assert [token["content"] for token in added] == TOKENS[:3]


SPM_PIECES = ["<unk>", "<s>", "</s>", *(f"<0x{n:02X}>" for n in range(256))]
SPM_WORDS = ["▁", "h", "e", "l", "o", "he", "ll", "hell", "hello", "▁hello", "el"]


def sentencepiece(writer: GGUFWriter) -> None:
    writer.add_tokenizer_model("llama")
    tokens = SPM_PIECES + SPM_WORDS
    writer.add_token_list(tokens)
    # as llama.cpp's converter scores BPE pieces: the later, the lower
    writer.add_token_scores([0.0] * len(SPM_PIECES) + [-float(n) for n in range(len(SPM_WORDS))])
    writer.add_token_types([2, 3, 3] + [6] * 256 + [1] * len(SPM_WORDS))
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)


def test_sentencepiece_merges_by_score_and_falls_back_to_bytes(tmp_path: Path) -> None:
    tokenizer = built(tmp_path, sentencepiece)
    assert pieces(tokenizer, "hello") == ["▁hello"]
    assert pieces(tokenizer, "hell") == ["▁", "hell"]  # "he" before "el"
    assert pieces(tokenizer, "he é") == ["▁", "he", "▁", "<0xC3>", "<0xA9>"]
    for text in ("hello", " hello", "hello  hello", "é 🙂"):
        assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False).ids) == text


def test_sentencepiece_begins_with_its_first_token(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    tensors = llama_tensors(len(SPM_PIECES + SPM_WORDS))
    convert_gguf(
        write_gguf(tmp_path / "tiny.gguf", tensors=tensors, tokenizer=sentencepiece), folder
    )
    said = json.loads((folder / "tokenizer_config.json").read_text())
    assert said["add_bos_token"] is True
    assert said["bos_token"] == "<s>"


def no_merges(writer: GGUFWriter) -> None:
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(TOKENS)
    writer.add_eos_token_id(2)


def of_a_new_kind(writer: GGUFWriter) -> None:
    writer.add_tokenizer_model("rwkv")
    writer.add_token_list(TOKENS)


def impossible_merge(writer: GGUFWriter) -> None:
    no_merges(writer)
    writer.add_token_merges(["never seen"])


def twice_the_same(writer: GGUFWriter) -> None:
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list([*TOKENS, "a"])
    writer.add_token_merges(MERGES)
    writer.add_eos_token_id(2)


def pieces_of(tokens: list[str], unknown: int = 0) -> Any:
    def write(writer: GGUFWriter) -> None:
        writer.add_tokenizer_model("llama")
        writer.add_token_list(tokens)
        writer.add_token_scores([0.0] * len(tokens))
        writer.add_unk_token_id(unknown)

    return write


@pytest.mark.parametrize(
    ("write", "said"),
    [
        (pieces_of(["a", "b"], unknown=2), "unknown token is 2 of 2"),
        (pieces_of(["a", "b" * 200_000]), "has 200,000 characters"),  # a minute, once
        (no_merges, "no tokenizer.ggml.merges"),
        (impossible_merge, "does not fit together"),
        (twice_the_same, "the same token twice"),
    ],
)
def test_a_broken_vocabulary_is_damage(tmp_path: Path, write: Any, said: str) -> None:
    with pytest.raises(BadCheckpoint, match=said):
        built(tmp_path, write)


def test_unknown_ways_are_named(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModel, match="'qwen35'"):
        built(tmp_path, lambda writer: byte_level_tokenizer(writer, "qwen35"))
    with pytest.raises(UnsupportedModel, match="'rwkv'"):
        built(tmp_path, of_a_new_kind)
