"""SentencePiece vocabularies as tokenizers: ChatGLM-6B's Unigram file, ChatGLM2's and 3's BPE file.

Knows pieces, ids and the text tricks around them; knows no model, no prompt form, and no torch.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from glmtui.engine.catalog.model_folder import MAX_VOCABULARY_BYTES, read_model_file
from glmtui.engine.tokenization.bounded_tokenizer import BoundedTokenizer
from glmtui.errors import BadCheckpoint
from glmtui.language import _


class SentencePieceTokenizer:
    """ChatGLM2's and ChatGLM3's ``tokenizer.model``, as an `api.Tokenizer`.

    Special tokens are no pieces: their ids follow those of the file. `encode` never makes one, so
    a tag that a person types stays the characters it is.

    Args:
        processor: the file, loaded.
        specials: special tokens in the order of their ids.
        readable: whether `decode` writes them out. ChatGLM3's does, because ``<|assistant|>``
            inside a reply parts a remark from a tool call; ChatGLM2's does not.
    """

    strips_leading_space = True

    def __init__(
        self, processor: BoundedTokenizer, specials: Sequence[str], *, readable: bool
    ) -> None:
        self._processor = processor
        self._pieces: int = processor.facts["pieces"]
        self.special = {tag: self._pieces + i for i, tag in enumerate(specials)}
        self._readable = {i: tag for tag, i in self.special.items()} if readable else {}

    def encode(self, text: str) -> list[int]:
        return self._processor.encode_each([text])[0]

    def decode(self, ids: Sequence[int]) -> str:
        text: list[str] = []
        run: list[int] = []
        for i in ids:
            if i in self._readable:
                text += self._text(run), self._readable[i]
                run = []
            elif self._is_text(i):
                run.append(i)
        return "".join(text) + self._text(run)

    def token_bytes(self, token_id: int) -> bytes:
        if token_id in self._readable:
            return self._readable[token_id].encode()
        return self._processor.token_bytes(token_id) if self._is_text(token_id) else b""

    def _is_text(self, token_id: int) -> bool:
        return 2 < token_id < self._pieces  # 0 <unk>, which is the padding, 1 <s>, 2 </s>

    def _text(self, ids: list[int]) -> str:
        # every run loses the space that SentencePiece puts in front
        return self._processor.decode(ids) if ids else ""


class IceTokenizer:
    """ChatGLM-6B's ``ice_text.model``, as an `api.Tokenizer`.

    A newline is the piece <n>, a tab <|tab|>, 2 to 80 spaces <|blank_2|> to <|blank_80|>. The
    file normalises text on the way in (NFKC: full-width marks and letters become ASCII, control
    characters vanish), so `decode(encode(text))` is the text as the model knows it.

    Args:
        processor: the file, loaded, with all its 130,344 pieces.
        first_id: id of the first piece; 20,000 where the vocabulary begins with image tokens.

    Raises:
        BadCheckpoint: the file is another model's.
    """

    strips_leading_space = True

    def __init__(self, processor: BoundedTokenizer, first_id: int = 0) -> None:
        self._processor = processor
        self._first = first_id
        self._end: int = first_id + processor.facts["pieces"]
        ids = processor.ids_of(_CONTROLS)
        self.special = {tag: first_id + i for tag, i in zip(_CONTROLS, ids, strict=True)}
        if processor.facts["unknown"] in ids:
            raise BadCheckpoint(
                _("ice_text.model lacks pieces such as [gMASK]; it is not ChatGLM-6B's."),
                _("Fetch the model again with: glmtui pull"),
            )

    def encode(self, text: str) -> list[int]:
        text = text.replace("\n", "<n>").replace("\t", "<|tab|>")
        ids = self._processor.encode_each([_SPACES.sub(_blanks, text)])[0]
        return [self._first + i for i in ids] if self._first else ids

    def decode(self, ids: Sequence[int]) -> str:
        ours = [i - self._first for i in ids if self._first <= i < self._end]
        return _MARKS.sub(_whitespace, self._processor.decode(ours)) if ours else ""

    def token_bytes(self, token_id: int) -> bytes:
        if not self._first <= token_id < self._end:
            return b""
        piece = self._processor.token_bytes(token_id - self._first)
        if piece.startswith(b"<"):
            return _MARKS.sub(_whitespace, piece.decode("utf-8", "replace")).encode()
        return piece


def load_pieces(path: Path) -> BoundedTokenizer | None:
    """The SentencePiece file at `path`; None where there is none. Raises BadCheckpoint."""
    return _processor(path, b"") if path.is_file() else None


def load_ice_text(path: Path) -> BoundedTokenizer | None:
    """ChatGLM-6B's file, first or later revision; None where there is none. Raises BadCheckpoint.

    The first revision's file stops after 130,000 pieces; the rest was added by code. The later
    revision's file has them all.
    """
    processor = load_pieces(path)
    if processor is None or processor.ids_of(["<sop>"]) != [processor.facts["unknown"]]:
        return processor
    return _processor(path, _added_pieces())


def _processor(path: Path, added: bytes) -> BoundedTokenizer:
    """The file with more fields behind its own."""
    processor = BoundedTokenizer(
        "sentencepiece",
        lambda: read_model_file(path, MAX_VOCABULARY_BYTES) + added,
        lambda error: BadCheckpoint(
            _("{path} is not a SentencePiece vocabulary: {error}").format(path=path, error=error),
            _("Fetch the model again with: glmtui pull"),
        ),
    )
    processor.wait()
    return processor


# ---- ChatGLM-6B's whitespace

_SPACES = re.compile(" {2,}")
_MARKS = re.compile(r"<n>|<\|tab\|>|<\|blank_([2-9]|[1-7][0-9]|80)\|>")


def _blanks(spaces: re.Match[str]) -> str:
    eighties, rest = divmod(len(spaces.group()), 80)
    last = " " if rest == 1 else f"<|blank_{rest}|>" if rest else ""
    return "<|blank_80|>" * eighties + last


def _whitespace(mark: re.Match[str]) -> str:
    if mark.group(1):
        return " " * int(mark.group(1))
    return "\n" if mark.group() == "<n>" else "\t"


# ---- the pieces that the first revision's file lacks

_CONTROLS = ("[MASK]", "[gMASK]", "[sMASK]", "<unused_0>", "<sop>", "<eop>", "<ENC>", "<dBLOCK>")
_CONTROL, _USER_DEFINED, _BYTE = 3, 4, 6  # SentencePiece.Type in sentencepiece_model.proto


def _added_pieces() -> bytes:
    """Pieces 130,000 to 130,343 as a continuation of a serialised ModelProto.

    Messages of Protocol Buffers may be cut between fields and put together again by joining
    their bytes: what follows is added to repeated fields and overrides single ones.
    """
    blanks = ("<|tab|>", *(f"<|blank_{n}|>" for n in range(2, 81)))
    added = [_piece(tag, _CONTROL) for tag in _CONTROLS]
    added += [_piece(tag, _USER_DEFINED) for tag in blanks]
    added += [_piece(f"<0x{byte:02X}>", _BYTE) for byte in range(256)]
    byte_fallback = b"\x98\x02\x01"  # TrainerSpec field 35 = true
    return b"".join(added) + b"\x12" + bytes([len(byte_fallback)]) + byte_fallback


def _piece(tag: str, kind: int) -> bytes:
    """ModelProto field 1: a SentencePiece of field 1 its text, 2 its score (0.0), 3 its type."""
    text = tag.encode()
    body = b"\x0a" + bytes([len(text)]) + text + b"\x15\0\0\0\0\x18" + bytes([kind])
    return b"\x0a" + bytes([len(body)]) + body
