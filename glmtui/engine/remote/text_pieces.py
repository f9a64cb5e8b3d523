"""Text that a server cuts anywhere: a character whose parts come in several pieces is made whole.

Some servers cut by UTF-16 units, so that one piece ends with half of a surrogate pair; some cut by
bytes, so that a piece ends within a character's UTF-8. Such bytes are expected as `decode` leaves
them, as the surrogates U+DC80 to U+DCFF (PEP 383).
"""

from __future__ import annotations

import codecs
import re

_SURROGATES = re.compile("[\ud800-\udfff]")
_PAIR = re.compile("[\ud800-\udbff][\udc00-\udfff]")
_BYTES = re.compile("[\udc80-\udcff]+")


def decode(raw: bytes) -> str:
    """UTF-8 as text, every byte that is none as one surrogate."""
    return raw.decode("utf-8", "surrogateescape")


def whole_characters(text: str) -> str:
    """`text` with its surrogate pairs and bytes joined, and U+FFFD for what stays incomplete.

    A lone surrogate is valid in JSON, and cannot be written to any file.
    """
    if not _SURROGATES.search(text):
        return text
    text = _PAIR.sub(lambda pair: pair[0].encode("utf-16", "surrogatepass").decode("utf-16"), text)
    text = _BYTES.sub(lambda run: _raw(run[0]).decode("utf-8", "replace"), text)
    return _SURROGATES.sub("\ufffd", text)


class TextPieces:
    """Pieces of one text; holds back the beginning of a character until the rest comes."""

    def __init__(self) -> None:
        self._held = ""

    def add(self, piece: str) -> str:
        """What `piece` completes: whole characters."""
        text, self._held = self._held + piece, ""
        if not text or not _SURROGATES.match(text[-1]):
            return whole_characters(text)
        size = _incomplete(text)
        if size:
            text, self._held = text[:-size], text[-size:]
        return whole_characters(text)

    def end(self) -> str:
        """What was held back, as U+FFFD; empty mostly."""
        text, self._held = self._held, ""
        return whole_characters(text)


def _incomplete(text: str) -> int:
    """How many characters at the end of `text` are the beginning of one."""
    if "\ud800" <= text[-1] <= "\udbff":
        return 1
    run = re.search("(?<![\ud800-\udbff])[\udc80-\udcff]{1,3}$", text)
    if run is None:
        return 0
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    decoder.decode(_raw(run[0]))
    return len(decoder.getstate()[0])


def _raw(run: str) -> bytes:
    return run.encode("utf-8", "surrogateescape")
