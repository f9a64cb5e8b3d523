"""Grapheme clusters: where a cursor may stand, and text of the same width on every terminal.

Built on Rich's `split_graphemes`, with three corrections: a pair of regional indicators is one
flag, a tab is a character of its own, and a joiner that is not before an emoji joins nothing.
"""

from __future__ import annotations

import re
from string import ascii_uppercase

from rich.cells import cell_len, split_graphemes

# Joiner, emoji variation selector, regional indicators, skin tones, tags.
_VARYING_WIDTH = re.compile(
    "[\u200d\ufe0f\U0001f1e6-\U0001f1ff\U0001f3fb-\U0001f3ff\U000e0020-\U000e007f]"
)
_JOINER, _NON_JOINER = "\u200d", "\u200c"
# A joiner that is not before an emoji, as in Indic words. Rich draws what follows it in no cells.
_PLAIN_JOINER = re.compile(f"{_JOINER}(?![\u2190-\u2bff\U0001f000-\U0001faff])")
_REGIONAL_INDICATORS = "".join(map(chr, range(0x1F1E6, 0x1F200)))
_SINGLE_INDICATORS = frozenset(_REGIONAL_INDICATORS)
_LETTERS = {
    ord(indicator): letter
    for indicator, letter in zip(_REGIONAL_INDICATORS, ascii_uppercase, strict=True)
}


def previous_boundary(line: str, column: int) -> int:
    """The nearest cursor position before `column`; 0 at the start of the line."""
    starts = (start for start, _end, _size in _cursor_clusters(line))
    return max((start for start in starts if start < column), default=0)


def next_boundary(line: str, column: int) -> int:
    """The nearest cursor position after `column`; the length of the line at its end."""
    ends = (end for _start, end, _size in _cursor_clusters(line))
    return next((end for end in ends if end > column), len(line))


def _cursor_clusters(line: str) -> list[tuple[int, int, int]]:
    # Rich takes a tab for a mark of the character before it.
    return clusters(line.replace("\t", " "))


def clusters(text: str) -> list[tuple[int, int, int]]:
    """The grapheme clusters of `text`: start, end, and width in cells."""
    found: list[tuple[int, int, int]] = []
    for start, end, size in split_graphemes(_PLAIN_JOINER.sub(_NON_JOINER, text))[0]:
        if text[start] in _REGIONAL_INDICATORS and found:
            before, before_end, before_size = found[-1]
            if text[before:before_end] in _SINGLE_INDICATORS:
                found.pop()
                start, size = before, before_size + size
        found.append((start, end, size))
    return found


def cell_width(text: str) -> int:
    """The number of cells in which terminals draw `uniform_width(text)`."""
    if text.isascii() and text.isprintable():
        return len(text)
    return cell_len(_PLAIN_JOINER.sub(_NON_JOINER, text) if _JOINER in text else text)


def uniform_width(text: str) -> str:
    """`text` without sequences that terminals draw in different widths; of the same width.

    Some terminals draw an emoji family in two cells and others in six, which would shift the rest
    of the row. Of an emoji sequence only the first emoji is kept, followed by spaces. A flag
    becomes its two letters.
    """
    return "".join(part for _start, part in uniform_width_parts(text))


def uniform_width_parts(text: str) -> list[tuple[int, str]]:
    """The parts of `uniform_width(text)`, each with its start in `text`.

    A part is a grapheme cluster, or the whole text if nothing in it has to be replaced.
    """
    if not _VARYING_WIDTH.search(text):
        return [(0, text)]
    parts = []
    for start, end, size in clusters(text):
        part = _PLAIN_JOINER.sub(_NON_JOINER, text[start : end + 1])[: end - start]
        part = part.translate(_LETTERS)
        if _VARYING_WIDTH.search(part):
            first = part[0] if 0 < cell_len(part[0]) <= size else ""
            part = first + " " * (size - cell_len(first))
        parts.append((start, part))
    return parts
