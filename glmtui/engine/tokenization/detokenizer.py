"""Detokenizer: token ids to text in pieces, whole characters only. Knows no model."""

from __future__ import annotations

import codecs
from collections.abc import Callable


class Detokenizer:
    """Joins the bytes of tokens to text, holding back a character until all its bytes are there.

    Bytes that can never become a character turn into U+FFFD, as ``bytes.decode`` has it, so the
    pieces together are always the decoded whole.

    Args:
        token_bytes: the bytes of one id; see `api.Tokenizer.token_bytes`.
        strips_leading_space: drop one space at the very start, which SentencePiece puts before
            the first word.
    """

    def __init__(
        self, token_bytes: Callable[[int], bytes], *, strips_leading_space: bool = False
    ) -> None:
        self._token_bytes = token_bytes
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._at_start = strips_leading_space

    def feed(self, token_id: int) -> str:
        """The text that this id completes; empty while a character is still open."""
        return self._trimmed(self._decoder.decode(self._token_bytes(token_id)))

    def flush(self) -> str:
        """What is left at the end: U+FFFD for a character that was never completed."""
        return self._trimmed(self._decoder.decode(b"", final=True))

    def _trimmed(self, text: str) -> str:
        if self._at_start and text:
            self._at_start = False
            return text.removeprefix(" ")
        return text
