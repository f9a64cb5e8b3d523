"""SentencePieceBackend: a SentencePiece model file, read by Google's sentencepiece library."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any


class SentencePieceBackend:
    """A SentencePiece model file.

    Facts: ``pieces``, their number, and ``unknown``, the id of the unknown piece.
    """

    @staticmethod
    def prepare() -> None:
        """Imports the library."""
        import sentencepiece  # noqa: F401

    def __init__(self, content: bytes, options: Mapping[str, Any]) -> None:
        from sentencepiece import SentencePieceProcessor

        self._processor = SentencePieceProcessor()
        self._processor.load_from_serialized_proto(content)
        self.facts = {
            "pieces": self._processor.get_piece_size(),
            "unknown": self._processor.unk_id(),
        }

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        return [self._processor.encode(text) for text in texts]

    def decode(self, ids: Sequence[int]) -> str:
        """All ids must be pieces of the file."""
        return str(self._processor.decode(list(ids)))

    def vocabulary(self) -> Iterator[bytes]:
        return map(self._piece_bytes, range(self._processor.get_piece_size()))

    def piece_ids(self, pieces: Sequence[str]) -> list[int]:
        """The id of each piece; that of the unknown piece if it is not in the file."""
        return [self._processor.piece_to_id(piece) for piece in pieces]

    def serialize(self) -> bytes:
        """The file as the library writes it."""
        return bytes(self._processor.serialized_model_proto())

    def _piece_bytes(self, piece_id: int) -> bytes:
        if self._processor.is_control(piece_id):
            return b""
        if self._processor.is_unknown(piece_id):
            return str(self._processor.decode([piece_id])).encode()
        piece: str = self._processor.id_to_piece(piece_id)
        if self._processor.is_byte(piece_id):
            return bytes([int(piece[3:5], 16)])  # <0xE4>
        return piece.replace("▁", " ").encode()
