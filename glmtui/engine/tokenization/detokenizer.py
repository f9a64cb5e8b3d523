"""Detokenizer: token ids to text, in pieces of whole characters."""

from __future__ import annotations

import codecs
from collections.abc import Callable


class Detokenizer:
    """Decodes tokens one by one; holds back a character until all its bytes have arrived.

    Bytes that cannot become a character turn into U+FFFD as in ``bytes.decode``, so the pieces
    joined are always the decoded whole.

    Args:
        token_bytes: the bytes of one id; see `protocols.Tokenizer.token_bytes`.
        strips_leading_space: whether to drop one space at the start, which SentencePiece adds
            before the first word.
    """

    def __init__(
        self, token_bytes: Callable[[int], bytes], *, strips_leading_space: bool = False
    ) -> None:
        self._token_bytes = token_bytes
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._strip_next = strips_leading_space

    def feed(self, token_id: int) -> str:
        """The text that this id completes; empty while a character is incomplete."""
        return self._strip(self._decoder.decode(self._token_bytes(token_id)))

    def flush(self) -> str:
        """The rest at the end: U+FFFD for an incomplete character."""
        return self._strip(self._decoder.decode(b"", final=True))

    def _strip(self, text: str) -> str:
        if self._strip_next and text:
            self._strip_next = False
            return text.removeprefix(" ")
        return text
