"""Transcript: the widget that shows a conversation, drawn line by line.

One widget per message would make each key take a second in a long conversation. Here messages are
lines (`glmtui.ui.transcript.layout`), and only lines that change are drawn.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import textual.message
from textual import events
from textual.geometry import Offset, Region, Size
from textual.scroll_view import ScrollView
from textual.selection import Selection
from textual.strip import Strip
from textual.widget import Widget

from glmtui.chat import Message
from glmtui.ui.markdown.styled_text import plain_text, slice_spans, with_style
from glmtui.ui.terminal.driver import supports_links
from glmtui.ui.transcript.entry import MARGIN
from glmtui.ui.transcript.layout import TranscriptLayout
from glmtui.ui.transcript.styles import CSS, SELECTED, STYLE_CLASSES, LineRenderer

if TYPE_CHECKING:
    from typing_extensions import Self

MAX_TEXT_WIDTH = 100
"""Cells of the longest line of text; longer lines are hard to read."""

_SLICE_SECONDS = 0.008
"""Time for laying out older messages before keys are handled again."""

# Scrolling redraws every row. While a reply is generated, the view scrolls by several lines at a
# time, aiming at one scroll in _SCROLL_SECONDS, and waits at least _MIN_SCROLL_SECONDS in between.
_SCROLL_SECONDS, _MIN_SCROLL_SECONDS = 0.25, 0.15


class Transcript(ScrollView, can_focus=True):
    """The messages of a conversation, and the reply that is being generated.

    Attributes:
        following: whether the view stays at the end as lines are added. Scrolling away ends this,
            scrolling back to the end starts it again.
    """

    FOCUS_ON_CLICK = False  # the cursor stays in the prompt
    COMPONENT_CLASSES: ClassVar[set[str]] = set(STYLE_CLASSES.values())
    DEFAULT_CSS = (
        CSS
        + """
    Transcript {
        overflow-x: hidden;
        overflow-y: scroll;
        scrollbar-size-vertical: 1;
        scrollbar-visibility: hidden;
        &.-away { scrollbar-visibility: visible; }
    }
    """
    )

    class FollowingChanged(textual.message.Message):
        """`following` or `lines_below` has changed."""

        def __init__(self, following: bool, lines_below: int) -> None:
            super().__init__()
            self.following = following
            self.lines_below = lines_below

    def __init__(self, *, clock: Callable[[], float] = time.monotonic, **widget: Any) -> None:
        super().__init__(**widget)
        self.following = True
        self._clock = clock
        self._renderer = LineRenderer(self, links=supports_links(os.environ))
        self._layout = TranscriptLayout()
        self._seen_lines = 0  # number of lines up to the last one the user could have seen
        self._posted = (True, 0)  # what the last FollowingChanged said
        self._strips: dict[int, Strip] = {}  # the rows of the view as last drawn
        self._strips_size = Size()  # the size of the view at that time
        self._ink: dict[int, int] = {}  # number of cells of each row that are not blank
        self._scroll_time = 0.0  # of the last scroll to the end
        self._scroll_total = 0  # number of lines at that time
        self._scroll_scheduled = False
        self._older_scheduled = False  # whether older messages will be laid out soon

    # ---- messages

    def show(
        self,
        messages: Sequence[Message],
        places: Mapping[str, tuple[int, int]] | None = None,
    ) -> None:
        """Replaces all messages and scrolls to the end.

        Args:
            places: by message id: number among the alternatives, from 1, and how many there are.
        """
        self._layout.show(messages, places or {})
        self._follow(True)
        self._lay_out_end()
        self.refresh()
        self._post_following()

    def begin(self, message: Message, place: tuple[int, int] | None = None) -> None:
        """Adds a message that may grow, and scrolls to the end."""
        self._follow(True)
        self._lines_changed(self._layout.begin(message, place), at_once=True)

    def append(self, text: str) -> None:
        """Appends to the message that was begun."""
        self._lines_changed(self._layout.append(text))

    def finish(self, message: Message, note: str = "") -> None:
        """Completes the message that was begun.

        Args:
            note: shown below the message.
        """
        self._lines_changed(self._layout.finish(message, note), at_once=True)

    @property
    def lines_below(self) -> int:
        """Number of lines at the end that have been added and not seen since scrolling away."""
        return 0 if self.following else max(0, self._layout.total - self._seen_lines)

    def _lines_changed(self, first: int, *, at_once: bool = False) -> None:
        """Updates the view after the lines from `first` on have changed."""
        if not self._width:
            return
        self._set_height(max(self._layout.total, self.virtual_size.height))
        moved = self.following and self._scroll_to_end(at_once)
        self._draw(0 if moved else first)
        self._post_following()

    # ---- laying out

    @property
    def _width(self) -> int:
        """Width of a line of text in cells; 0 before the widget has a size."""
        return max(0, min(MAX_TEXT_WIDTH, self.size.width - len(MARGIN.text) - 1))

    @property
    def _text_end(self) -> int:
        """Cells from the left edge to the end of a line of text."""
        return len(MARGIN.text) + self._width

    def _lay_out_end(self) -> None:
        self._layout.lay_out(self._width, 2 * self.size.height)
        self._show_new_layout(self._layout.total)

    def _show_new_layout(self, y: int) -> None:
        """Updates the view after all lines were laid out; scrolls to line `y` if possible."""
        if self._width:
            self.screen.clear_selection()  # the line numbers of the selection are no longer valid
        self._set_height(self._layout.total)
        self._scroll(max(0, min(y, self._layout.total - self.size.height)))
        self._schedule_older()

    def _schedule_older(self) -> None:
        if self._width and not self._layout.is_whole and not self._older_scheduled:
            self._older_scheduled = True
            self.set_timer(_SLICE_SECONDS, self._lay_out_older_slice)

    def _lay_out_older_slice(self) -> None:
        self._older_scheduled = False
        if self.text_selection is None:  # line numbers must not change while there is one
            until = self._clock() + _SLICE_SECONDS
            self._lay_out_older(lambda: self._clock() >= until)
        self._schedule_older()

    def _lay_out_older(self, enough: Callable[[], bool]) -> None:
        """Lays out older messages until `enough()`. The lines in view do not move."""
        lines = self._layout.lay_out_older(enough)
        self._seen_lines += lines
        self._set_height(self.virtual_size.height + lines)
        self._scroll(self.scroll_offset.y + lines)

    def on_resize(self) -> None:
        """Lays out the lines for the new width. The text in the first row stays there."""
        below = self.lines_below
        if self._layout.width == self._width:
            if self.following:
                self._show_new_layout(self._layout.total)
        elif self.following or not self._layout.total:
            self._lay_out_end()
        else:
            anchor = self._layout.anchor(self.scroll_offset.y)
            self._show_new_layout(self._layout.lay_out_from(self._width, anchor))
        self._seen_lines = self._layout.total - below
        self.refresh()

    # ---- scrolling

    def _set_height(self, height: int) -> None:
        """Sets the number of lines to scroll in, without a layout of the whole screen."""
        self.set_reactive(Widget.virtual_size, Size(self.size.width, height))
        if not self.following:
            self.vertical_scrollbar.window_virtual_size = height

    def _scroll(self, y: int) -> None:
        """Sets the first line in view, without drawing."""
        self.set_scroll(None, y)
        self.set_reactive(Widget.scroll_target_y, y)
        if not self.following:
            self.vertical_scrollbar.position = y

    def _scroll_to_end(self, at_once: bool) -> bool:
        """Scrolls to the end, now or soon. Returns whether it scrolled now.

        If lines are added fast, it scrolls further than the end, so that the next lines fit into
        the empty rows without scrolling.
        """
        height = self.size.height
        total = self._layout.total
        missing = total - (self.scroll_offset.y + height)
        if missing <= 0:
            return False
        now = self._clock()
        passed = now - self._scroll_time
        if passed < _MIN_SCROLL_SECONDS and not at_once:
            if not self._scroll_scheduled:
                self._scroll_scheduled = True
                self.set_timer(_MIN_SCROLL_SECONDS - passed, self._scroll_to_end_late)
            return False
        lines = total - self._scroll_total
        self._scroll_time, self._scroll_total = now, total
        expected = math.ceil(lines * _SCROLL_SECONDS / passed) if passed > 0 else height
        spare = expected - missing if missing < expected <= height // 3 else 0
        self._set_height(total + spare)
        self._scroll(self.virtual_size.height - height)
        return True

    def _scroll_to_end_late(self) -> None:
        self._scroll_scheduled = False
        if self.following and self._scroll_to_end(at_once=True):
            self._draw(0)

    def _follow(self, following: bool) -> None:
        if following == self.following:
            return
        self.following = following
        self.set_class(not following, "-away")
        if not following:
            self._seen_lines = self._layout.total
            self._set_height(self.virtual_size.height)

    def _post_following(self) -> None:
        now = (self.following, self.lines_below)
        if now != self._posted:
            self._posted = now
            self.post_message(self.FollowingChanged(*now))

    def watch_scroll_target_y(self, y: float) -> None:
        """Ends or starts following when the user scrolls."""
        if self.size:
            self._follow(y >= self.max_scroll_y)
            self._post_following()

    def watch_scroll_y(self, old_value: float, new_value: float) -> None:
        """Draws only what differs. Overrides Textual's method, which refreshes the whole view."""
        self.vertical_scrollbar.position = new_value
        if round(old_value) != round(new_value):
            self._seen_lines = max(self._seen_lines, round(new_value) + self.size.height)
            self._draw(0)
            self._post_following()

    def scroll_home(self, **options: Any) -> None:
        """Lays out all messages first."""
        self._lay_out_older(lambda: False)
        super().scroll_home(**options)

    def show_message(self, message_id: str, query: str = "") -> None:
        """Scrolls to the first line of a message that contains `query`, if the message is here."""
        if message_id in self._layout.ids and self._width:
            self._lay_out_older(lambda: self._layout.is_laid_out(message_id))
            line = self._layout.line_with(message_id, query)
            self.scroll_to(y=max(0, line - self.size.height // 3))

    def scroll_to(self, x: float | None = None, y: float | None = None, **options: Any) -> None:
        """Never animates: on a slow link, each step would be a screenful of bytes to wait for."""
        super().scroll_to(x, y, **{**options, "animate": False})

    def scroll_end(self, **options: Any) -> None:
        super().scroll_end(**{**options, "animate": False})

    # ---- drawing

    def _draw(self, first: int) -> None:
        """Draws the lines from `first` on that are in view, except cells that remain blank."""
        if self.text_selection is not None:
            self.refresh()
            return
        width, height = self.size
        text_end, top = self._text_end, self.scroll_offset.y
        regions = []
        for row in range(max(0, first - top), height):
            rendered = self._renderer.render(*self._layout.line(top + row), text_end, width)
            ink = max(rendered.ink, self._ink.get(row, width))
            if ink:
                regions.append(Region(0, row, ink, 1))
        if regions:
            self.refresh(*regions)

    def render_line(self, y: int) -> Strip:
        index = self.scroll_offset.y + y
        margin, line = self._layout.line(index)
        span = self.text_selection.get_span(index) if self.text_selection is not None else None
        if span is not None:
            start, end = span
            line = with_style(line, max(0, start), len(line.text) if end < 0 else end, SELECTED)
        strip, self._ink[y] = self._renderer.render(margin, line, self._text_end, self.size.width)
        return strip.apply_offsets(-len(MARGIN.text), index)

    def render_lines(self, crop: Region) -> list[Strip]:
        """Overrides Textual's method: draws only rows that have changed. There is no border."""
        if self._strips_size != self.size:
            self._strips_size = self.size
            self._strips.clear()
        if missing := [y for y in crop.line_range if y not in self._strips]:
            filters, background = self.get_line_filters(), self.background_colors[1]
            for y in missing:
                strip = self.render_line(y)
                for line_filter in filters:
                    strip = strip.apply_filter(line_filter, background)
                self._strips[y] = strip
        start, end = crop.column_span
        rows = [self._strips[y] for y in crop.line_range]
        return rows if end - start == self.size.width else [row.crop(start, end) for row in rows]

    def refresh(self, *regions: Region, **options: Any) -> Self:
        if regions:
            for region in regions:
                for y in region.line_range:
                    self._strips.pop(y, None)
        else:
            self._strips.clear()
        return super().refresh(*regions, **options)

    def notify_style_update(self) -> None:
        super().notify_style_update()
        self._renderer.clear_cache()
        self._strips.clear()

    # ---- selecting with the mouse

    def get_selection(self, selection: Selection) -> tuple[str, str] | None:
        """The selected text with wrapped lines joined, without bars and labels."""
        first = selection.start.y if selection.start else 0
        last = selection.end.y if selection.end else self._layout.total
        lines = []
        for y in range(first, min(last + 1, self._layout.total)):
            _, line = self._layout.line(y)
            start, end = selection.get_span(y) or (0, 0)
            end = len(line.text) if end < 0 else end
            lines.append(line._replace(spans=slice_spans(line.spans, max(0, start), end)))
        return plain_text(lines), "\n"

    def selection_updated(self, selection: Selection | None) -> None:
        self.refresh()

    def on_click(self, event: events.Click) -> None:
        """A double click selects the text of one message, instead of the whole widget."""
        if event.chain == 2 and self._layout.total:
            event.prevent_default()
            y = min(self.scroll_offset.y + event.y, self._layout.total - 1)
            first, last = self._layout.message_at(y)
            self.screen.selections = {self: Selection(Offset(0, first), Offset(0, last))}
