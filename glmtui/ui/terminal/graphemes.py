"""Characters as a reader sees them: where a cursor may stand, and how wide they are drawn.

A simple part of Unicode's rules (UAX #29): marks, joiners and modifiers belong to what is before
them, and two regional indicators are a flag. Pure functions of text.
"""

from __future__ import annotations

import re
import unicodedata
from string import ascii_uppercase

from rich.cells import cell_len, split_graphemes

_UNSTEADY = re.compile(
    "[\u200d\ufe0f\U0001f1e6-\U0001f1ff\U0001f3fb-\U0001f3ff\U000e0020-\U000e007f]"
)
_JOINER, _NON_JOINER = "\u200d", "\u200c"
_JOINS_NOTHING = re.compile(f"{_JOINER}(?![\u2190-\u2bff\U0001f000-\U0001faff])")
"""A joiner not before an emoji, as in Indic words: what follows is drawn in cells of its own."""
_MODIFIERS = ("\U0001f3fb", "\U0001f3ff")
_FLAG_LETTERS = "".join(map(chr, range(0x1F1E6, 0x1F200)))
_LETTERS_ALONE = frozenset(_FLAG_LETTERS)
_LETTERS = {ord(flag): letter for flag, letter in zip(_FLAG_LETTERS, ascii_uppercase, strict=True)}
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


def clusters(text: str) -> list[tuple[int, int, int]]:
    """Where each character as a reader sees it begins and ends, and the cells it takes."""
    found: list[tuple[int, int, int]] = []
    for start, end, size in split_graphemes(_JOINS_NOTHING.sub(_NON_JOINER, text))[0]:
        if text[start] in _FLAG_LETTERS and found and text[slice(*found[-1][:2])] in _LETTERS_ALONE:
            begin, _, before = found.pop()
            start, size = begin, before + size
        found.append((start, end, size))
    return found


def cells(text: str) -> int:
    """How many cells terminals draw `text` in, once it is `steady`."""
    if text.isascii() and text.isprintable():
        return len(text)
    return cell_len(_JOINS_NOTHING.sub(_NON_JOINER, text) if _JOINER in text else text)


def steady(text: str) -> str:
    """`text` with nothing in it that terminals draw in different widths, and of the same width.

    Of an emoji made of several, or in a variant, the first is drawn: one terminal takes a family
    for two cells and another for six, and the row would run over into the next. A flag is drawn
    as the letters that it is made of.
    """
    return "".join(drawn for _, drawn in steadied(text))


def steadied(text: str) -> list[tuple[int, str]]:
    """The characters of `steady` text as a reader sees them, each with its place in `text`.

    Where nothing needs it, one piece is all of the text.
    """
    if not _UNSTEADY.search(text):
        return [(0, text)]
    drawn = []
    for start, end, size in clusters(text):
        part = _JOINS_NOTHING.sub(_NON_JOINER, text[start : end + 1])[: end - start]
        part = part.translate(_LETTERS)
        if _UNSTEADY.search(part):
            first = part[0] if 0 < cell_len(part[0]) <= size else ""
            part = first + " " * (size - cell_len(first))
        drawn.append((start, part))
    return drawn


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
