"""Repairs characters that a server splits over several pieces of text.

Some servers split at UTF-16 code units, so that a piece ends with half of a surrogate pair. Others
split at bytes, so that a piece ends within the UTF-8 of a character; `decode_utf8` represents such
bytes as the surrogates U+DC80 to U+DCFF (PEP 383).
"""

from __future__ import annotations

import codecs
import re

_SURROGATES = re.compile("[\ud800-\udfff]")
_PAIR = re.compile("[\ud800-\udbff][\udc00-\udfff]")
_BYTES = re.compile("[\udc80-\udcff]+")


def decode_utf8(raw: bytes) -> str:
    """Decode UTF-8, with a surrogate for each invalid byte."""
    return raw.decode("utf-8", "surrogateescape")


def repair_surrogates(text: str) -> str:
    """Join surrogate pairs and escaped bytes to characters; the others become U+FFFD.

    Lone surrogates are valid in JSON but cannot be written to a file.
    """
    if not _SURROGATES.search(text):
        return text
    text = _PAIR.sub(lambda pair: pair[0].encode("utf-16", "surrogatepass").decode("utf-16"), text)
    text = _BYTES.sub(lambda run: _escaped_bytes(run[0]).decode("utf-8", "replace"), text)
    return _SURROGATES.sub("\ufffd", text)


class SurrogateRepairer:
    """`repair_surrogates` for text in pieces: holds back an incomplete character."""

    def __init__(self) -> None:
        self._pending = ""

    def feed(self, piece: str) -> str:
        """Add a piece and return the characters that are complete now."""
        text, self._pending = self._pending + piece, ""
        if not text or not _SURROGATES.match(text[-1]):
            return repair_surrogates(text)
        size = _incomplete_length(text)
        if size:
            text, self._pending = text[:-size], text[-size:]
        return repair_surrogates(text)

    def flush(self) -> str:
        """Return an incomplete character as U+FFFD, at the end of the text."""
        text, self._pending = self._pending, ""
        return repair_surrogates(text)


def _incomplete_length(text: str) -> int:
    """How many code points at the end of `text` are the beginning of a character."""
    if "\ud800" <= text[-1] <= "\udbff":
        return 1
    run = re.search("(?<![\ud800-\udbff])[\udc80-\udcff]{1,3}$", text)
    if run is None:
        return 0
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    decoder.decode(_escaped_bytes(run[0]))
    return len(decoder.getstate()[0])


def _escaped_bytes(run: str) -> bytes:
    return run.encode("utf-8", "surrogateescape")
