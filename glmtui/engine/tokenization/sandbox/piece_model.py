"""A SentencePiece file as a tokenizer of the `tokenizers` library.

Llama folders may have tokenizer.model and no tokenizer.json. Pieces, scores and settings are read
from the file itself: the format is google/sentencepiece, src/sentencepiece_model.proto. Runs in
the tokenizer's process.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

UNIGRAM, BPE = 1, 2  # TrainerSpec.ModelType
UNKNOWN, CONTROL, USER_DEFINED = 2, 3, 4  # SentencePiece.Type
SPACE = "▁"
MOST_CHARACTERS = 256  # of a piece; every cut of each is looked up
MOST_ADDED = 100_000  # tokens beside the file's own


class NotPieces(Exception):
    """The file is no SentencePiece model, or of a kind that is not read."""


@dataclass(frozen=True, slots=True)
class PieceModel:
    """What a SentencePiece file says.

    Attributes:
        pieces: text, score and type of each.
        kind: UNIGRAM, BPE or another of TrainerSpec.ModelType.
        leading_space: whether a text gets a space in front.
    """

    pieces: Sequence[tuple[str, float, int]]
    kind: int
    leading_space: bool


def read_pieces(content: bytes) -> PieceModel:
    """Raises NotPieces."""
    pieces, kind, leading = [], UNIGRAM, True
    try:
        for field, value in _fields(content):
            if field == 1:
                piece = dict(_fields(_bytes(value)))
                score = struct.unpack("<f", _bytes(piece.get(2, bytes(4))))[0]
                pieces.append((_bytes(piece.get(1, b"")).decode(), score, piece.get(3, 1)))
            elif field == 2:
                kind = dict(_fields(_bytes(value))).get(3, UNIGRAM)
            elif field == 3:
                leading = bool(dict(_fields(_bytes(value))).get(3, True))
    except (IndexError, ValueError, TypeError, struct.error) as error:
        raise NotPieces(f"it is no SentencePiece file ({error})") from error
    if not pieces:
        raise NotPieces("it is no SentencePiece file: it has no pieces")
    return PieceModel(pieces, kind, leading)


def build_tokenizer(model: PieceModel, added: Mapping[int, Mapping[str, Any]], legacy: bool) -> Any:
    """The `tokenizers.Tokenizer`, as transformers 5 makes it (models/llama/tokenization_llama.py).

    Args:
        added: by id, the keyword arguments of an AddedToken; those beyond the pieces follow them.
        legacy: whether every part between special tokens gets a space in front, or the text alone.

    Raises:
        NotPieces: not BPE, tokens that do not fit, or longer than any is.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    if model.kind != BPE:
        raise NotPieces(f"its pieces are of the kind {model.kind}; only BPE (2) is read")
    names = [piece for piece, _score, _kind in model.pieces]
    if max(map(len, names)) > MOST_CHARACTERS or len(added) > MOST_ADDED:
        raise NotPieces("it has a piece that is too long, or too many added tokens")
    ids = {piece: n for n, piece in enumerate(names)}
    if len(ids) != len(names):
        raise NotPieces("it names a piece twice")
    unknown = next((piece for piece, _, kind in model.pieces if kind == UNKNOWN), None)
    bpe = models.BPE(ids, _merges(model), unk_token=unknown, fuse_unk=True, byte_fallback=True)
    fast = Tokenizer(bpe)
    read: list[Any] = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    if model.leading_space:
        read.append(decoders.Strip(" ", 1, 0))
    scheme = ("always" if legacy else "first") if model.leading_space else "never"
    fast.pre_tokenizer = pre_tokenizers.Metaspace(SPACE, prepend_scheme=scheme, split=False)
    fast.decoder = decoders.Sequence(read)
    every: dict[int, Mapping[str, Any]] = {
        n: {"content": piece, "normalized": False, "special": kind != USER_DEFINED}
        for n, (piece, _score, kind) in enumerate(model.pieces)
        if kind in (UNKNOWN, CONTROL, USER_DEFINED)
    }
    every |= {n: {**said, "normalized": False} for n, said in added.items()}
    tokens = [AddedToken(**said) for _n, said in sorted(every.items())]
    fast.add_tokens(tokens)
    for n, token in zip(sorted(every), tokens, strict=True):
        if fast.token_to_id(token.content) != n:
            raise NotPieces(f"the added token {token.content[:40]!r} is not of the id {n}")
    return fast


def _merges(model: PieceModel) -> list[tuple[str, str]]:
    """A pair of pieces merges if the whole is a piece, best score first."""
    texts = {piece: score for piece, score, kind in model.pieces if kind not in (UNKNOWN, CONTROL)}
    ids = {piece: n for n, (piece, _score, _kind) in enumerate(model.pieces)}
    found = [
        (-score, ids[piece[:cut]], ids[piece[cut:]], piece[:cut], piece[cut:])
        for piece, score in texts.items()
        for cut in range(1, len(piece))
        if piece[:cut] in texts and piece[cut:] in texts
    ]
    return [(left, right) for _score, _left, _right, left, right in sorted(found)]


def _fields(content: bytes) -> Iterator[tuple[int, Any]]:
    """Number and value of each field of a protobuf message: an int, or bytes."""
    at = 0
    while at < len(content):
        key, at = _number(content, at)
        if key & 7 == 0:
            value, at = _number(content, at)
            yield key >> 3, value
            continue
        length = {1: 8, 5: 4}.get(key & 7)
        if key & 7 == 2:
            length, at = _number(content, at)
        if length is None or at + length > len(content):
            raise ValueError(f"unreadable at byte {at:,}")
        yield key >> 3, content[at : at + length]
        at += length


def _number(content: bytes, at: int) -> tuple[int, int]:
    """A varint, and where it ends."""
    number = 0
    for shift in range(0, 70, 7):
        byte = content[at]
        at += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, at
    raise ValueError(f"unreadable at byte {at:,}")


def _bytes(value: object) -> bytes:
    if not isinstance(value, bytes):
        raise TypeError("a number where text should be")
    return value
