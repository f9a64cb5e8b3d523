"""Styled text cut into lines of a given width, in the cells a terminal has.

A line breaks at spaces, and between any two characters of Chinese or Japanese. It never begins with
closing punctuation or ends with opening punctuation (kinsoku, UAX #14), even where a space stands
between the mark and its word. A word wider than the line is cut between graphemes, at the last
place where the next line does not begin with closing punctuation; only where there is none, because
the marks alone are wider than the line, is the mark cut off.

No character is lost: spaces at a break are the line's `joint`, spaces after the last word are its
`hanging`, and spaces before the first word are text. Styles are names here; what they look like,
and where lines are drawn, is not known.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, TypeAlias

from glmtui.ui.terminal.graphemes import cells, clusters

Styles: TypeAlias = tuple[str, ...]
"""Names of styles that add up, outermost first: ("quote", "strong")."""

TAB = "    "
UNBROKEN = 1 << 30
"""A width at which lines end only where the text's do."""

# Marks without a look, for copying: chrome (bars, labels, rules) is drawn but is not text, and an
# indent is text only where a line of the text begins.
CHROME = "chrome"
INDENT = "indent"

LEADS_TO = "leads to "
"""A style that begins so ends with the address that its text is a link to."""


class Span(NamedTuple):
    """Text of one look."""

    text: str
    styles: Styles = ()


class Line(NamedTuple):
    """One row of the screen.

    Attributes:
        joint: what stood in the text where the line was broken, "" or spaces; None at the end of
            a line of the text itself. Copying needs it to undo the breaking.
        fill: styles of the rest of the row.
        hanging: spaces at the end of a line of the text that have no room on the row.
    """

    spans: tuple[Span, ...] = ()
    joint: str | None = None
    fill: Styles = ()
    hanging: str = ""

    @property
    def text(self) -> str:
        return "".join(span.text for span in self.spans)

    @property
    def extent(self) -> int:
        """Characters of the text on this line and after it: the same sum at any width."""
        words = (text for text, styles in self.spans if not {CHROME, INDENT} & set(styles))
        return sum(map(len, words)) + len(self.joint or "") + len(self.hanging)


BLANK = Line()

# Characters that are words by themselves: ideographs, kana, and their spaces and marks.
_IDEOGRAPH = (
    "\u2e80-\u2fff\u3000\u3003-\u3007\u3012\u3013\u301c-\u312f\u3190-\u33ff\u3400-\u4dbf"
    "\u4e00-\ua4cf\uf900-\ufaff\uff10-\uff19\uff21-\uff3a\uff41-\uff5a\uff66-\uff9d"
    "\U00020000-\U0003ffff"
)
_CLOSING = (
    "、。，．：；？！）〕］｝〉》」』】〗〙〛”’…—～·・％‰℃々ーぁぃぅぇぉっゃゅょァィゥェォッャュョ"
)
_OPENING = "（〔［｛〈《「『【〖〘〚“‘"
_JOINED = "\u0300-\u036f\u200d\u20d0-\u20ff\u3099\u309a\ufe00-\ufe0f\U000e0100-\U000e01ef"
_WORD = rf"[^ {_IDEOGRAPH}{_CLOSING}{_OPENING}]+"

_CLOSING_ASCII = r",.:;?!)\]}%"
# What stays on the line of the character before it, and after it.
_STARTS_NO_LINE = re.compile(f"[{_CLOSING}{_CLOSING_ASCII}]")
_ENDS_NO_LINE = re.compile(f"[{_OPENING}]")

# What no line breaks: spaces, or one word with the punctuation that must stay with it. Matches the
# empty text only at the end, and each character once: no input makes it slow.
_PIECE = re.compile(
    rf" +"
    rf"|(?:[{_OPENING}] *|[(\[{{](?=[{_IDEOGRAPH}]))*"
    rf"(?:(?![{_CLOSING}])[{_IDEOGRAPH}][{_JOINED}]*|{_WORD})?"
    rf"(?: *[{_CLOSING}][{_JOINED}]*|(?<! )[{_CLOSING_ASCII}])*"
)


def wrap(spans: Iterable[Span], width: int, fill: Styles = ()) -> list[Line]:
    r"""`spans` as lines of at most `width` cells; "\n" in them ends a line.

    A grapheme wider than `width` makes a wider line: nothing is left out.
    """
    lines: list[Line] = []
    for row in _rows(spans):
        text = "".join(span.text for span in row)
        if cells(text) <= width:
            lines.append(Line(tuple(row), None, fill))
            continue
        breaks = list(_breaks(text, width))
        for i, (start, end) in enumerate(breaks):
            if i + 1 < len(breaks):
                joint = text[end : breaks[i + 1][0]]
                lines.append(Line(cut(row, start, end), joint, fill))
            else:
                lines.append(Line(cut(row, start, end), None, fill, text[end:]))
    return lines


