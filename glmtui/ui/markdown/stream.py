"""Markdown that is still being written, as lines that are the parsed text's at the end.

Only what can still change is parsed again. CommonMark reads line by line, so a block is final once
a later one has begun on complete lines; a list is final item by item. Code in an open fence, which
may be long, is not parsed at all. What a piece of text costs is the size of the block it falls in;
where that takes too long, the text from there on is shown as it stands.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from glmtui.sanitize import sanitize
from glmtui.ui.markdown.blocks import Code, code_label, code_lines
from glmtui.ui.markdown.document import Placed, parse
from glmtui.ui.markdown.styled_text import BLANK, TAB, Line, Span, wrap
from glmtui.ui.markdown.time_limit import OutOfTime, within

MOST_SECONDS = 0.1
"""For one piece of text. The app draws, saves and takes keys only between two of them."""

# A last line that may yet become something else: "-" an item, a rule, or the underline of a
# heading; "``" a fence; "$" a formula. Drawn, it would flicker; it waits for its next character.
_UNDECIDED = re.compile(r"[ \t]*(?:[-=*+#>`~|:_$ \t]+|\\[\[(]?|\d{1,9}[.)]?)")

_FENCE = re.compile(r"( {0,3})(`{3,}|~{3,})")

# While its fence is open, code is highlighted in stretches of so many lines, each from the lexer's
# start; as a whole, when it is closed.
_STRETCH = 40


class MarkdownStream:
    """A text that grows.

    Attributes:
        lines: what there is to draw, at most `width` cells each.
        plain: whether it became too costly to be anything but text.
    """

    def __init__(self, width: int) -> None:
        self.lines: list[Line] = []
        self._width = width
        self._final = 0  # of `lines`, how many no further text changes
        self._open = ""  # the source of the others
        self._gap = False  # whether an empty line came before it
        self._number: int | None = None  # of the item it begins with
        self._fence: _OpenFence | None = None  # set where it is nothing but code
        self.plain = False

    def feed(self, text: str) -> int:
        """Adds to the text. Returns the first of `lines` that is not as it was."""
        self._open += text
        if self.plain:
            return self._draw_plain()
        if self._fence and self._fence.closed_in(self._open):
            self._fence = None
        kept = self._fence.kept if self._fence else self._final
        before = self.lines[kept:]
        del self.lines[kept:]
        try:
            if self._fence is None:
                self._draw_blocks()
            if self._fence is not None:
                self._draw_code(self._fence)
        except OutOfTime:
            self._give_up()
        return kept + _same(before, self.lines[kept:])

    def finish(self) -> int:
        """The text is complete: unless `plain`, `lines` are what `render` makes of it.

        Returns as `feed` does.
        """
        if self.plain:
            return len(self.lines)
        kept = self._final
        before = self.lines[kept:]
        del self.lines[kept:]
        try:
            self._add(self._laid_out(self._open))
        except OutOfTime:
            self._fence = None
            self._give_up()
        return kept + _same(before, self.lines[kept:])

    def _laid_out(self, source: str) -> list[_Drawn]:
        """The blocks of the open text, with their lines. Raises OutOfTime."""

        def draw() -> list[_Drawn]:
            placed = parse(source, gap=self._gap, number=self._number)
            return [_Drawn(p, p.block.lines(self._width, 0)) for p in placed]

        return within(MOST_SECONDS, draw)

    def _add(self, blocks: Sequence[_Drawn]) -> None:
        for placed, lines in blocks:
            if self.lines and placed.block.gap:
                self.lines.append(BLANK)
            self.lines += lines

    def _give_up(self) -> None:
        """From here on, the text is shown as it stands."""
        self.plain = True
        del self.lines[self._fence.kept if self._fence else self._final :]
        if self._fence:
            self._open = "\n".join([*self._fence.code, self._open[self._fence.read :]])
        elif self.lines and self._gap:
            self.lines.append(BLANK)
        self._fence = None
        self._final = len(self.lines)
        self._draw_plain()

    def _draw_plain(self) -> int:
        """Wraps what is new. Returns as `feed` does."""
        kept = self._final
        before = self.lines[kept:]
        complete, newline, self._open = self._open.replace("\t", TAB).rpartition("\n")
        new = wrap([Span(complete)], self._width) if newline else []
        last = wrap([Span(self._open)], self._width)
        # Of a line that goes on, the last two rows can change: a word, or a comma after it.
        done = last[:-2]
        self._open = self._open[sum(line.extent for line in done) :]
        self.lines[kept:] = [*new, *last]
        self._final = kept + len(new) + len(done)
        return kept + _same(before, self.lines[kept:])

    def _draw_blocks(self) -> None:
        complete = self._open.count("\n")
        *source, last = self._open.split("\n")
        source.append("" if _UNDECIDED.fullmatch(last) else last)
        drawn = self._laid_out("\n".join(source))
        placed = [p for p, _ in drawn]

        # Final is what comes before a block that has begun with a complete line.
        begun = max((i for i, p in enumerate(placed) if p.start < complete), default=0)
        closed = [i for i, p in enumerate(placed) if p.closed and p.stop <= complete]
        if closed and closed[-1] >= begun:
            final = closed[-1] + 1
            self._open_from(placed[closed[-1]].stop, gap=False, number=None)
        elif placed:
            final = begun
            block = placed[begun]
            self._open_from(block.start, gap=block.block.gap, number=block.number)
        else:
            return
        self._add(drawn[:final])
        self._final = len(self.lines)

        rest = placed[final:]
        # An opening fence with "|" in it may be the head of a table; its second line tells.
        fence = _FENCE.match(self._open) if self._open.count("\n") > 1 else None
        if fence and len(rest) == 1 and isinstance(rest[0].block, Code):
            self._open_fence(fence, rest[0].block.info)
        else:
            self._add(drawn[final:])

    def _open_fence(self, fence: re.Match[str], info: str) -> None:
        if self.lines and self._gap:
            self.lines.append(BLANK)
        self.lines += code_label(info, self._width)
        self._fence = _OpenFence(fence, info, kept=len(self.lines))
        self._fence.closed_in(self._open)

    def _open_from(self, line: int, *, gap: bool, number: int | None) -> None:
        if line:
            self._open = self._open.split("\n", line)[line]
            self._gap, self._number = gap, number

    def _draw_code(self, fence: _OpenFence) -> None:
        """Raises OutOfTime, before anything has changed."""
        whole = len(fence.code) // _STRETCH * _STRETCH

        def draw() -> tuple[list[Line], list[Line]]:
            stretches = [fence.code[n : n + _STRETCH] for n in range(0, whole, _STRETCH)]
            done = [code_lines(fence.info, "\n".join(code), self._width) for code in stretches]
            last, code = fence.inside(self._open[fence.read :]), fence.code[whole:]
            if last.strip(" \t`~"):
                code.append(last)
            shown = bool(code) or not (whole or fence.drawn)
            rest = code_lines(fence.info, "\n".join(code), self._width) if shown else []
            return [line for lines in done for line in lines], rest

        done, rest = within(MOST_SECONDS, draw)
        self.lines += done
        if whole:
            del fence.code[:whole]
            fence.kept, fence.drawn = len(self.lines), True
        self.lines += rest


class _Drawn(NamedTuple):
    """A block and its lines."""

    placed: Placed
    lines: list[Line]


class _OpenFence:
    """Fenced code that is not closed yet.

    Attributes:
        code: its complete lines, but for the stretches that are drawn.
        kept: lines of the stream up to the end of those stretches.
        read: how much of the source is in complete lines.
    """

    def __init__(self, opening: re.Match[str], info: str, kept: int) -> None:
        indent, fence = opening.groups()
        self.info = info
        self.code: list[str] = []
        self.kept = kept
        self.drawn = False
        self.read = opening.string.index("\n") + 1
        self._indent = re.compile(f" {{0,{len(indent)}}}")
        self._closing = re.compile(rf" {{0,3}}{fence[0]}{{{len(fence)},}}[ \t]*")

    def closed_in(self, source: str) -> bool:
        """Reads on in `source`; whether the closing fence has come."""
        end = source.rfind("\n") + 1
        for line in source[self.read : end].split("\n")[:-1]:
            if self._closing.fullmatch(line):
                return True
            self.code.append(self.inside(line))
        self.read = end
        return False

    def inside(self, line: str) -> str:
        """The code on `line`: without the indent of the opening fence."""
        return sanitize(self._indent.sub("", line, count=1))


def _same(before: Sequence[Line], after: Sequence[Line]) -> int:
    """How many lines at the start are the same."""
    both = zip(before, after, strict=False)
    return next((i for i, (a, b) in enumerate(both) if a != b), min(len(before), len(after)))
