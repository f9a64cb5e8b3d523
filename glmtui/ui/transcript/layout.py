"""TranscriptLayout: the messages of a conversation as one sequence of lines.

Messages are laid out from the last to the first: to open a long conversation, only its end is
needed. Older messages are added on top later.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from typing import NamedTuple

from glmtui.chat import Message
from glmtui.ui.markdown.styled_text import BLANK_LINE, Line, Span
from glmtui.ui.transcript.entry import MARGIN, Entry


class Anchor(NamedTuple):
    """A position in the text that does not depend on the width: entry and character offset."""

    entry: int
    offset: int


class TranscriptLayout:
    """The entries and their lines, numbered from the first line that is laid out.

    Attributes:
        width: cells of a line; 0 while nothing is laid out.
        total: number of lines that are laid out.
    """

    def __init__(self) -> None:
        self.width = 0
        self.total = 0
        self._entries: list[Entry] = []
        self._first = 0  # index of the first entry that is laid out; all after it are too
        self._starts: list[int] = []  # the first lines of these entries

    @property
    def is_whole(self) -> bool:
        """Whether all entries are laid out."""
        return self._first == 0

    # ---- messages

    def show(self, messages: Sequence[Message], places: Mapping[str, tuple[int, int]]) -> None:
        """Replaces all messages, without laying them out. `places`: see `Transcript.show`."""
        known = {entry.message.id: entry for entry in self._entries}
        selected_id = self.selected_id
        self._entries = []
        for message in messages:
            place, entry = places.get(message.id), known.get(message.id)
            if entry is None or (entry.message, entry.place) != (message, place):
                entry = Entry(message, place)
            self._entries.append(entry)
        self._clear()
        self.select(selected_id)

    def begin(self, message: Message, place: tuple[int, int] | None) -> int:
        """Adds a message that may grow. Returns its first line."""
        entry = Entry(message, place, growing=True)
        self._entries.append(entry)
        if self.width:
            entry.lay_out(self.width)
            self._starts.append(self.total)
        return self._update_total(0)

    def append(self, text: str) -> int:
        """Appends to the last message. Returns the first line that has changed."""
        return self._update_total(self._entries[-1].append(text))

    def finish(self, message: Message, note: str) -> int:
        """Completes the last message. Returns the first line that has changed."""
        return self._update_total(self._entries[-1].finish(message, note))

    def _update_total(self, first: int) -> int:
        if not self._starts:
            return 0
        self.total = self._starts[-1] + len(self._entries[-1])
        return self._starts[-1] + first

    # ---- the selected message

    @property
    def ids(self) -> list[str]:
        """The ids of all messages, first to last."""
        return [entry.message.id for entry in self._entries]

    @property
    def selected_id(self) -> str | None:
        """The id of the message that keys act on."""
        return next((entry.message.id for entry in self._entries if entry.is_selected), None)

    def select(self, message_id: str | None) -> None:
        """Selects this message, or none."""
        for entry in self._entries:
            entry.is_selected = entry.message.id == message_id

    def toggle_reasoning(self, message_id: str) -> bool:
        """Folds or unfolds the reasoning of a reply. Returns False if it has none."""
        at = self.ids.index(message_id)
        entry = self._entries[at]
        if not entry.has_reasoning:
            return False
        entry.set_folded(not entry.folded)
        self._number_lines()
        return True

    def reasoning_head_at(self, y: int) -> str | None:
        """The id of the reply of which line `y` is the heading of the reasoning, if it is one."""
        if y >= self.total:
            return None
        entry, start = self._at(y)
        return entry.message.id if entry.is_reasoning_head(y - start) else None

    def is_laid_out(self, message_id: str) -> bool:
        return self.ids.index(message_id) >= self._first

    def lines_of(self, message_id: str) -> tuple[int, int]:
        """The first and the last line of a message, which must be laid out."""
        at = self.ids.index(message_id) - self._first
        return self._starts[at], self._starts[at] + len(self._entries[at + self._first]) - 1

    # ---- laying out

    def lay_out(self, width: int, at_least: int) -> None:
        """Lays out the last messages for a new width, until there are `at_least` lines."""
        self.width = width
        self._clear()
        self.lay_out_older(lambda: self.total >= at_least)

    def lay_out_from(self, width: int, anchor: Anchor) -> int:
        """Lays out all messages from that of the anchor on. Returns the anchor's line."""
        self.width = width
        self._clear()
        self.lay_out_older(lambda: self._first <= anchor.entry)
        return self._entries[anchor.entry].line_at(anchor.offset)

    def lay_out_older(self, enough: Callable[[], bool]) -> int:
        """Lays out older messages until `enough()`. Returns the number of lines added on top."""
        before = self.total
        while self.width and self._first > 0 and not enough():
            self._first -= 1
            entry = self._entries[self._first]
            entry.lay_out(self.width)
            self.total += len(entry)
        self._number_lines()
        return self.total - before

    def _number_lines(self) -> None:
        lengths = map(len, self._entries[self._first :])
        *self._starts, self.total = accumulate(lengths, initial=0)

    def _clear(self) -> None:
        self._first, self._starts, self.total = len(self._entries), [], 0

    # ---- messages by their ids

    def line_with(self, message_id: str, query: str) -> int:
        """The first line of a message that contains `query`, or its first word, or any text.

        The message must be laid out.
        """
        at = self.ids.index(message_id)
        entry = self._entries[at]
        lines = [entry[n].text.lower() for n in range(len(entry))]
        for wanted in (query.lower(), *query.lower().split()[:1]):
            for n, line in enumerate(lines):
                if wanted in line:
                    return self._starts[at - self._first] + n
        return self._starts[at - self._first]

    # ---- lines

    def line(self, y: int) -> tuple[Span, Line]:
        """The margin and the line; empty below the last line."""
        if y >= self.total:
            return MARGIN, BLANK_LINE
        entry, start = self._at(y)
        return entry.margin(y - start), entry[y - start]

    def message_at(self, y: int) -> tuple[int, int]:
        """The first and the last line of the message to which line `y` belongs."""
        entry, start = self._at(y)
        return start, start + len(entry) - 1

    def anchor(self, y: int) -> Anchor:
        """The position of the beginning of line `y`."""
        entry, start = self._at(y)
        return Anchor(self._entries.index(entry), entry.text_offset(y - start))

    def _at(self, y: int) -> tuple[Entry, int]:
        at = max(0, bisect_right(self._starts, y) - 1)
        return self._entries[self._first + at], self._starts[at]
