"""Styled text, and wrapping it to lines of a width in terminal cells.

A line breaks at spaces, and between any two Chinese or Japanese characters. It never begins with
closing punctuation or ends with opening punctuation (kinsoku, UAX #14), even if there is a space
between the punctuation and its word. A word wider than the line is cut between grapheme clusters,
if possible where the next line does not begin with closing punctuation.

No character is lost: spaces at a break are the line's `soft_break`, spaces after the last word its
`trailing_spaces`, and spaces before the first word are text.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, TypeAlias

from glmtui.ui.terminal.graphemes import cell_width, clusters

Styles: TypeAlias = tuple[str, ...]
"""Names of styles, all of which apply, outermost first: ("quote", "strong")."""

TAB = "    "
UNLIMITED_WIDTH = 1 << 30
"""A width at which lines end only at newlines."""

# Styles without a look, which tell what to copy to the clipboard: chrome (bars, labels, rules) is
# not copied, an indent only at the beginning of a line of the text.
CHROME = "chrome"
INDENT = "indent"

LINK_PREFIX = "leads to "
"""Prefix of the style of a link; the rest of that style is the address."""


class Span(NamedTuple):
    """A piece of text that has the same styles throughout."""

    text: str
    styles: Styles = ()


class Line(NamedTuple):
    """One row of the screen.

    Attributes:
        soft_break: the text at the place where wrapping ended this line, "" or spaces; None if the
            line of the text ends here. Needed to join wrapped lines for the clipboard.
        fill: styles of the cells after the text, up to the width of the view.
        trailing_spaces: spaces at the end of a line of the text that do not fit on the row.
    """

    spans: tuple[Span, ...] = ()
    soft_break: str | None = None
    fill: Styles = ()
    trailing_spaces: str = ""

    @property
    def text(self) -> str:
        return "".join(span.text for span in self.spans)

    @property
    def text_length(self) -> int:
        """Number of characters of the source text; the sum over all lines is the same at any width.

        Counts the spaces at the break, but neither chrome nor indents.
        """
        texts = (text for text, styles in self.spans if not {CHROME, INDENT} & set(styles))
        return sum(map(len, texts)) + len(self.soft_break or "") + len(self.trailing_spaces)


BLANK_LINE = Line()

# Characters between which a line may break: ideographs, kana, and their spaces and punctuation.
_IDEOGRAPH = (
    "\u2e80-\u2fff\u3000\u3003-\u3007\u3012\u3013\u301c-\u312f\u3190-\u33ff\u3400-\u4dbf"
    "\u4e00-\ua4cf\uf900-\ufaff\uff10-\uff19\uff21-\uff3a\uff41-\uff5a\uff66-\uff9d"
    "\U00020000-\U0003ffff"
)
_CLOSING = (
    "、。，．：；？！）〕］｝〉》」』】〗〙〛”’…—～·・％‰℃々ーぁぃぅぇぉっゃゅょァィゥェォッャュョ"
)
_OPENING = "（〔［｛〈《「『【〖〘〚“‘"
_COMBINING = "\u0300-\u036f\u200d\u20d0-\u20ff\u3099\u309a\ufe00-\ufe0f\U000e0100-\U000e01ef"
_WORD = rf"[^ {_IDEOGRAPH}{_CLOSING}{_OPENING}]+"

_CLOSING_ASCII = r",.:;?!)\]}%"
_NOT_AT_LINE_START = re.compile(f"[{_CLOSING}{_CLOSING_ASCII}]")
_NOT_AT_LINE_END = re.compile(f"[{_OPENING}]")

# A piece that is not broken: spaces, or one word with the punctuation that must stay with it. It
# matches each character once, and the empty string only at the end, so no input makes it slow.
_PIECE = re.compile(
    rf" +"
    rf"|(?:[{_OPENING}] *|[(\[{{](?=[{_IDEOGRAPH}]))*"
    rf"(?:(?![{_CLOSING}])[{_IDEOGRAPH}][{_COMBINING}]*|{_WORD})?"
    rf"(?: *[{_CLOSING}][{_COMBINING}]*|(?<! )[{_CLOSING_ASCII}])*"
)


def wrap(spans: Iterable[Span], width: int, fill: Styles = ()) -> list[Line]:
    r"""Wraps `spans` to lines of at most `width` cells; "\n" in them ends a line.

    A grapheme cluster wider than `width` makes a wider line.
    """
    lines: list[Line] = []
    for row in _rows(spans):
        text = "".join(span.text for span in row)
        if cell_width(text) <= width:
            lines.append(Line(tuple(row), None, fill))
            continue
        breaks = list(_breaks(text, width))
        for i, (start, end) in enumerate(breaks):
            if i + 1 < len(breaks):
                soft_break = text[end : breaks[i + 1][0]]
                lines.append(Line(slice_spans(row, start, end), soft_break, fill))
            else:
                lines.append(Line(slice_spans(row, start, end), None, fill, text[end:]))
    return lines


def with_prefix(lines: Sequence[Line], first: Span, rest: Span) -> list[Line]:
    """`lines` with `first` before the first line and `rest` before the others."""
    return [
        line
        if i and line is BLANK_LINE and INDENT in rest.styles
        else line._replace(spans=(rest if i else first, *line.spans))
        for i, line in enumerate(lines)
    ]


def slice_spans(row: Sequence[Span], start: int, end: int) -> tuple[Span, ...]:
    """The part of `row` between two offsets in its text."""
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


def with_style(line: Line, start: int, end: int, style: str) -> Line:
    """`line` with `style` added between two offsets in its text."""
    before, after = slice_spans(line.spans, 0, start), slice_spans(line.spans, end, len(line.text))
    middle = (Span(text, (*styles, style)) for text, styles in slice_spans(line.spans, start, end))
    return line._replace(spans=(*before, *middle, *after))


def plain_text(lines: Iterable[Line]) -> str:
    """The text of `lines` for the clipboard: wrapped lines joined, without chrome."""
    parts: list[str] = []
    wrapped = False  # whether the line continues the one before
    for line in lines:
        if line.spans and all(CHROME in span.styles for span in line.spans):
            continue
        excluded = (CHROME, INDENT) if wrapped else (CHROME,)
        parts += (text for text, styles in line.spans if not any(e in styles for e in excluded))
        wrapped = line.soft_break is not None
        parts.append(f"{line.trailing_spaces}\n" if line.soft_break is None else line.soft_break)
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
    """The start and end of each line; the spaces between two lines belong to neither."""
    start = end = 0
    taken = 0  # cells of text[start:end] and the spaces that follow it
    for found in _PIECE.finditer(text):
        piece, at = found.group(), found.start()
        is_space = piece[:1] == " "
        size = cell_width(piece)
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
            # A word that has to be cut starts on a new line, unless only an indent of at most half
            # a line is before it.
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
    """Cuts a piece that is too long for a line between grapheme clusters.

    Args:
        at: offset of the piece in the text.
        start: offset of the line's beginning.
        taken: cells of the line before the piece.

    Yields:
        Start, end and width in cells of each part.
    """
    good, before_good = start, 0  # the last allowed cut, and the cells before it
    before = " "
    for first, _, size in clusters(piece):
        here, char = at + first, piece[first]
        joined = _NOT_AT_LINE_START.match(char) or _NOT_AT_LINE_END.match(before)
        if here > start and not joined and " " not in (char, before):
            good, before_good = here, taken
        while taken + size > width and here > start and char != " ":
            place, upto = (good, before_good) if good > start else (here, taken)
            yield start, at + len(piece[: place - at].rstrip(" ")), upto
            start, taken, before_good = place, taken - upto, 0
        taken += size
        before = char
    yield start, at + len(piece.rstrip(" ")), taken
