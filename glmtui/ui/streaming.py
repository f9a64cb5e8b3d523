"""Markdown that is still being written, as lines that are the parsed text's at the end.

Only what can still change is parsed again. CommonMark reads line by line, so a block is final once
a later one has begun on complete lines; a list is final item by item. Code in an open fence, which
may be long, is not parsed at all. What a piece of text costs is the size of the block it falls in.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from glmtui.sanitize import visible
from glmtui.ui.blocks import Code, code_label, code_lines, lay_out
from glmtui.ui.markdown import Placed, parse
from glmtui.ui.wrap import BLANK, Line

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
    """

    def __init__(self, width: int) -> None:
        self.lines: list[Line] = []
        self._width = width
        self._final = 0  # of `lines`, how many no further text changes
        self._open = ""  # the source of the others
        self._gap = False  # whether an empty line came before it
        self._number: int | None = None  # of the item it begins with
        self._fence: _OpenFence | None = None  # set where it is nothing but code

    def feed(self, text: str) -> int:
        """Adds to the text. Returns the first of `lines` that is not as it was."""
        self._open += text
        if self._fence and self._fence.closed_in(self._open):
            self._fence = None
        kept = self._fence.kept if self._fence else self._final
        before = self.lines[kept:]
        del self.lines[kept:]
        if self._fence is None:
            self._draw_blocks()
        if self._fence is not None:
            self._draw_code(self._fence)
        return kept + _same(before, self.lines[kept:])

    def finish(self) -> int:
        """The text is complete: `lines` are what `render` makes of it. Returns as `feed` does."""
        before = self.lines[self._final :]
        del self.lines[self._final :]
        self._add(parse(self._open, gap=self._gap, number=self._number))
        return self._final + _same(before, self.lines[self._final :])

    def _add(self, placed: Sequence[Placed]) -> None:
        if placed and self.lines and placed[0].block.gap:
            self.lines.append(BLANK)
        self.lines += lay_out([p.block for p in placed], self._width)

    def _draw_blocks(self) -> None:
        complete = self._open.count("\n")
        *source, last = self._open.split("\n")
        source.append("" if _UNDECIDED.fullmatch(last) else last)
        placed = parse("\n".join(source), gap=self._gap, number=self._number)

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
        self._add(placed[:final])
        self._final = len(self.lines)

        rest = placed[final:]
        # An opening fence with "|" in it may be the head of a table; its second line tells.
        fence = _FENCE.match(self._open) if self._open.count("\n") > 1 else None
        if fence and len(rest) == 1 and isinstance(rest[0].block, Code):
            self._open_fence(fence, rest[0].block.info)
        else:
            self._add(rest)

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
        while len(fence.code) >= _STRETCH:
            stretch = "\n".join(fence.code[:_STRETCH])
            del fence.code[:_STRETCH]
            self.lines += code_lines(fence.info, stretch, self._width)
            fence.kept, fence.drawn = len(self.lines), True
        last = fence.inside(self._open[fence.read :])
        code = [*fence.code, last] if last.strip(" \t`~") else fence.code
        if code or not fence.drawn:
            self.lines += code_lines(fence.info, "\n".join(code), self._width)


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
        return visible(self._indent.sub("", line, count=1))


def _same(before: Sequence[Line], after: Sequence[Line]) -> int:
    """How many lines at the start are the same."""
    both = zip(before, after, strict=False)
    return next((i for i, (a, b) in enumerate(both) if a != b), min(len(before), len(after)))
