"""Text from models, files and servers, made safe to show: what would act or hide is made visible.

A terminal obeys control characters wherever they come from, and an invisible character can make
text read otherwise than it is. Neither is dropped, for then a reader would not know: control
characters become their pictures (ESC is ␛), the rest �. Joiners, which emoji and Indic and
Persian words need, and variation selectors stay. Knows nothing of markup, widths or screens.
"""

from __future__ import annotations

import re

# What a reader cannot see: soft hyphen; marks, embeddings, overrides and isolates of the
# bidirectional algorithm (CVE-2021-42574); zero-width spaces and operators; interlinear
# annotations; tags. And lone surrogates, which no terminal's encoding can carry.
_UNSEEN = (
    "\u00ad\u061c\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\U000e0000-\U000e007f\ud800-\udfff"
)
_UNSAFE = re.compile(rf"\r\n|[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029{_UNSEEN}]")
_BREAKS = re.compile(r"\s*[\n\t]\s*")

_LINE_ENDS = frozenset(("\r\n", "\u2028", "\u2029"))
_PICTURES = 0x2400
_PICTURE_OF_DELETE = "\u2421"
_UNKNOWN = "\ufffd"


def visible(text: str) -> str:
    r"""`text` with every character that acts on a terminal or hides from a reader made visible.

    Newlines and tabs stay; ``\r\n`` and Unicode's line separators become ``\n``. The result holds
    no C0 (but ``\n`` and ``\t``), DEL, C1, bidirectional control or lone surrogate, and cleaning
    it again changes nothing. Each character is judged alone, so the pieces of a stream may be
    cleaned one by one; only a ``\r\n`` cut in two would show its ``\r``: `VisibleStream` knows.
    """
    if text.replace("\n", "").isprintable():  # nearly all text; several times as fast to find out
        return text
    return _UNSAFE.sub(_picture, text)


def one_line(text: str) -> str:
    """`visible` text on one line, for titles and names: breaks and tabs become a space."""
    return (text if text.isprintable() else _BREAKS.sub(" ", visible(text))).strip()


class VisibleStream:
    r"""`visible` for text that comes in pieces: the pieces' results together are the whole's.

    A ``\r`` at the end of a piece waits for the next, which may begin with its ``\n``.
    """

    def __init__(self) -> None:
        self._waiting = ""

    def feed(self, piece: str) -> str:
        """What can be shown of all that came so far and was not shown yet."""
        text = self._waiting + piece
        self._waiting = "\r" if text.endswith("\r") else ""
        return visible(text[: len(text) - len(self._waiting)])

    def end(self) -> str:
        """What was still waiting."""
        text, self._waiting = self._waiting, ""
        return visible(text)


def _picture(found: re.Match[str]) -> str:
    char = found.group()
    if char in _LINE_ENDS:
        return "\n"
    if char < " ":
        return chr(_PICTURES + ord(char))
    return _PICTURE_OF_DELETE if char == "\x7f" else _UNKNOWN