def prefixed(lines: Sequence[Line], first: Span, rest: Span) -> list[Line]:
    """`lines` with `first` before the first of them and `rest` before the others."""
    return [
        line
        if i and line is BLANK and INDENT in rest.styles
        else line._replace(spans=(rest if i else first, *line.spans))
        for i, line in enumerate(lines)
    ]


def cut(row: Sequence[Span], start: int, end: int) -> tuple[Span, ...]:
    """The part of `row` between two places in its text."""
    parts: list[Span] = []
    at = 0
    for text, styles in row:
        part = text[max(0, start - at) : max(0, end - at)]
        if part:
            parts.append(Span(part, styles))
        at += len(text)
        if at >= end:
            break
    return tuple(parts)


def marked(line: Line, start: int, end: int, style: str) -> Line:
    """`line` with `style` over the rest between two places in its text."""
    before, after = cut(line.spans, 0, start), cut(line.spans, end, len(line.text))
    middle = (Span(text, (*styles, style)) for text, styles in cut(line.spans, start, end))
    return line._replace(spans=(*before, *middle, *after))


def plain_text(lines: Iterable[Line]) -> str:
    """The text of `lines` for the clipboard: unbroken again, without chrome."""
    parts: list[str] = []
    broken = False
    for line in lines:
        if line.spans and all(CHROME in span.styles for span in line.spans):
            continue
        unwanted = (CHROME, INDENT) if broken else (CHROME,)
        parts += (text for text, styles in line.spans if not any(u in styles for u in unwanted))
        broken = line.joint is not None
        parts.append(f"{line.hanging}\n" if line.joint is None else line.joint)
    return "".join(parts).removesuffix("\n")


def _rows(spans: Iterable[Span]) -> Iterator[list[Span]]:
    row: list[Span] = []
    for text, styles in spans:
        first, *others = text.replace("\t", TAB).split("\n")
        if first:
            row.append(Span(first, styles))
        for part in others:
            yield row
            row = [Span(part, styles)] if part else []
    yield row


def _breaks(text: str, width: int) -> Iterator[tuple[int, int]]:
    """Where each line starts and ends; the spaces between two lines belong to neither."""
    start = end = 0
    taken = 0  # of text[start:end] and of the spaces that follow it
    for found in _PIECE.finditer(text):
        piece, at = found.group(), found.start()
        is_space = piece[:1] == " "
        size = cells(piece)
        if is_space and at:
            taken += size
        elif is_space:  # before the first word
            yield from ((n, n + width) for n in range(0, size - width, width))
            start = (size - 1) // width * width
            end, taken = size, size - start
        elif taken + size <= width:
            end, taken = found.end(), taken + size
        elif size <= width:
            if end > start:
                yield start, end
            start, end, taken = at, found.end(), size
        else:
            # Indented by no more than half a line, a word that is cut anyway begins where it is.
            if start or taken > width // 2 or not text[:at].isspace():
                if end > start:
                    yield start, end
                start, taken = at, 0
            *parts, (start, end, taken) = _chop(piece, width, at, start, taken)
            yield from ((part_start, part_end) for part_start, part_end, _ in parts)
    yield start, max(start, end)


def _chop(
    piece: str, width: int, at: int, start: int, taken: int
) -> Iterator[tuple[int, int, int]]:
    """A piece too long for a line in parts (start, end, cells), cut between graphemes.

    Args:
        at: where the piece begins in its text.
        start: where the line begins, on which `taken` cells before the piece are taken.
    """
    good, before_good = start, 0  # the last good place to cut, and the cells up to it
    before = " "
    for first, _, size in clusters(piece):
        here, char = at + first, piece[first]
        joined = _STARTS_NO_LINE.match(char) or _ENDS_NO_LINE.match(before)
        if here > start and not joined and " " not in (char, before):
            good, before_good = here, taken
        while taken + size > width and here > start and char != " ":
            place, upto = (good, before_good) if good > start else (here, taken)
            yield start, at + len(piece[: place - at].rstrip(" ")), upto
            start, taken, before_good = place, taken - upto, 0
        taken += size
        before = char
    yield start, at + len(piece.rstrip(" ")), taken
