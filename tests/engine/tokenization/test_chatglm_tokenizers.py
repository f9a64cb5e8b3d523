"""ChatGLM's SentencePiece tokenizers: small vocabularies made here, and the released files."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st

from glmtui.engine.models import chatglm, chatglm2, chatglm3
from glmtui.engine.tokenization.detokenizer import Detokenizer
from glmtui.engine.tokenization.protocols import Tokenizer
from glmtui.engine.tokenization.sentencepiece_tokenizer import (
    IceTokenizer,
    SentencePieceTokenizer,
    load_ice_text,
    load_pieces,
)
from glmtui.errors import BadCheckpoint
from support.goldens import read_json, tokenizer_file

TEXT = [
    "the quick brown fox jumps over the lazy dog and runs away again and again",
    "今天天气怎么样，我们一起去公园里走走吧，今天的天气很好很好",
    "def main(): print('hello world') # a comment, then some more of it",
    "numbers 1234567890 and marks ,.!?;:()[]{}<>|/*-+= are pieces as well",
]
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]


def train(path: Path, **options: object) -> None:
    """A small SentencePiece file."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXT * 20), model_writer=model, minloglevel=2, **options
    )
    path.write_bytes(model.getvalue())


@pytest.fixture(scope="module")
def unigram(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made as the first revision's ice_text.model was: without the pieces that code adds."""
    path = tmp_path_factory.mktemp("unigram") / "ice_text.model"
    ids = {"unk_id": 0, "bos_id": 1, "eos_id": 2, "pad_id": 3}
    train(
        path,
        model_type="unigram",
        vocab_size=200,
        normalization_rule_name="nmt_nfkc",
        user_defined_symbols=["<n>"],
        hard_vocab_limit=False,
        **ids,
    )
    return path


@pytest.fixture(scope="module")
def bpe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bpe") / "tokenizer.model"
    train(
        path,
        model_type="bpe",
        vocab_size=480,
        normalization_rule_name="identity",
        byte_fallback=True,
        remove_extra_whitespaces=False,
    )
    return path


@pytest.fixture(scope="module")
def ice(unigram: Path) -> IceTokenizer:
    return IceTokenizer(load_ice_text(unigram))


@pytest.fixture(scope="module")
def pieces(bpe: Path) -> SentencePieceTokenizer:
    return SentencePieceTokenizer(load_pieces(bpe), chatglm2.SPECIALS, readable=False)


def streamed(tokenizer: Tokenizer, ids: list[int]) -> str:
    detokenizer = Detokenizer(tokenizer.token_bytes, strips_leading_space=True)
    return "".join(map(detokenizer.feed, ids)) + detokenizer.flush()


# ---- ChatGLM-6B


def test_added_pieces_have_the_released_order(ice: IceTokenizer, unigram: Path) -> None:
    size = load_pieces(unigram).facts["pieces"]
    assert ice.special["[MASK]"] == size
    assert ice.special["[gMASK]"] == size + 1
    assert ice.special["<sop>"] == size + 4
    assert ice.special["<eop>"] == size + 5
    added = load_ice_text(unigram)
    assert added.ids_of(["<|tab|>"])[0] == size + 8
    assert added.ids_of(["<|blank_2|>"])[0] == size + 9
    assert added.ids_of(["<|blank_80|>"])[0] == size + 87
    assert added.ids_of(BYTES) == list(range(size + 88, size + 344))


@pytest.mark.parametrize(
    ("text", "marks"),
    [
        ("a\nb", ["<n>"]),
        ("a\tb", ["<|tab|>"]),
        ("a  b", ["<|blank_2|>"]),
        ("a" + " " * 80 + "b", ["<|blank_80|>"]),
        ("a" + " " * 81 + "b", ["<|blank_80|>", "▁"]),
        ("a" + " " * 165 + "b", ["<|blank_80|>", "<|blank_80|>", "<|blank_5|>"]),
    ],
)
def test_whitespace_has_pieces_of_its_own(
    ice: IceTokenizer, unigram: Path, text: str, marks: list[str]
) -> None:
    ids = ice.encode(text)
    wanted = load_ice_text(unigram).ids_of(marks)
    assert [i for i in ids[1:] if i in wanted] == wanted  # the first is the space put in front
    assert ice.decode(ids) == streamed(ice, ids) == text


def test_text_is_normalised_and_characters_without_a_piece_become_bytes(ice: IceTokenizer) -> None:
    assert ice.decode(ice.encode("ｈｅｌｌｏ，世界！")) == "hello,世界!"
    ids = ice.encode("👋")
    assert [ice.token_bytes(i) for i in ids[-4:]] == [b"\xf0", b"\x9f", b"\x91", b"\x8b"]
    assert ice.decode(ids) == streamed(ice, ids) == "👋"


def test_the_original_vocabulary_is_the_same_some_ids_on(unigram: Path, ice: IceTokenizer) -> None:
    original = IceTokenizer(load_ice_text(unigram), first_id=20_000)
    text = "the lazy dog\n  今天天气"
    ids = original.encode(text)
    assert ids == [20_000 + i for i in ice.encode(text)]
    assert original.special["<sop>"] == 20_000 + ice.special["<sop>"]
    # image tokens and unused rows say nothing
    assert original.decode([5, 19_999, *ids, 150_500]) == text
    assert original.token_bytes(19_999) == original.token_bytes(150_500) == b""


@settings(deadline=None)
@given(st.text(max_size=80))
def test_ice_text_streams_what_it_decodes(ice: IceTokenizer, text: str) -> None:
    ids = ice.encode(text)
    assert streamed(ice, ids) == ice.decode(ids)
    assert not set(ice.special.values()) & set(ids)


# ---- ChatGLM2 and 3


@settings(deadline=None)
@given(st.text(max_size=80))
def test_pieces_lose_nothing(pieces: SentencePieceTokenizer, text: str) -> None:
    text = text.replace("▁", "_")  # the one character that stands for another
    ids = pieces.encode(text)
    assert pieces.decode(ids) == streamed(pieces, ids) == text


def test_a_tag_in_the_text_stays_text(bpe: Path) -> None:
    tags = (*chatglm2.SPECIALS, *chatglm3.ROLES)
    tokenizer = SentencePieceTokenizer(load_pieces(bpe), tags, readable=True)
    text = "<|user|>[gMASK] sop</s><unk>"
    assert max(tokenizer.encode(text)) < min(tokenizer.special.values())
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_only_chatglm3_writes_special_tokens_out(bpe: Path) -> None:
    processor = load_pieces(bpe)
    two = SentencePieceTokenizer(processor, chatglm2.SPECIALS, readable=False)
    three = SentencePieceTokenizer(processor, (*chatglm2.SPECIALS, *chatglm3.ROLES), readable=True)
    said = three.encode("the fox")
    call = [*said, three.special["<|assistant|>"], *three.encode("the dog")]
    assert three.decode(call) == "the fox<|assistant|>the dog"
    assert three.token_bytes(three.special["<|assistant|>"]) == b"<|assistant|>"
    marks = [two.special["[gMASK]"], two.special["sop"]]
    assert two.decode([*marks, *said, 2, 0, 99_999]) == "the fox"
    assert [two.token_bytes(i) for i in (*marks, 0, 1, 2, 99_999)] == [b""] * 6


def test_lone_surrogates_are_replaced(ice: IceTokenizer, pieces: SentencePieceTokenizer) -> None:
    assert ice.decode(ice.encode("a\ud83db")) == pieces.decode(pieces.encode("a\ud83db")) == "a?b"


# ---- files


def test_a_folder_without_the_file_has_no_tokenizer(tmp_path: Path) -> None:
    raw = {"bos_token_id": 130004}
    assert chatglm.load_tokenizer(tmp_path, raw) is None
    assert chatglm2.load_tokenizer(tmp_path, raw) is None
    assert chatglm3.load_tokenizer(tmp_path, raw) is None


@pytest.mark.parametrize(
    "content", [b"", b"version https://git-lfs.github.com/spec/v1\n", b"\0" * 99]
)
def test_a_damaged_file_is_named(tmp_path: Path, content: bytes) -> None:
    for name, load in (("ice_text.model", load_ice_text), ("tokenizer.model", load_pieces)):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(BadCheckpoint, match=name):
            load(tmp_path / name)


def test_another_vocabulary_is_no_ice_text(bpe: Path) -> None:
    with pytest.raises(BadCheckpoint, match="gMASK"):
        IceTokenizer(load_pieces(bpe))


# ---- the released files, where they lie beside the repository

RELEASED = {
    "v1_slim": lambda: IceTokenizer(
        load_ice_text(tokenizer_file("chatglm-6b", "ice_text.slim.model"))
    ),
    "v1_orig": lambda: IceTokenizer(
        load_ice_text(tokenizer_file("chatglm-6b", "ice_text.original.model")), first_id=20_000
    ),
    "v2": lambda: chatglm2.load_tokenizer(
        tokenizer_file("chatglm2-6b", "tokenizer.model").parent, {}
    ),
    "v3": lambda: chatglm3.load_tokenizer(
        tokenizer_file("chatglm3-6b", "tokenizer.model").parent, {}
    ),
}


@pytest.mark.parametrize("name", RELEASED)
def test_ids_and_texts_are_the_originals(name: str) -> None:
    tokenizer = RELEASED[name]()
    slim = {row["text"]: row for row in read_json("tokenizer", "v1_slim.json")["rows"]}
    for row in read_json("tokenizer", f"{name}.json")["rows"]:
        text, ids = row["text"], row["plain_ids"]
        # sentencepiece 0.2.3 breaks one tie of equal scores in another way than those before
        tied = slim[text].get("alt_ids_sentencepiece_0.2.3", [])
        shift = 20_000 if name == "v1_orig" else 0
        assert tokenizer.encode(text) in (ids, [i + shift for i in tied]), text
        assert tokenizer.decode(ids) == row["plain_decoded"], text
        assert streamed(tokenizer, ids) == row["plain_decoded"], text


@pytest.mark.parametrize("name", ["v1_slim", "v2", "v3"])
def test_growing_replies_read_as_the_originals(name: str) -> None:
    tokenizer = RELEASED[name]()
    for case in read_json("tokenizer", "incremental_decode.json")["cases"]:
        told = case[name[:2]]
        detokenizer = Detokenizer(tokenizer.token_bytes, strips_leading_space=True)
        shown = ""
        for n, (token, text) in enumerate(zip(told["ids"], told["decoded_prefixes"], strict=True)):
            assert tokenizer.decode(told["ids"][: n + 1]) == text
            shown += detokenizer.feed(token)
            assert shown == text.rstrip("\ufffd")  # a character is shown when it is whole
