"""Characters as a reader sees them: where a cursor may stand, and how wide they are drawn.

A simple part of Unicode's rules (UAX #29): marks, joiners and modifiers belong to what is before
them, and two regional indicators are a flag. Pure functions of text.
"""

from __future__ import annotations

import re
import unicodedata

from rich.cells import cell_len

_UNSTEADY = re.compile("[\u200d\ufe0f\U0001f3fb-\U0001f3ff\U000e0020-\U000e007f]")
_JOINER = "\u200d"
_MODIFIERS = ("\U0001f3fb", "\U0001f3ff")
_FLAG_LETTERS = "".join(map(chr, range(0x1F1E6, 0x1F200)))
_TAGS = ("\U000e0020", "\U000e007f")


def before(line: str, column: int) -> int:
    """The last place before this one; 0 at the beginning."""
    at = max(0, column - 1)
    while at > 0 and not _may_stand(line, at):
        at -= 1
    return at


def after(line: str, column: int) -> int:
    """The next place after this one; the end of the line at its end."""
    at = min(len(line), column + 1)
    while at < len(line) and not _may_stand(line, at):
        at += 1
    return at


def steady(text: str) -> str:
    """`text` with nothing in it that terminals draw in different widths, and of the same width.

    Of an emoji made of several, or in a variant, the first is drawn: one terminal takes a family
    for two cells and another for six, and the row would run over into the next.
    """
    if not _UNSTEADY.search(text):
        return text
    drawn = []
    at = 0
    while at < len(text):
        end = after(text, at)
        part, at = text[at:end], end
        if _UNSTEADY.search(part):
            part = part[0] + " " * (cell_len(part) - cell_len(part[0]))
        drawn.append(part)
    return "".join(drawn)


def _may_stand(line: str, at: int) -> bool:
    """Whether a place inside a line is between two characters."""
    char = line[at]
    if char == _JOINER or unicodedata.category(char) in ("Mn", "Me", "Mc"):
        return False
    if _MODIFIERS[0] <= char <= _MODIFIERS[1] or _TAGS[0] <= char <= _TAGS[1]:
        return False
    if line[at - 1] == _JOINER and unicodedata.category(char) == "So":
        return False
    if char in _FLAG_LETTERS:
        letters = at - len(line[:at].rstrip(_FLAG_LETTERS))
        return letters % 2 == 0
    return True
