"""Renders Markdown incrementally while it is being generated.

Only what can still change is parsed again. CommonMark is read line by line, so a block is final
once a later one has begun on complete lines; a list becomes final item by item. Code in an open
fence, which may be long, is not parsed. So the cost of a piece depends on the size of the block it
belongs to; if that takes too long, the text from there on is shown as plain text.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from glmtui.ui.markdown.blocks import Code, code_label, code_lines
from glmtui.ui.markdown.document import SourceBlock, parse
from glmtui.ui.markdown.styled_text import BLANK_LINE, TAB, Line, Span, wrap
from glmtui.ui.markdown.time_limit import TimeLimitExceeded, call_with_time_limit

MAX_SECONDS = 0.1
"""Time limit for one piece of text. The app handles keys, drawing and saving only between two
pieces, so this is also the longest delay of a key."""

# A last line whose meaning depends on the next character: "-" begins an item, a rule, or the
# underline of a heading; "``" a fence; "$" a formula. It is not shown yet, as it would flicker.
_AMBIGUOUS = re.compile(r"[ \t]*(?:[-=*+#>`~|:_$ \t]+|\\[\[(]?|\d{1,9}[.)]?)")

_FENCE = re.compile(r"( {0,3})(`{3,}|~{3,})")

# While a fence is open, its code is highlighted in chunks of this many lines, each of them from the
# lexer's initial state, so that a long block does not become slow. When the fence is closed, the
# whole block is highlighted again.
_CHUNK_LINES = 40


class MarkdownStream:
    """A growing text and its lines.

    Attributes:
        lines: at most `width` cells each.
        plain: whether a time limit was exceeded and the rest is shown as plain text.
    """

    def __init__(self, width: int) -> None:
        self.lines: list[Line] = []
        self._width = width
        self._final = 0  # number of lines that more text cannot change
        self._open_source = ""  # source of the lines that are not final
        self._open_gap = False  # whether there is an empty line before the open source
        self._open_number: int | None = None  # of the list item at the start of the open source
        self._fence: _OpenFence | None = None  # set if the open source is one open code block
        self.plain = False

    def feed(self, text: str) -> int:
        """Appends `text`. Returns the index of the first line that has changed."""
        self._open_source += text
        if self.plain:
            return self._render_plain()
        if self._fence and self._fence.read_lines(self._open_source):
            self._fence = None
        start = self._fence.line_count if self._fence else self._final
        before = self.lines[start:]
        del self.lines[start:]
        try:
            if self._fence is None:
                self._render_blocks()
            if self._fence is not None:
                self._render_code(self._fence)
        except TimeLimitExceeded:
            self._switch_to_plain()
        return start + _common_prefix(before, self.lines[start:])

    def finish(self) -> int:
        """Ends the text. Unless `plain`, `lines` are then the same as those of `render`.

        Returns the index of the first line that has changed.
        """
        if self.plain:
            return len(self.lines)
        start = self._final
        before = self.lines[start:]
        del self.lines[start:]
        try:
            self._add(self._render(self._open_source))
        except TimeLimitExceeded:
            self._fence = None
            self._switch_to_plain()
        return start + _common_prefix(before, self.lines[start:])

    def _render(self, source: str) -> list[_RenderedBlock]:
        """The blocks of the open source and their lines. Raises TimeLimitExceeded."""

        def render() -> list[_RenderedBlock]:
            parsed = parse(source, gap=self._open_gap, number=self._open_number)
            return [_RenderedBlock(p, p.block.lines(self._width, 0)) for p in parsed]

        return call_with_time_limit(MAX_SECONDS, render)

    def _add(self, blocks: Sequence[_RenderedBlock]) -> None:
        for parsed, lines in blocks:
            if self.lines and parsed.block.gap:
                self.lines.append(BLANK_LINE)
            self.lines += lines

    def _switch_to_plain(self) -> None:
        """Shows the open source, and all text from now on, as plain text."""
        self.plain = True
        del self.lines[self._fence.line_count if self._fence else self._final :]
        if self._fence:
            self._open_source = "\n".join(
                [*self._fence.code, self._open_source[self._fence.read :]]
            )
        elif self.lines and self._open_gap:
            self.lines.append(BLANK_LINE)
        self._fence = None
        self._final = len(self.lines)
        self._render_plain()

    def _render_plain(self) -> int:
        """Wraps the new text. Returns the index of the first line that has changed."""
        start = self._final
        before = self.lines[start:]
        complete, newline, self._open_source = self._open_source.replace("\t", TAB).rpartition("\n")
        new = wrap([Span(complete)], self._width) if newline else []
        last = wrap([Span(self._open_source)], self._width)
        # More text can change the last two rows: the last word may grow or get a comma.
        done = last[:-2]
        self._open_source = self._open_source[sum(line.text_length for line in done) :]
        self.lines[start:] = [*new, *last]
        self._final = start + len(new) + len(done)
        return start + _common_prefix(before, self.lines[start:])

    def _render_blocks(self) -> None:
        complete = self._open_source.count("\n")
        *source, last = self._open_source.split("\n")
        source.append("" if _AMBIGUOUS.fullmatch(last) else last)
        rendered = self._render("\n".join(source))
        parsed = [p for p, _ in rendered]

        # A block is final when a later one has begun with a complete line.
        begun = max((i for i, p in enumerate(parsed) if p.start < complete), default=0)
        closed = [i for i, p in enumerate(parsed) if p.closed and p.stop <= complete]
        if closed and closed[-1] >= begun:
            final = closed[-1] + 1
            self._keep_open(parsed[closed[-1]].stop, gap=False, number=None)
        elif parsed:
            final = begun
            block = parsed[begun]
            self._keep_open(block.start, gap=block.block.gap, number=block.number)
        else:
            return
        self._add(rendered[:final])
        self._final = len(self.lines)

        rest = parsed[final:]
        # An opening fence that contains "|" may be the head of a table; the second line decides.
        fence = _FENCE.match(self._open_source) if self._open_source.count("\n") > 1 else None
        if fence and len(rest) == 1 and isinstance(rest[0].block, Code):
            self._open_fence(fence, rest[0].block.info)
        else:
            self._add(rendered[final:])

    def _open_fence(self, fence: re.Match[str], info: str) -> None:
        if self.lines and self._open_gap:
            self.lines.append(BLANK_LINE)
        self.lines += code_label(info, self._width)
        self._fence = _OpenFence(fence, info, line_count=len(self.lines))
        self._fence.read_lines(self._open_source)

    def _keep_open(self, line: int, *, gap: bool, number: int | None) -> None:
        """Removes the lines before `line` from the open source."""
        if line:
            self._open_source = self._open_source.split("\n", line)[line]
            self._open_gap, self._open_number = gap, number

    def _render_code(self, fence: _OpenFence) -> None:
        """Renders new chunks and the rest of the code. On TimeLimitExceeded nothing has changed."""
        whole = len(fence.code) // _CHUNK_LINES * _CHUNK_LINES

        def render() -> tuple[list[Line], list[Line]]:
            chunks = [fence.code[n : n + _CHUNK_LINES] for n in range(0, whole, _CHUNK_LINES)]
            done = [code_lines(fence.info, "\n".join(code), self._width) for code in chunks]
            last, code = fence.strip_indent(self._open_source[fence.read :]), fence.code[whole:]
            if last.strip(" \t`~"):
                code.append(last)
            has_rest = bool(code) or not (whole or fence.rendered)
            rest = code_lines(fence.info, "\n".join(code), self._width) if has_rest else []
            return [line for lines in done for line in lines], rest

        done, rest = call_with_time_limit(MAX_SECONDS, render)
        self.lines += done
        if whole:
            del fence.code[:whole]
            fence.line_count, fence.rendered = len(self.lines), True
        self.lines += rest


class _RenderedBlock(NamedTuple):
    parsed: SourceBlock
    lines: list[Line]


class _OpenFence:
    """Fenced code without its closing fence.

    Attributes:
        code: the complete lines that are not in rendered chunks.
        line_count: number of the stream's lines up to the end of the rendered chunks.
        rendered: whether there are rendered chunks.
        read: offset in the source up to which lines are complete and read.
    """

    def __init__(self, opening: re.Match[str], info: str, line_count: int) -> None:
        indent, fence = opening.groups()
        self.info = info
        self.code: list[str] = []
        self.line_count = line_count
        self.rendered = False
        self.read = opening.string.index("\n") + 1
        self._indent = re.compile(f" {{0,{len(indent)}}}")
        self._closing = re.compile(rf" {{0,3}}{fence[0]}{{{len(fence)},}}[ \t]*")

    def read_lines(self, source: str) -> bool:
        """Reads the complete lines of `source` that are new. Returns whether the fence closed."""
        end = source.rfind("\n") + 1
        for line in source[self.read : end].split("\n")[:-1]:
            if self._closing.fullmatch(line):
                return True
            self.code.append(self.strip_indent(line))
        self.read = end
        return False

    def strip_indent(self, line: str) -> str:
        """Removes the indent of the opening fence."""
        return self._indent.sub("", line, count=1)


def _common_prefix(before: Sequence[Line], after: Sequence[Line]) -> int:
    """The number of equal lines at the start of both."""
    pairs = zip(before, after, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(before), len(after)))
