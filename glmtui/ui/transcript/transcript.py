"""Transcript: the conversation as one view drawn line by line, which follows its end.

A widget per message would cost a second per key in a long conversation. Here messages are lines
(`glmtui.ui.transcript.layout`), and what changes is drawn, no more. Knows no conversation and no
engine.
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
from glmtui.ui.markdown.styled_text import cut, marked, plain_text
from glmtui.ui.terminal.driver import shows_links
from glmtui.ui.transcript.entry import MARGIN
from glmtui.ui.transcript.layout import TranscriptLayout
from glmtui.ui.transcript.styles import CSS, LOOKS, SELECTED, TranscriptStyles

if TYPE_CHECKING:
    from typing_extensions import Self

WIDEST = 100
"""Cells of the longest line of text: longer ones are hard to read."""

_SLICE_SECONDS = 0.008  # for laying out older messages at a time; a key waits no longer

# A scroll draws every row anew. While a reply is written there are this many seconds from one to
# the next if the lines that come meanwhile leave most of the view as it is; else at least so many.
_SCROLL_SECONDS, _FAST_SCROLL_SECONDS = 0.25, 0.15


class Transcript(ScrollView, can_focus=True):
    """The messages of a conversation, and a reply as it is written.

    Attributes:
        following: whether the end is in view and stays there as it moves on. Scrolling away ends
            it, coming back to the end begins it again.
    """

    FOCUS_ON_CLICK = False  # the cursor stays in the prompt
    COMPONENT_CLASSES: ClassVar[set[str]] = set(LOOKS.values())
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

    class Following(textual.message.Message):
        """`following` or `lines_below` has changed."""

        def __init__(self, following: bool, lines_below: int) -> None:
            super().__init__()
            self.following = following
            self.lines_below = lines_below

    def __init__(self, *, clock: Callable[[], float] = time.monotonic, **widget: Any) -> None:
        super().__init__(**widget)
        self.following = True
        self._clock = clock
        self._looks = TranscriptStyles(self, links=shows_links(os.environ))
        self._page = TranscriptLayout()
        self._seen = 0  # lines that were there, or came into view, since following ended
        self._told = (True, 0)
        self._rows: dict[int, Strip] = {}  # of the view, as they were drawn last,
        self._drawn_size = Size()  # in this size,
        self._inked: dict[int, int] = {}  # and how many cells of each
        self._scrolled_at = 0.0  # when the end last came into view by scrolling,
        self._scrolled_to = 0  # and how many lines there were
        self._late = False  # whether that will be done soon
        self._waiting = False  # for time to lay out older messages

    # ---- what is shown

    def show(
        self,
        messages: Sequence[Message],
        places: Mapping[str, tuple[int, int]] | None = None,
    ) -> None:
        """Shows these messages and no others, and goes to their end.

        Args:
            places: by message id, which of how many alternatives it is, counted from 1.
        """
        self._page.show(messages, places or {})
        self._follow(True)
        self._lay_out_end()
        self.refresh()
        self._tell()

    def begin(self, message: Message, place: tuple[int, int] | None = None) -> None:
        """Shows one more message, which may grow, and goes to the end."""
        self._follow(True)
        self._grown(self._page.begin(message, place), at_once=True)

    def append(self, text: str) -> None:
        """The message that was begun goes on."""
        self._grown(self._page.append(text))

    def finish(self, message: Message, note: str = "") -> None:
        """The message that was begun, as it is at its end.

        Args:
            note: more to say under it.
        """
        self._grown(self._page.finish(message, note), at_once=True)

    @property
    def lines_below(self) -> int:
        """Lines that came since the user scrolled away and were not in view yet."""
        return 0 if self.following else max(0, self._page.total - self._seen)

    def _grown(self, first: int, *, at_once: bool = False) -> None:
        """The lines from `first` on have changed."""
        if not self._width:
            return
        self._reach(max(self._page.total, self.virtual_size.height))
        moved = self.following and self._to_end(at_once)
        self._draw(0 if moved else first)
        self._tell()

    # ---- laying out

    @property
    def _width(self) -> int:
        """Cells of a line of text; 0 as long as the widget has no size."""
        return max(0, min(WIDEST, self.size.width - len(MARGIN.text) - 1))

    @property
    def _measure(self) -> int:
        """Cells up to the end of a line of text."""
        return len(MARGIN.text) + self._width

    def _lay_out_end(self) -> None:
        self._page.lay_out(self._width, 2 * self.size.height)
        self._laid_out(self._page.total)

    def _laid_out(self, y: int) -> None:
        """All lines are new; `y`, or the nearest to it there can be, is the first in view."""
        if self._width:
            self.screen.clear_selection()  # its lines have other numbers now
        self._reach(self._page.total)
        self._scroll(max(0, min(y, self._page.total - self.size.height)))
        self._look_back_later()

    def _look_back_later(self) -> None:
        if self._width and not self._page.is_whole and not self._waiting:
            self._waiting = True
            self.set_timer(_SLICE_SECONDS, self._look_back_for_a_while)

    def _look_back_for_a_while(self) -> None:
        self._waiting = False
        if self.text_selection is None:  # else its lines would get other numbers
            until = self._clock() + _SLICE_SECONDS
            self._look_back(lambda: self._clock() >= until)
        self._look_back_later()

    def _look_back(self, enough: Callable[[], bool]) -> None:
        """Lays out older messages; what is in view stays there."""
        lines = self._page.look_back(enough)
        self._seen += lines
        self._reach(self.virtual_size.height + lines)
        self._scroll(self.scroll_offset.y + lines)

    def on_resize(self) -> None:
        """Makes the lines anew for another width; the first in view stays in view."""
        below = self.lines_below
        if self._page.width == self._width:
            if self.following:
                self._laid_out(self._page.total)
        elif self.following or not self._page.total:
            self._lay_out_end()
        else:
            anchor = self._page.anchor(self.scroll_offset.y)
            self._laid_out(self._page.lay_out_from(self._width, anchor))
        self._seen = self._page.total - below
        self.refresh()

    # ---- scrolling

    def _reach(self, height: int) -> None:
        """Sets how many lines there are to scroll in, without laying out the whole screen."""
        self.set_reactive(Widget.virtual_size, Size(self.size.width, height))
        if not self.following:
            self.vertical_scrollbar.window_virtual_size = height

    def _scroll(self, y: int) -> None:
        """Scrolls without drawing."""
        self.set_scroll(None, y)
        self.set_reactive(Widget.scroll_target_y, y)
        if not self.following:
            self.vertical_scrollbar.position = y

    def _to_end(self, at_once: bool) -> bool:
        """Brings the end into view, or sees to it that it soon will be. False if it did not.

        Lines that come fast come several at a time, into a space kept free for them.
        """
        height = self.size.height
        total = self._page.total
        missing = total - (self.scroll_offset.y + height)
        if missing <= 0:
            return False
        now = self._clock()
        passed = now - self._scrolled_at
        if passed < _FAST_SCROLL_SECONDS and not at_once:
            if not self._late:
                self._late = True
                self.set_timer(_FAST_SCROLL_SECONDS - passed, self._to_end_late)
            return False
        lines = total - self._scrolled_to
        self._scrolled_at, self._scrolled_to = now, total
        soon = math.ceil(lines * _SCROLL_SECONDS / passed) if passed > 0 else height
        self._reach(total + (soon - missing if missing < soon <= height // 3 else 0))
        self._scroll(self.virtual_size.height - height)
        return True

    def _to_end_late(self) -> None:
        self._late = False
        if self.following and self._to_end(at_once=True):
            self._draw(0)

    def _follow(self, following: bool) -> None:
        if following == self.following:
            return
        self.following = following
        self.set_class(not following, "-away")
        if not following:
            self._seen = self._page.total
            self._reach(self.virtual_size.height)

    def _tell(self) -> None:
        now = (self.following, self.lines_below)
        if now != self._told:
            self._told = now
            self.post_message(self.Following(*now))

    def watch_scroll_target_y(self, y: float) -> None:
        """Whether the user leaves the end or comes back to it."""
        if self.size:
            self._follow(y >= self.max_scroll_y)
            self._tell()

    def watch_scroll_y(self, old_value: float, new_value: float) -> None:
        """Draws what differs, in place of the whole view."""
        self.vertical_scrollbar.position = new_value
        if round(old_value) != round(new_value):
            self._seen = max(self._seen, round(new_value) + self.size.height)
            self._draw(0)
            self._tell()

    def scroll_home(self, **options: Any) -> None:
        """To the first message, which may have to be laid out first."""
        self._look_back(lambda: False)
        super().scroll_home(**options)

    def show_message(self, message_id: str, words: str = "") -> None:
        """Brings a message into view, at the words in it, if there is one of this id."""
        if message_id in self._page.ids and self._width:
            self._look_back(lambda: self._page.is_laid_out(message_id))
            line = self._page.line_with(message_id, words)
            self.scroll_to(y=max(0, line - self.size.height // 3))

    def scroll_to(self, x: float | None = None, y: float | None = None, **options: Any) -> None:
        """At once: on a slow link, every step on the way is a screenful of bytes to wait for."""
        super().scroll_to(x, y, **{**options, "animate": False})

    def scroll_end(self, **options: Any) -> None:
        """To the end, which is followed from then on."""
        super().scroll_end(**{**options, "animate": False})

    # ---- drawing

    def _draw(self, first: int) -> None:
        """Draws the lines from `first` on as far as they are in view, where they have ink or
        cover some."""
        if self.text_selection is not None:
            self.refresh()
            return
        width, height = self.size
        measure, top = self._measure, self.scroll_offset.y
        regions = []
        for row in range(max(0, first - top), height):
            drawn = self._looks.draw(*self._page.line(top + row), measure, width)
            ink = max(drawn.ink, self._inked.get(row, width))
            if ink:
                regions.append(Region(0, row, ink, 1))
        if regions:
            self.refresh(*regions)

    def render_line(self, y: int) -> Strip:
        """A row of the view."""
        at = self.scroll_offset.y + y
        margin, line = self._page.line(at)
        span = self.text_selection.get_span(at) if self.text_selection is not None else None
        if span is not None:
            start, end = span
            line = marked(line, max(0, start), len(line.text) if end < 0 else end, SELECTED)
        strip, self._inked[y] = self._looks.draw(margin, line, self._measure, self.size.width)
        return strip.apply_offsets(-len(MARGIN.text), at)

    def render_lines(self, crop: Region) -> list[Strip]:
        """Rows of the view, of which only those that changed are drawn: there is no border."""
        if self._drawn_size != self.size:
            self._drawn_size = self.size
            self._rows.clear()
        if missing := [y for y in crop.line_range if y not in self._rows]:
            filters, ground = self.get_line_filters(), self.background_colors[1]
            for y in missing:
                strip = self.render_line(y)
                for line_filter in filters:
                    strip = strip.apply_filter(line_filter, ground)
                self._rows[y] = strip
        start, end = crop.column_span
        rows = [self._rows[y] for y in crop.line_range]
        return rows if end - start == self.size.width else [row.crop(start, end) for row in rows]

    def refresh(self, *regions: Region, **how: Any) -> Self:
        """These regions changed, or else all."""
        if regions:
            for region in regions:
                for y in region.line_range:
                    self._rows.pop(y, None)
        else:
            self._rows.clear()
        return super().refresh(*regions, **how)

    def notify_style_update(self) -> None:
        """Another theme."""
        super().notify_style_update()
        self._looks.forget()
        self._rows.clear()

    # ---- selecting with the mouse

    def get_selection(self, selection: Selection) -> tuple[str, str] | None:
        """The selected text, unbroken, without bars and labels."""
        first = selection.start.y if selection.start else 0
        last = selection.end.y if selection.end else self._page.total
        lines = []
        for y in range(first, min(last + 1, self._page.total)):
            _, line = self._page.line(y)
            start, end = selection.get_span(y) or (0, 0)
            end = len(line.text) if end < 0 else end
            lines.append(line._replace(spans=cut(line.spans, max(0, start), end)))
        return plain_text(lines), "\n"

    def selection_updated(self, selection: Selection | None) -> None:
        """Shows what is selected."""
        self.refresh()

    def on_click(self, event: events.Click) -> None:
        """A double click selects a message, where it would select them all."""
        if event.chain == 2 and self._page.total:
            event.prevent_default()
            y = min(self.scroll_offset.y + event.y, self._page.total - 1)
            first, last = self._page.message_at(y)
            self.screen.selections = {self: Selection(Offset(0, first), Offset(0, last))}
