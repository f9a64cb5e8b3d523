"""The blocks of a Markdown text, and the layout of each in lines of a given width.

`glmtui.ui.markdown.document` parses text to blocks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from glmtui.ui.markdown.highlight import highlight
from glmtui.ui.markdown.styled_text import (
    BLANK_LINE,
    CHROME,
    INDENT,
    UNLIMITED_WIDTH,
    Line,
    Span,
    Styles,
    with_prefix,
    wrap,
)
from glmtui.ui.terminal.graphemes import cell_width

Cell: TypeAlias = tuple[Span, ...]
Alignment: TypeAlias = Literal["left", "center", "right"]

MIN_TEXT_WIDTH = 8
"""Width in cells below which nested blocks are no longer indented and code has no padding."""

_BULLETS = "•◦▪"
_CODE = "code-block"
_COLUMN_GAP = "  "
_MIN_COLUMN_WIDTH = 5
"""Cells. A table in which a column would be narrower, and its text wider, becomes a list."""


@dataclass(frozen=True, slots=True)
class Block:
    """Base class of all blocks.

    Attributes:
        gap: whether the source has an empty line before the block.
    """

    gap: bool

    def lines(self, width: int, depth: int) -> list[Line]:
        """Lays the block out in lines of at most `width` cells, inside of `depth` list items."""
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
        return wrap(_with_base_style(f"heading-{min(self.level, 3)}", self.spans), width)


@dataclass(frozen=True, slots=True)
class Code(Block):
    """Source code. Long lines are wrapped.

    Attributes:
        info: the info string of the fence; its first word is the language.
    """

    info: str
    text: str

    def lines(self, width: int, depth: int) -> list[Line]:
        return code_label(self.info, width) + code_lines(self.info, self.text, width)


@dataclass(frozen=True, slots=True)
class Formula(Block):
    """A formula in a block of its own."""

    text: str

    def lines(self, width: int, depth: int) -> list[Line]:
        indent = Span("  ", (INDENT, CHROME))
        inner = width if width < MIN_TEXT_WIDTH else width - 2
        lines = wrap([Span(self.text, ("math",))], inner)
        return lines if inner == width else with_prefix(lines, indent, indent)


@dataclass(frozen=True, slots=True)
class Quote(Block):
    blocks: tuple[Block, ...]

    def lines(self, width: int, depth: int) -> list[Line]:
        bar = Span("▎ ", ("quote-bar", CHROME))
        lines = _nested(self.blocks, width, depth, bar, bar)
        return [line._replace(spans=_with_base_style("quote", line.spans)) for line in lines]


@dataclass(frozen=True, slots=True)
class Item(Block):
    """One item of a list; `marker` is "" for a bullet, or a number such as "12."."""

    marker: str
    blocks: tuple[Block, ...]

    def lines(self, width: int, depth: int) -> list[Line]:
        marker = f"{self.marker or _BULLETS[depth % len(_BULLETS)]} "
        indent = Span(" " * cell_width(marker), (INDENT,))
        return _nested(self.blocks, width, depth + 1, Span(marker, ("marker",)), indent)


@dataclass(frozen=True, slots=True)
class Table(Block):
    """The first row is the head; each row has one cell per alignment."""

    alignments: tuple[Alignment, ...]
    rows: tuple[tuple[Cell, ...], ...]

    def lines(self, width: int, depth: int) -> list[Line]:
        widths = self._widths(width)
        if widths is None:
            return self._as_list(width)
        ruler = Span(_COLUMN_GAP.join("─" * column for column in widths), ("rule", CHROME))
        head, *rows = (self._row(row, widths, i == 0) for i, row in enumerate(self.rows))
        lines = [*head, Line((ruler,))]
        spaced = any(len(row) > 1 for row in rows)  # an empty line between rows of several lines
        for i, row in enumerate(rows):
            lines += [BLANK_LINE, *row] if i and spaced else row
        return lines

    def _widths(self, width: int) -> list[int] | None:
        """Width in cells of each column: that of its text, or an equal share of what is left.

        None if a column would be too narrow.
        """
        columns = [[row[i] for row in self.rows] for i in range(len(self.alignments))]
        wanted = [
            max(
                1,
                *(cell_width(line.text) for cell in column for line in wrap(cell, UNLIMITED_WIDTH)),
            )
            for column in columns
        ]
        left = width - len(_COLUMN_GAP) * (len(wanted) - 1)
        widths = [0] * len(wanted)
        for done, i in enumerate(sorted(range(len(wanted)), key=wanted.__getitem__)):
            share = left // (len(wanted) - done)
            if share < min(wanted[i], _MIN_COLUMN_WIDTH):
                return None
            widths[i] = min(wanted[i], share)
            left -= widths[i]
        return widths

    def _row(self, row: Sequence[Cell], widths: Sequence[int], is_head: bool) -> list[Line]:
        columns = [
            wrap(_with_base_style("table-head", cell) if is_head else cell, width)
            for cell, width in zip(row, widths, strict=True)
        ]
        lines: list[Line] = []
        for y in range(max(map(len, columns))):
            spans: list[Span] = []
            for column, width, alignment in zip(columns, widths, self.alignments, strict=True):
                cell = column[y] if y < len(column) else BLANK_LINE
                slack = width - cell_width(cell.text)
                before = {"left": 0, "center": slack // 2, "right": slack}[alignment]
                after = Span(" " * (slack - before) + _COLUMN_GAP)
                spans += [Span(" " * before), *cell.spans, after]
            while spans and not spans[-1].text.strip():
                spans.pop()
            lines.append(Line(tuple(spans)))
        return lines

    def _as_list(self, width: int) -> list[Line]:
        """For a narrow width: the first cell of each row, under it the others as "name: value"."""
        head, *rows = self.rows
        lines: list[Line] = []
        for row in rows or [head]:
            lines += wrap(_with_base_style("table-head", row[0]), width)
            for name, cell in zip(head[1:], row[1:], strict=True):
                named = (*_with_base_style("table-head", name), Span(": "), *cell)
                indent = Span("  ", (INDENT,))
                lines += with_prefix(wrap(named, width - 2), indent, indent)
        return lines


@dataclass(frozen=True, slots=True)
class Rule(Block):
    def lines(self, width: int, depth: int) -> list[Line]:
        return [Line((Span("─" * width, ("rule", CHROME)),))]


def lay_out(blocks: Sequence[Block], width: int, depth: int = 0) -> list[Line]:
    """Lays out `blocks` below each other. The gap before the first block is ignored."""
    lines: list[Line] = []
    for i, block in enumerate(blocks):
        if i and block.gap:
            lines.append(BLANK_LINE)
        lines += block.lines(width, depth)
    return lines


def code_label(info: str, width: int) -> list[Line]:
    """The line above code that shows its info string; no line if that is empty."""
    if not info:
        return []
    label = Span(f" {info}", (_CODE, "code-label", CHROME))
    return wrap([label], width, fill=(_CODE,))


def code_lines(info: str, text: str, width: int) -> list[Line]:
    """Highlights and wraps `text`, with a cell of padding on both sides.

    Wrapped lines have a "↳" in the left padding.
    """
    spans = highlight(text, info.partition(" ")[0], (_CODE,))
    if width < MIN_TEXT_WIDTH:
        return wrap(spans, width, fill=(_CODE,))
    padding, continuation = Span(" ", (_CODE, CHROME)), Span("↳", (_CODE, "code-label", CHROME))
    lines: list[Line] = []
    wrapped = False
    for line in wrap(spans, width - 2, fill=(_CODE,)):
        lines.append(line._replace(spans=(continuation if wrapped else padding, *line.spans)))
        wrapped = line.soft_break is not None
    return lines


def _nested(blocks: Sequence[Block], width: int, depth: int, first: Span, rest: Span) -> list[Line]:
    inner = width - cell_width(first.text)
    if inner < MIN_TEXT_WIDTH:
        return [Line((first,)), *lay_out(blocks, width, depth)]
    return with_prefix(lay_out(blocks, inner, depth) or [BLANK_LINE], first, rest)


def _with_base_style(style: str, spans: Sequence[Span]) -> Cell:
    """`spans` with `style` as the outermost style."""
    base: Styles = (style,)
    return tuple(Span(text, base + styles) for text, styles in spans)
