"""The CSS of the transcript's styles, and the rendering of lines with them.

Most of the bytes sent to a terminal are colour changes. So neighbours that look the same are joined
to one segment, and spaces take the style of the text beside them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from rich.segment import Segment
from rich.style import Style
from textual.cache import LRUCache
from textual.strip import Strip
from textual.widget import Widget

from glmtui.ui.markdown.styled_text import LINK_PREFIX, Line, Span, Styles
from glmtui.ui.terminal.graphemes import cell_width, uniform_width_parts

SELECTED = "selected"
"""Style of text that is selected with the mouse; it looks as in Textual's other widgets."""

_RULES = {
    "user": "background: $surface;",
    "user-bar": "color: $primary; background: $surface;",
    "selection-bar": "color: $accent; text-style: bold;",
    "label": "color: $text-muted;",
    "observation": "color: $text-muted;",
    "note": "color: $text-muted; text-style: italic;",
    "note-error": "color: $text-error;",
    "heading-1": "color: $text-primary; text-style: bold underline;",
    "heading-2": "color: $text-primary; text-style: bold;",
    "heading-3": "text-style: bold;",
    "strong": "text-style: bold;",
    "emphasis": "text-style: italic;",
    "strike": "text-style: strike;",
    "code": "color: $text-accent;",
    "code-block": "background: $surface;",
    "code-label": "color: $text-muted;",
    "math": "color: $text-primary;",
    "link": "text-style: underline;",
    "target": "color: $text-muted;",
    "marker": "color: $primary;",
    "quote": "text-style: italic;",
    "quote-bar": "color: $primary;",
    "rule": "color: $text-muted;",
    "table-head": "text-style: bold;",
    "syntax-comment": "color: $text-muted; text-style: italic;",
    "syntax-deleted": "color: $text-error;",
    "syntax-keyword": "color: $text-primary;",
    "syntax-name": "color: $text-accent;",
    "syntax-number": "color: $text-warning;",
    "syntax-string": "color: $text-success;",
}
STYLE_CLASSES = {name: f"transcript--{name}" for name in _RULES}
"""Textual component classes by style name."""

CSS = "\n".join(
    f"Transcript > .{STYLE_CLASSES[name]} {{ {rules} }}" for name, rules in _RULES.items()
)


class RenderedLine(NamedTuple):
    """A line for the screen.

    Attributes:
        ink: number of cells up to the last one that is not blank.
    """

    strip: Strip
    ink: int


class LineRenderer:
    """Renders lines with the colours of a widget that has `STYLE_CLASSES`. Results are cached.

    Args:
        links: whether to send hyperlinks (OSC 8) to the terminal.
    """

    def __init__(self, widget: Widget, *, links: bool) -> None:
        self._widget = widget
        self._links = links
        self._styles: dict[Styles, Style] = {}
        self._rendered: LRUCache[tuple[Span, Line, int, int], RenderedLine] = LRUCache(1024)

    def clear_cache(self) -> None:
        """Must be called when the theme has changed."""
        self._styles.clear()
        self._rendered.clear()

    def render(self, margin: Span, line: Line, text_width: int, width: int) -> RenderedLine:
        """Renders margin and line as a row of `width` cells.

        Args:
            text_width: up to this cell the row has the styles of `line.fill`.
        """
        key = (margin, line, text_width, width)
        rendered = self._rendered.get(key)
        if rendered is None:
            rendered = self._rendered[key] = self._render(*key)
        return rendered

    def _render(self, margin: Span, line: Line, text_width: int, width: int) -> RenderedLine:
        joined: list[tuple[str, Style]] = []
        for text, styles in _uniform_width_spans((margin, *line.spans)):
            self._join(joined, text, self._style(styles))
        text = "".join(text for text, _ in joined)
        taken = cell_width(text)
        ink = cell_width(text.rstrip())
        if line.fill:
            ink = max(taken, text_width)
            self._join(joined, " " * (ink - taken), self._style(line.fill))
        self._join(joined, " " * (width - max(ink, taken)), self._style(()))
        return RenderedLine(Strip([Segment(*part) for part in joined], max(width, taken)), ink)

    def _join(self, joined: list[tuple[str, Style]], text: str, style: Style) -> None:
        if not text:
            return
        if joined:
            before, last = joined[-1]
            same_background = last.bgcolor == style.bgcolor
            if last == style or (same_background and text.isspace() and _same_blanks(last, style)):
                joined[-1] = (before + text, last)
                return
            if same_background and before.isspace() and _same_blanks(last, style):
                joined[-1] = (before + text, style)
                return
        joined.append((text, style))

    def _style(self, styles: Styles) -> Style:
        style = self._styles.get(styles)
        if style is None:
            style = self._widget.rich_style
            for name in styles:
                style += self._rules(name)
            self._styles[styles] = style
        return style

    def _rules(self, name: str) -> Style:
        if name == SELECTED:
            return self._widget.screen.get_component_rich_style("screen--selection")
        if name.startswith(LINK_PREFIX) and self._links:
            return Style(link=name.removeprefix(LINK_PREFIX))
        if name not in STYLE_CLASSES:
            return Style.null()
        rules = self._widget.get_component_styles(STYLE_CLASSES[name])
        # In `rich_style` all colours are blended with those of the parent; only the declared ones
        # are used here.
        blended = rules.rich_style
        return rules.text_style + Style(
            color=blended.color if rules.has_rule("color") else None,
            bgcolor=blended.bgcolor if rules.has_rule("background") else None,
        )


def _uniform_width_spans(spans: Sequence[Span]) -> Iterator[Span]:
    """Applies `uniform_width`. A cluster that begins in one span and ends in the next is put into
    the first."""
    whole = "".join(span.text for span in spans)
    parts = uniform_width_parts(whole)
    if parts[0][1] == whole:
        yield from spans
        return
    end, at = 0, 0
    for text, styles in spans:
        end, first = end + len(text), at
        while at < len(parts) and parts[at][0] < end:
            at += 1
        yield Span("".join(part for _start, part in parts[first:at]), styles)


def _same_blanks(one: Style, other: Style) -> bool:
    """Whether spaces look the same in both styles, given the same background."""
    return not any(s.underline or s.strike or s.reverse or s.link for s in (one, other))
