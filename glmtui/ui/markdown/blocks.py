"""The blocks of a Markdown text, and how each is laid out in lines of a width.

Knows no parser and no widget: `glmtui.ui.markdown.document` makes blocks, and styles are names.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from glmtui.ui.markdown.highlight import highlight
from glmtui.ui.markdown.styled_text import (
    BLANK,
    CHROME,
    INDENT,
    UNBROKEN,
    Line,
    Span,
    Styles,
    prefixed,
    wrap,
)
from glmtui.ui.terminal.graphemes import cells

Cell: TypeAlias = tuple[Span, ...]
Alignment: TypeAlias = Literal["left", "center", "right"]

NARROWEST = 8
"""Cells of text below which nesting no longer indents."""

_BULLETS = "•◦▪"
_CODE = "code-block"
_COLUMN_GAP = "  "
_CRAMPED = 5


@dataclass(frozen=True, slots=True)
class Block:
    """One block.

    Attributes:
        gap: whether an empty line comes before it, as in its source.
    """

    gap: bool

    def lines(self, width: int, depth: int) -> list[Line]:
        """The block in lines of at most `width` cells, `depth` list items deep."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class Paragraph(Block):
    spans: Cell

    def lines(self, width: int, depth: int) -> list[Line]:
        return wrap(self.spans, width)


@dataclass(frozen=True, slots=True)
class Heading(Block):
    level: int
    spans: Cell

    def lines(self, width: int, depth: int) -> list[Line]:
        return wrap(_under(f"heading-{min(self.level, 3)}", self.spans), width)


@dataclass(frozen=True, slots=True)
class Code(Block):
    """Source code, on a ground of its own; long lines are wrapped, so all of it can be read.

    Attributes:
        info: what stands beside the fence; its first word is the language.
    """

    info: str
    text: str

    def lines(self, width: int, depth: int) -> list[Line]:
        return code_label(self.info, width) + code_lines(self.info, self.text, width)


@dataclass(frozen=True, slots=True)
class Formula(Block):
    """A formula that stands by itself."""

    text: str

    def lines(self, width: int, depth: int) -> list[Line]:
        indent = Span("  ", (INDENT, CHROME))
        inner = width if width < NARROWEST else width - 2
        lines = wrap([Span(self.text, ("math",))], inner)
        return lines if inner == width else prefixed(lines, indent, indent)


@dataclass(frozen=True, slots=True)
class Quote(Block):
    blocks: tuple[Block, ...]

    def lines(self, width: int, depth: int) -> list[Line]:
        bar = Span("▎ ", ("quote-bar", CHROME))
        lines = _nested(self.blocks, width, depth, bar, bar)
        return [line._replace(spans=_under("quote", line.spans)) for line in lines]


@dataclass(frozen=True, slots=True)
class Item(Block):
    """One item of a list; `marker` is empty for a bullet, else such as "12."."""

    marker: str
    blocks: tuple[Block, ...]

    def lines(self, width: int, depth: int) -> list[Line]:
        marker = f"{self.marker or _BULLETS[depth % len(_BULLETS)]} "
        indent = Span(" " * cells(marker), (INDENT,))
        return _nested(self.blocks, width, depth + 1, Span(marker, ("marker",)), indent)


