"""Converts a SentencePiece file to a tokenizer of the `tokenizers` library.

A Llama folder can have tokenizer.model without tokenizer.json. The file is parsed here; its format
is src/sentencepiece_model.proto in google/sentencepiece.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from glmtui.engine.tokenization.sandbox.backend import InvalidTokenizer

UNIGRAM, BPE = 1, 2  # TrainerSpec.ModelType
UNKNOWN, CONTROL, USER_DEFINED = 2, 3, 4  # SentencePiece.Type
SPACE = "▁"
MAX_CHARACTERS = 256  # of a piece; every split of each piece is looked up
MAX_ADDED = 100_000  # tokens beside the pieces of the file


@dataclass(frozen=True, slots=True)
class SentencePieceModel:
    """The content of a SentencePiece file.

    Attributes:
        pieces: text, score and type of each piece.
        kind: UNIGRAM, BPE or another TrainerSpec.ModelType.
        leading_space: whether a space is added before a text.
    """

    pieces: Sequence[tuple[str, float, int]]
    kind: int
    leading_space: bool


def read_sentencepiece_model(content: bytes) -> SentencePieceModel:
    """Parses a file. Raises InvalidTokenizer."""
    pieces, kind, leading_space = [], UNIGRAM, True
    try:
        for field, value in _fields(content):
            if field == 1:
                piece = dict(_fields(_bytes(value)))
                score = struct.unpack("<f", _bytes(piece.get(2, bytes(4))))[0]
                pieces.append((_bytes(piece.get(1, b"")).decode(), score, piece.get(3, 1)))
            elif field == 2:
                kind = dict(_fields(_bytes(value))).get(3, UNIGRAM)
            elif field == 3:
                leading_space = bool(dict(_fields(_bytes(value))).get(3, True))
    except (IndexError, ValueError, TypeError, struct.error) as error:
        raise InvalidTokenizer(f"it is not a SentencePiece file ({error})") from error
    if not pieces:
        raise InvalidTokenizer("it is not a SentencePiece file: it has no pieces")
    return SentencePieceModel(pieces, kind, leading_space)


def build_tokenizer(
    model: SentencePieceModel, added: Mapping[int, Mapping[str, Any]], legacy: bool
) -> Any:
    """The `tokenizers.Tokenizer`, as transformers 5 builds it (models/llama/tokenization_llama.py).

    Args:
        added: keyword arguments of AddedToken, by id. New ids follow those of the pieces.
        legacy: whether a space is added before every part between special tokens, instead of
            before the whole text.

    Raises:
        InvalidTokenizer: the model is not BPE, an added token does not fit, or a limit is exceeded.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    if model.kind != BPE:
        raise InvalidTokenizer(f"its pieces are of type {model.kind}; only BPE (2) is supported")
    texts = [piece for piece, _score, _kind in model.pieces]
    if max(map(len, texts)) > MAX_CHARACTERS or len(added) > MAX_ADDED:
        raise InvalidTokenizer("it has a piece that is too long, or too many added tokens")
    ids = {piece: n for n, piece in enumerate(texts)}
    if len(ids) != len(texts):
        raise InvalidTokenizer("it has a piece twice")
    unknown = next((piece for piece, _, kind in model.pieces if kind == UNKNOWN), None)
    bpe = models.BPE(ids, _merges(model), unk_token=unknown, fuse_unk=True, byte_fallback=True)
    tokenizer = Tokenizer(bpe)
    steps: list[Any] = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    if model.leading_space:
        steps.append(decoders.Strip(" ", 1, 0))
    scheme = ("always" if legacy else "first") if model.leading_space else "never"
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(SPACE, prepend_scheme=scheme, split=False)
    tokenizer.decoder = decoders.Sequence(steps)
    entries: dict[int, Mapping[str, Any]] = {
        n: {"content": piece, "normalized": False, "special": kind != USER_DEFINED}
        for n, (piece, _score, kind) in enumerate(model.pieces)
        if kind in (UNKNOWN, CONTROL, USER_DEFINED)
    }
    entries |= {n: {**entry, "normalized": False} for n, entry in added.items()}
    tokens = [AddedToken(**entry) for _n, entry in sorted(entries.items())]
    tokenizer.add_tokens(tokens)
    for n, token in zip(sorted(entries), tokens, strict=True):
        if tokenizer.token_to_id(token.content) != n:
            raise InvalidTokenizer(f"the added token {token.content[:40]!r} does not have id {n}")
    return tokenizer


def _merges(model: SentencePieceModel) -> list[tuple[str, str]]:
    """All pairs of pieces that together are a piece, best score of the whole first."""
    scores = {piece: score for piece, score, kind in model.pieces if kind not in (UNKNOWN, CONTROL)}
    ids = {piece: n for n, (piece, _score, _kind) in enumerate(model.pieces)}
    merges = [
        (-score, ids[piece[:cut]], ids[piece[cut:]], piece[:cut], piece[cut:])
        for piece, score in scores.items()
        for cut in range(1, len(piece))
        if piece[:cut] in scores and piece[cut:] in scores
    ]
    return [(left, right) for _score, _left, _right, left, right in sorted(merges)]


def _fields(content: bytes) -> Iterator[tuple[int, Any]]:
    """Number and value (an int, or bytes) of each field of a protobuf message."""
    position = 0
    while position < len(content):
        key, position = _varint(content, position)
        if key & 7 == 0:
            value, position = _varint(content, position)
            yield key >> 3, value
            continue
        length = {1: 8, 5: 4}.get(key & 7)
        if key & 7 == 2:
            length, position = _varint(content, position)
        if length is None or position + length > len(content):
            raise ValueError(f"error at byte {position:,}")
        yield key >> 3, content[position : position + length]
        position += length


def _varint(content: bytes, position: int) -> tuple[int, int]:
    """A varint, and the position after it."""
    number = 0
    for shift in range(0, 70, 7):
        byte = content[position]
        position += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, position
    raise ValueError(f"error at byte {position:,}")


def _bytes(value: object) -> bytes:
    if not isinstance(value, bytes):
        raise TypeError("a number instead of text")
    return value
