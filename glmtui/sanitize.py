"""Text from models, files and servers, made safe to show: what would act or hide is made visible.

A terminal obeys control characters wherever they come from, and an invisible character can make
text read otherwise than it is. Neither is dropped, for then a reader would not know: control
characters become their pictures (ESC is ␛), the rest �. Joiners, which emoji and Indic and
Persian words need, and variation selectors stay. No character drawn in one place is made of more
than a few dozen: terminals take seconds for one with thousands of accents. Knows nothing of markup,
widths or screens.
"""

from __future__ import annotations

import re
import unicodedata

# What a reader cannot see: soft hyphen; marks, embeddings, overrides and isolates of the
# bidirectional algorithm (CVE-2021-42574); zero-width spaces and operators; interlinear
# annotations; tags. And lone surrogates, which no terminal's encoding can carry.
_UNSEEN = (
    "\u00ad\u061c\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\U000e0000-\U000e007f\ud800-\udfff"
)
_UNSAFE = re.compile(rf"\r\n|[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029{_UNSEEN}]")

MOST_MARKS = 30
"""Characters that are drawn in the place of the one before them: accents, vowel signs, selectors,
joiners and what they join. The Stream-Safe Text Format (UAX #15) allows as many; no language comes
near. One more becomes �, which ends the run."""

# What may be a run of marks: all that is no letter, without blocks of wide symbols; Hangul vowels
# and finals, which are letters; and whatever follows a joiner. No character fits two of the three,
# and a run is read once: no text makes it slow.
_MARKS = re.compile(
    r"(?:(?<!\u200d)[^\w\s\x00-\xbf\u2010-\u20cf\u2100-\u2bff\u3000-\u3029\uff00-\uff60"
    r"\U0001f000-\U0001f3fa\U0001f400-\U0001faff]"
    r"|(?<!\u200d)[\u1160-\u11ff\ud7b0-\ud7ff]"
    r"|(?<=\u200d)[^\n\ufffd])+"
)
# What may need a name in `every_character`; its category says whether it does.
_NOT_PLAIN = re.compile(r" {2,}|[^ -~]")
# Letters, marks and symbols that are drawn as nothing or as a space, and pictures of characters.
_NO_SHAPE = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2400-\u2426\u2800\u3164\ufe00-\ufe0f\uffa0"
    "\U000e0100-\U000e01ef]"
)
_MARK_CATEGORIES = ("Mn", "Me", "Mc", "Cf", "Cn")
_JOINER = "\u200d"

_BREAKS = re.compile(r"\s*[\n\t]\s*")

_LINE_ENDS = frozenset(("\r\n", "\u2028", "\u2029"))
_PICTURES = 0x2400
_PICTURE_OF_DELETE = "\u2421"
_UNKNOWN = "\ufffd"


def visible(text: str) -> str:
    r"""`text` with every character that acts on a terminal or hides from a reader made visible.

    Newlines and tabs stay; ``\r\n`` and Unicode's line separators become ``\n``. The result holds
    no C0 (but ``\n`` and ``\t``), DEL, C1, bidirectional control or lone surrogate, and cleaning
    it again changes nothing. But for a ``\r\n`` and a run of more than `MOST_MARKS`, each character
    is judged alone; `VisibleStream` cleans the pieces of a stream as it would the whole.
    """
    if not text.replace("\n", "").isprintable():  # several times as fast to find out
        text = _UNSAFE.sub(_picture, text)
    return text if text.isascii() else _MARKS.sub(_thinned, text)


def one_line(text: str) -> str:
    """`visible` text on one line, for titles and names: breaks and tabs become a space."""
    return (
        text if text.isascii() and text.isprintable() else _BREAKS.sub(" ", visible(text))
    ).strip()


def every_character(text: str) -> str:
    """`text` on one line, with nothing in it that cannot be seen: for what a user has to approve.

    Line breaks are ␤, tabs ␉, other control characters their pictures, spaces beside a space ␣;
    spaces of other widths and whatever else has no shape of its own is written as <U+200B>, and so
    is a picture that stands in the text itself.
    """
    return _NOT_PLAIN.sub(_named, text)


class VisibleStream:
    r"""`visible` for text that comes in pieces: the pieces' results together are the whole's.

    A ``\r`` at the end of a piece waits for the next, which may begin with its ``\n``; marks are
    counted from one piece to the next.
    """

    def __init__(self) -> None:
        self._waiting = ""
        self._before = ""  # the end of what was shown

    def feed(self, piece: str) -> str:
        """What can be shown of all that came so far and was not shown yet."""
        text = self._waiting + piece
        self._waiting = "\r" if text.endswith("\r") else ""
        return self._shown(text[: len(text) - len(self._waiting)])

    def end(self) -> str:
        """What was still waiting."""
        text, self._waiting = self._waiting, ""
        return self._shown(text)

    def _shown(self, text: str) -> str:
        shown = visible(self._before + text)[len(self._before) :]
        self._before = (self._before + shown)[-MOST_MARKS - 1 :]
        return shown


def _picture(found: re.Match[str]) -> str:
    char = found.group()
    if char in _LINE_ENDS:
        return "\n"
    if char < " ":
        return chr(_PICTURES + ord(char))
    return _PICTURE_OF_DELETE if char == "\x7f" else _UNKNOWN


def _named(found: re.Match[str]) -> str:
    part = found.group()
    if part[0] == " ":
        return "␣" * len(part)
    if part == "\n":
        return "␤"
    if part < " ":
        return chr(_PICTURES + ord(part))
    shown = unicodedata.category(part)[0] in "LMNPS" and not _NO_SHAPE.match(part)
    return part if shown else f"<U+{ord(part):04X}>"


def _thinned(found: re.Match[str]) -> str:
    """What may be a run of marks, with each that is one too many made visible."""
    if found.end() - found.start() <= MOST_MARKS:
        return found.group()
    chars = list(found.group())
    before = found.string[found.start() - 1 : found.start()]
    run = 0
    for n, char in enumerate(chars):
        if char == _UNKNOWN or (before != _JOINER and not _is_mark(char)):
            run = 0
        elif run == MOST_MARKS:
            chars[n], run = _UNKNOWN, 0
        else:
            run += 1
        before = chars[n]
    return "".join(chars)


def _is_mark(char: str) -> bool:
    return (
        unicodedata.category(char) in _MARK_CATEGORIES
        or "\u1160" <= char <= "\u11ff"
        or "\ud7b0" <= char <= "\ud7ff"
        or "\U0001f3fb" <= char <= "\U0001f3ff"
    )