@dataclass(frozen=True, slots=True)
class Table(Block):
    """Rows of as many cells as there are alignments, the head first."""

    alignments: tuple[Alignment, ...]
    rows: tuple[tuple[Cell, ...], ...]

    def lines(self, width: int, depth: int) -> list[Line]:
        widths = self._widths(width)
        if widths is None:
            return self._as_list(width)
        ruler = Span(_COLUMN_GAP.join("─" * column for column in widths), ("rule", CHROME))
        head, *rows = (self._row(row, widths, i == 0) for i, row in enumerate(self.rows))
        lines = [*head, Line((ruler,))]
        airy = any(len(row) > 1 for row in rows)
        for i, row in enumerate(rows):
            lines += [BLANK, *row] if i and airy else row
        return lines

    def _widths(self, width: int) -> list[int] | None:
        """Cells of each column: what its text asks for, or an equal share of what is left.

        None where a column's share is too narrow to read.
        """
        columns = [[row[i] for row in self.rows] for i in range(len(self.alignments))]
        wanted = [
            max(1, *(cells(line.text) for cell in column for line in wrap(cell, UNBROKEN)))
            for column in columns
        ]
        left = width - len(_COLUMN_GAP) * (len(wanted) - 1)
        widths = [0] * len(wanted)
        for served, i in enumerate(sorted(range(len(wanted)), key=wanted.__getitem__)):
            share = left // (len(wanted) - served)
            if share < min(wanted[i], _CRAMPED):
                return None
            widths[i] = min(wanted[i], share)
            left -= widths[i]
        return widths

    def _row(self, row: Sequence[Cell], widths: Sequence[int], is_head: bool) -> list[Line]:
        columns = [
            wrap(_under("table-head", cell) if is_head else cell, width)
            for cell, width in zip(row, widths, strict=True)
        ]
        lines: list[Line] = []
        for y in range(max(map(len, columns))):
            spans: list[Span] = []
            for column, width, alignment in zip(columns, widths, self.alignments, strict=True):
                cell = column[y] if y < len(column) else BLANK
                slack = width - cells(cell.text)
                before = {"left": 0, "center": slack // 2, "right": slack}[alignment]
                after = Span(" " * (slack - before) + _COLUMN_GAP)
                spans += [Span(" " * before), *cell.spans, after]
            while spans and not spans[-1].text.strip():
                spans.pop()
            lines.append(Line(tuple(spans)))
        return lines

    def _as_list(self, width: int) -> list[Line]:
        """For columns too many for the width: under each row's first cell, the others by name."""
        head, *rows = self.rows
        lines: list[Line] = []
        for row in rows or [head]:
            lines += wrap(_under("table-head", row[0]), width)
            for name, cell in zip(head[1:], row[1:], strict=True):
                named = (*_under("table-head", name), Span(": "), *cell)
                indent = Span("  ", (INDENT,))
                lines += prefixed(wrap(named, width - 2), indent, indent)
        return lines


@dataclass(frozen=True, slots=True)
class Rule(Block):
    def lines(self, width: int, depth: int) -> list[Line]:
        return [Line((Span("─" * width, ("rule", CHROME)),))]


def lay_out(blocks: Sequence[Block], width: int, depth: int = 0) -> list[Line]:
    """`blocks` one below the other; the gap before the first is the caller's."""
    lines: list[Line] = []
    for i, block in enumerate(blocks):
        if i and block.gap:
            lines.append(BLANK)
        lines += block.lines(width, depth)
    return lines


def code_label(info: str, width: int) -> list[Line]:
    """The line above code that says what language it is; none where nothing is said."""
    if not info:
        return []
    label = Span(f" {info}", (_CODE, "code-label", CHROME))
    return wrap([label], width, fill=(_CODE,))


def code_lines(info: str, text: str, width: int) -> list[Line]:
    """`text` highlighted, wrapped, and padded by a cell on both sides; what goes on is marked."""
    spans = highlight(text, info.partition(" ")[0], (_CODE,))
    if width < NARROWEST:
        return wrap(spans, width, fill=(_CODE,))
    begins, goes_on = Span(" ", (_CODE, CHROME)), Span("↳", (_CODE, "code-label", CHROME))
    lines: list[Line] = []
    broken = False
    for line in wrap(spans, width - 2, fill=(_CODE,)):
        lines.append(line._replace(spans=(goes_on if broken else begins, *line.spans)))
        broken = line.joint is not None
    return lines


def _nested(blocks: Sequence[Block], width: int, depth: int, first: Span, rest: Span) -> list[Line]:
    inner = width - cells(first.text)
    if inner < NARROWEST:
        return [Line((first,)), *lay_out(blocks, width, depth)]
    return prefixed(lay_out(blocks, inner, depth) or [BLANK], first, rest)


def _under(style: str, spans: Sequence[Span]) -> Cell:
    """`spans` with `style` beneath their own."""
    under: Styles = (style,)
    return tuple(Span(text, under + styles) for text, styles in spans)
