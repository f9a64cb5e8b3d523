"""Makes text from models, files and servers safe to display in a terminal.

A terminal obeys control characters from any source, and invisible characters can make text read
differently from what it is. They are replaced by a visible sign, never removed, so that the reader
sees that something was there. Joiners and variation selectors, which emoji need, are kept.
"""

from __future__ import annotations

import re
import unicodedata
from typing import NewType

SafeText = NewType("SafeText", str)
"""Text that was sanitized: safe to write to a terminal or to display in a widget."""

# Invisible characters: soft hyphen; marks, embeddings, overrides and isolates of the bidirectional
# algorithm (CVE-2021-42574); zero-width spaces and operators; interlinear annotations; tags. And
# lone surrogates, which no terminal encoding can represent.
_INVISIBLE = (
    "\u00ad\u061c\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\U000e0000-\U000e007f\ud800-\udfff"
)
_UNSAFE = re.compile(rf"\r\n|[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029{_INVISIBLE}]")

MAX_MARKS = 30
"""Limit of combining characters after one base character: accents, vowel signs, selectors, joiners
and what they join. Terminals take seconds to draw thousands of them. The Stream-Safe Text Format
(UAX #15) has the same limit, and no language comes near it. The next one becomes U+FFFD, which ends
the sequence."""

# Candidates for a sequence of combining characters: everything that is not a letter, without blocks
# of wide symbols; Hangul vowels and finals, which are letters; and any character after a joiner. No
# character fits two of the three alternatives, so matching takes linear time on any text.
_MARKS = re.compile(
    r"(?:(?<!\u200d)[^\w\s\x00-\xbf\u2010-\u20cf\u2100-\u2bff\u3000-\u3029\uff00-\uff60"
    r"\U0001f000-\U0001f3fa\U0001f400-\U0001faff]"
    r"|(?<!\u200d)[\u1160-\u11ff\ud7b0-\ud7ff]"
    r"|(?<=\u200d)[^\n\ufffd])+"
)
# Characters that `show_all_characters` may have to spell out, depending on their category.
_NOT_PLAIN = re.compile(r" {2,}|[^ -~]")
# Letters, marks and symbols that are drawn as nothing or as a space, and the control pictures.
_NO_SHAPE = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2400-\u2426\u2800\u3164\ufe00-\ufe0f\uffa0"
    "\U000e0100-\U000e01ef]"
)
_MARK_CATEGORIES = ("Mn", "Me", "Mc", "Cf", "Cn")
_JOINER = "\u200d"

_BREAKS = re.compile(r"\s*[\n\t]\s*")

_LINE_ENDS = frozenset(("\r\n", "\u2028", "\u2029"))
_CONTROL_PICTURES = 0x2400  # U+2400 + n is the picture of control character n
_DELETE_PICTURE = "\u2421"
_REPLACEMENT = "\ufffd"


def sanitize(text: str) -> SafeText:
    r"""Replace every character that acts on a terminal or is invisible by a visible sign.

    Control characters become their control pictures (ESC becomes U+241B), the others U+FFFD.
    Newlines and tabs stay; ``\r\n`` and Unicode line separators become ``\n``. The result holds no
    C0 (except ``\n`` and ``\t``), DEL, C1, bidirectional control or lone surrogate, and at most
    `MAX_MARKS` combining characters in sequence. The function is idempotent. To sanitize text that
    arrives in pieces use `StreamSanitizer`.
    """
    if not text.replace("\n", "").isprintable():  # several times faster than the expression
        text = _UNSAFE.sub(_replacement, text)
    return SafeText(text if text.isascii() else _MARKS.sub(_limit_marks, text))


def sanitize_line(text: str) -> SafeText:
    """`sanitize` for titles and names: line breaks and tabs become one space."""
    if not (text.isascii() and text.isprintable()):
        text = _BREAKS.sub(" ", sanitize(text))
    return SafeText(text.strip())


def show_all_characters(text: str) -> SafeText:
    """Text on one line with nothing invisible in it, for what a user has to approve.

    Line breaks become ␤, tabs ␉, other control characters their pictures, and spaces beside a space
    ␣. Spaces of other widths, characters without a shape and control pictures that are in `text`
    itself are written as <U+200B>.
    """
    return SafeText(_NOT_PLAIN.sub(_spell_out, text))


class StreamSanitizer:
    r"""`sanitize` for text that arrives in pieces: the joined results equal that of the whole text.

    A ``\r`` at the end of a piece is held back, because the next piece may begin with ``\n``.
    """

    def __init__(self) -> None:
        self._pending = ""
        self._tail = ""  # the end of the output so far, to count combining characters

    def feed(self, piece: str) -> SafeText:
        """Add a piece and return the text that is complete now."""
        text = self._pending + piece
        self._pending = "\r" if text.endswith("\r") else ""
        return self._sanitize(text[: len(text) - len(self._pending)])

    def flush(self) -> SafeText:
        """Return what is held back, at the end of the text."""
        text, self._pending = self._pending, ""
        return self._sanitize(text)

    def _sanitize(self, text: str) -> SafeText:
        safe = sanitize(self._tail + text)[len(self._tail) :]
        self._tail = (self._tail + safe)[-MAX_MARKS - 1 :]
        return SafeText(safe)


def _replacement(match: re.Match[str]) -> str:
    char = match.group()
    if char in _LINE_ENDS:
        return "\n"
    if char < " ":
        return chr(_CONTROL_PICTURES + ord(char))
    return _DELETE_PICTURE if char == "\x7f" else _REPLACEMENT


def _spell_out(match: re.Match[str]) -> str:
    part = match.group()
    if part[0] == " ":
        return "␣" * len(part)
    if part == "\n":
        return "␤"
    if part < " ":
        return chr(_CONTROL_PICTURES + ord(part))
    has_shape = unicodedata.category(part)[0] in "LMNPS" and not _NO_SHAPE.match(part)
    return part if has_shape else f"<U+{ord(part):04X}>"


def _limit_marks(match: re.Match[str]) -> str:
    """The matched candidates, with every combining character over the limit replaced."""
    if match.end() - match.start() <= MAX_MARKS:
        return match.group()
    chars = list(match.group())
    previous = match.string[match.start() - 1 : match.start()]
    count = 0
    for n, char in enumerate(chars):
        if char == _REPLACEMENT or (previous != _JOINER and not _is_mark(char)):
            count = 0
        elif count == MAX_MARKS:
            chars[n], count = _REPLACEMENT, 0
        else:
            count += 1
        previous = chars[n]
    return "".join(chars)


def _is_mark(char: str) -> bool:
    return (
        unicodedata.category(char) in _MARK_CATEGORIES
        or "\u1160" <= char <= "\u11ff"
        or "\ud7b0" <= char <= "\ud7ff"
        or "\U0001f3fb" <= char <= "\U0001f3ff"
    )
