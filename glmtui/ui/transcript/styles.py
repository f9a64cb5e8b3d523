"""What the styles of a transcript look like in the theme's colours, and lines drawn with them.

The bytes sent to a terminal are mostly changes of colour, so neighbours of one look are joined, and
blanks take the look of what they stand beside.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from rich.segment import Segment
from rich.style import Style
from textual.cache import LRUCache
from textual.strip import Strip
from textual.widget import Widget

from glmtui.ui.markdown.styled_text import LEADS_TO, Line, Span, Styles
from glmtui.ui.terminal.graphemes import cells, steadied

SELECTED = "selected"

_RULES = {
    "user": "background: $surface;",
    "user-bar": "color: $primary; background: $surface;",
    "picked-bar": "color: $accent; text-style: bold;",
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
LOOKS = {name: f"transcript--{name}" for name in _RULES}
"""Component classes by the names that lines use."""

CSS = "\n".join(f"Transcript > .{LOOKS[name]} {{ {rules} }}" for name, rules in _RULES.items())


class Drawn(NamedTuple):
    """A line as it goes to the screen.

    Attributes:
        ink: cells up to the last that is not blank; the rest of the row looks like an empty one.
    """

    strip: Strip
    ink: int


class TranscriptStyles:
    """The looks of one widget, whose component classes `LOOKS` are.

    Args:
        links: whether the terminal is told where links lead.
    """

    def __init__(self, widget: Widget, *, links: bool) -> None:
        self._widget = widget
        self._links = links
        self._styles: dict[Styles, Style] = {}
        self._drawn: LRUCache[tuple[Span, Line, int, int], Drawn] = LRUCache(1024)

    def forget(self) -> None:
        """The theme has changed."""
        self._styles.clear()
        self._drawn.clear()

    def draw(self, margin: Span, line: Line, measure: int, width: int) -> Drawn:
        """`line` after its margin as a row of `width` cells, its fill up to `measure` cells."""
        key = (margin, line, measure, width)
        drawn = self._drawn.get(key)
        if drawn is None:
            drawn = self._drawn[key] = self._draw(*key)
        return drawn

    def _draw(self, margin: Span, line: Line, measure: int, width: int) -> Drawn:
        joined: list[tuple[str, Style]] = []
        for text, styles in _steady((margin, *line.spans)):
            self._join(joined, text, self._style(styles))
        text = "".join(text for text, _ in joined)
        taken = cells(text)
        ink = cells(text.rstrip())
        if line.fill:
            ink = max(taken, measure)
            self._join(joined, " " * (ink - taken), self._style(line.fill))
        self._join(joined, " " * (width - max(ink, taken)), self._style(()))
        return Drawn(Strip([Segment(*part) for part in joined], max(width, taken)), ink)

    def _join(self, joined: list[tuple[str, Style]], text: str, style: Style) -> None:
        if not text:
            return
        if joined:
            before, look = joined[-1]
            one_ground = look.bgcolor == style.bgcolor
            if look == style or (one_ground and text.isspace() and _blank_alike(look, style)):
                joined[-1] = (before + text, look)
                return
            if one_ground and before.isspace() and _blank_alike(look, style):
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
        if name.startswith(LEADS_TO) and self._links:
            return Style(link=name.removeprefix(LEADS_TO))
        if name not in LOOKS:
            return Style.null()
        rules = self._widget.get_component_styles(LOOKS[name])
        whole = rules.rich_style  # its colours are mixed with those beneath
        return rules.text_style + Style(
            color=whole.color if rules.has_rule("color") else None,
            bgcolor=whole.bgcolor if rules.has_rule("background") else None,
        )


def _steady(spans: Sequence[Span]) -> Iterator[Span]:
    """The spans as every terminal draws them alike; a character between two is the first's."""
    whole = "".join(span.text for span in spans)
    drawn = steadied(whole)
    if drawn[0][1] == whole:
        yield from spans
        return
    end, at = 0, 0
    for text, styles in spans:
        end, first = end + len(text), at
        while at < len(drawn) and drawn[at][0] < end:
            at += 1
        yield Span("".join(part for _, part in drawn[first:at]), styles)


def _blank_alike(one: Style, other: Style) -> bool:
    """Whether blanks look the same in both, given one ground."""
    return not any(s.underline or s.strike or s.reverse or s.link for s in (one, other))
