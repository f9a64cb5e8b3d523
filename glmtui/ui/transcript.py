"""Transcript: the conversation as one view drawn line by line, which follows its end.

A widget per message would cost a second per key in a long conversation. Here messages are lines
(`glmtui.ui.entry`), made once per width: the last ones first, the older ones while nothing else is
to do. What changes is drawn, and no more. Knows no conversation and no engine.
"""

from __future__ import annotations

import math
import time
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from typing import Any, ClassVar

import textual.message
from textual import events
from textual.geometry import Offset, Region, Size
from textual.scroll_view import ScrollView
from textual.selection import Selection
from textual.strip import Strip
from textual.widget import Widget

from glmtui.chat import Message
from glmtui.ui.entry import MARGIN, Entry
from glmtui.ui.looks import CSS, LOOKS, SELECTED, Drawn, Looks
from glmtui.ui.wrap import BLANK, Line, cut, marked, plain_text

WIDEST = 100
"""Cells of the longest line of text: longer ones are hard to read."""

_SLICE_SECONDS = 0.008  # for laying out older messages at a time; a key waits no longer
_SCROLL_SECONDS = 0.25  # between two scrolls while a reply is written line by line


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
        self._looks = Looks(self)
        self._entries: list[Entry] = []
        self._first = 0  # of the entries, the first that is laid out; all after it are
        self._starts: list[int] = []  # their first lines
        self._total = 0  # lines of them all
        self._seen = 0  # of which so many were there, or came into view, since following ended
        self._told = (True, 0)
        self._inked: dict[int, int] = {}  # cells drawn, by row of the screen
        self._scrolled_at = 0.0  # when the end last came into view by scrolling,
        self._scrolled_to = 0  # and how many lines there were
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
        places = places or {}
        known = {(entry.message, entry.place): entry for entry in self._entries}
        wanted = [(message, places.get(message.id)) for message in messages]
        self._entries = [known.get(key) or Entry(*key) for key in wanted]
        self._follow(True)
        self._lay_out()
        self._scroll(max(0, self._total - self.size.height))
        self.refresh()
        self._tell()

    def begin(self, message: Message, place: tuple[int, int] | None = None) -> None:
        """Shows one more message, which may grow, and goes to the end."""
        entry = Entry(message, place, growing=True)
        self._entries.append(entry)
        self._follow(True)
        if self._width:
            entry.lay_out(self._width)
            self._starts.append(self._total)
            self._grown(0)

    def append(self, text: str) -> None:
        """The message that was begun goes on."""
        self._grown(self._entries[-1].append(text))

    def finish(self, message: Message, note: str = "") -> None:
        """The message that was begun, as it is at its end.

        Args:
            note: more to say under it.
        """
        self._grown(self._entries[-1].finish(message, note))

    @property
    def lines_below(self) -> int:
        """Lines that came since the user scrolled away and were not in view yet."""
        return 0 if self.following else max(0, self._total - self._seen)

    # ---- laying out

    @property
    def _width(self) -> int:
        """Cells of a line of text; 0 as long as the widget has no size."""
        return max(0, min(WIDEST, self.size.width - len(MARGIN.text) - 1))

    def _lay_out(self, back_to: int | None = None) -> None:
        """Lays out the messages from this one on, or enough of the last; the others later."""
        self._first, self._starts, self._total = len(self._entries), [], 0
        if self._width:
            enough = 2 * self.size.height
            self._look_back(
                lambda: self._total >= enough if back_to is None else self._first <= back_to
            )
            self._look_back_later()
        self._reach(self._total)

    def _look_back(self, enough: Callable[[], bool]) -> int:
        """Lays out older messages. Returns how many lines came on top."""
        before = self._total
        while self._first > 0 and not enough():
            self._first -= 1
            entry = self._entries[self._first]
            entry.lay_out(self._width)
            self._total += len(entry)
        lengths = map(len, self._entries[self._first :])
        self._starts = list(accumulate(lengths, initial=0))[:-1]
        return self._total - before

    def _look_back_later(self) -> None:
        if self._first > 0 and not self._waiting:
            self._waiting = True
            self.set_timer(_SLICE_SECONDS, self._look_back_for_a_while)

    def _look_back_for_a_while(self) -> None:
        self._waiting = False
        if self.text_selection is None:  # else its lines would get other numbers
            until = self._clock() + _SLICE_SECONDS
            self._on_top(self._look_back(lambda: self._clock() >= until))
        self._look_back_later()

    def _on_top(self, lines: int) -> None:
        """So many lines came on top; what is in view stays there."""
        self._seen += lines
        self._reach(self.virtual_size.height + lines)
        self._scroll(self.scroll_offset.y + lines)

    def _grown(self, first: int) -> None:
        """The last message has changed from its line `first` on."""
        if not self._starts:
            return
        self._total = self._starts[-1] + len(self._entries[-1])
        self._reach(max(self._total, self.virtual_size.height))
        moved = self.following and self._to_end()
        self._draw(0 if moved else self._starts[-1] + first)
        self._tell()

    def on_resize(self) -> None:
        """Makes the lines anew for another width; the first in view stays in view."""
        if self._starts and self._entries[-1].width == self._width:
            if self.following:
                self._reach(self._total)
                self._scroll(max(0, self._total - self.size.height))
            return
        below = self.lines_below
        if self.following or not self._starts:
            self._lay_out()
            self._scroll(max(0, self._total - self.size.height))
        else:
            index, line = self._find(self.scroll_offset.y)
            entry = self._entries[index]
            place = entry.place_of(line)
            self._lay_out(back_to=index)
            self._scroll(min(entry.line_at(place), self.max_scroll_y))
        self._seen = self._total - below
        self.screen.clear_selection()
        self.refresh()

    def _find(self, y: int) -> tuple[int, int]:
        """The entry that a line of the view belongs to, and which of its lines that is."""
        at = max(0, bisect_right(self._starts, y) - 1)
        return self._first + at, y - self._starts[at]

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

    def _to_end(self) -> bool:
        """Brings the end into view. False where it is.

        A scroll draws every row anew, so lines that come fast come several at a time, into a
        space kept free for them.
        """
        height = self.size.height
        missing = self._total - (self.scroll_offset.y + height)
        if missing <= 0:
            return False
        now = self._clock()
        passed, self._scrolled_at = now - self._scrolled_at, now
        lines, self._scrolled_to = self._total - self._scrolled_to, self._total
        soon = math.ceil(lines * _SCROLL_SECONDS / passed) if passed > 0 else height
        self._reach(self._total + (soon - missing if missing < soon <= height // 3 else 0))
        self._scroll(self.virtual_size.height - height)
        return True

    def _follow(self, following: bool) -> None:
        if following == self.following:
            return
        self.following = following
        self.set_class(not following, "-away")
        if not following:
            self._seen = self._total
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
        self._on_top(self._look_back(lambda: False))
        super().scroll_home(**options)

    # ---- drawing

    def _draw(self, first: int) -> None:
        """Draws the lines from `first` on as far as they are in view, where they have ink or
        cover some."""
        if self.text_selection is not None:
            self.refresh()
            return
        width, height = self.size
        top = self.scroll_offset.y
        regions = []
        for row in range(max(0, first - top), height):
            ink = max(self._drawn(top + row).ink, self._inked.get(row, width))
            if ink:
                regions.append(Region(0, row, ink, 1))
        if regions:
            self.refresh(*regions)

    def _drawn(self, y: int) -> Drawn:
        margin, line = MARGIN, BLANK
        if y < self._total:
            index, at = self._find(y)
            margin, line = self._entries[index].margin(at), self._entries[index][at]
        measure = len(MARGIN.text) + self._width
        return self._looks.draw(margin, self._selected(line, y), measure, self.size.width)

    def _selected(self, line: Line, y: int) -> Line:
        span = self.text_selection.get_span(y) if self.text_selection is not None else None
        if span is None:
            return line
        start, end = span
        return marked(line, max(0, start), len(line.text) if end < 0 else end, SELECTED)

    def render_line(self, y: int) -> Strip:
        """A row of the view."""
        line = self.scroll_offset.y + y
        strip, self._inked[y] = self._drawn(line)
        return strip.apply_offsets(-len(MARGIN.text), line)

    def notify_style_update(self) -> None:
        """Another theme."""
        super().notify_style_update()
        self._looks.forget()

    # ---- selecting with the mouse

    def get_selection(self, selection: Selection) -> tuple[str, str] | None:
        """The selected text, unbroken, without bars and labels."""
        start = selection.start.y if selection.start else 0
        end = selection.end.y + 1 if selection.end else self._total
        lines = []
        for y in range(start, min(end, self._total)):
            index, at = self._find(y)
            line = self._entries[index][at]
            span = selection.get_span(y)
            if span is not None:
                first, last = max(0, span[0]), len(line.text) if span[1] < 0 else span[1]
                lines.append(line._replace(spans=cut(line.spans, first, last)))
        return plain_text(lines), "\n"

    def selection_updated(self, selection: Selection | None) -> None:
        """Shows what is selected."""
        self.refresh()

    def on_click(self, event: events.Click) -> None:
        """A double click selects a message, where it would select them all."""
        if event.chain == 2 and self._starts:
            event.prevent_default()
            index, _ = self._find(min(self.scroll_offset.y + event.y, self._total - 1))
            start = self._starts[index - self._first]
            end = start + len(self._entries[index]) - 1
            self.screen.selections = {self: Selection(Offset(0, start), Offset(0, end))}
