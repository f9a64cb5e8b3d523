"""Page: the messages of a conversation as one run of lines, the last messages first.

To open a long conversation only its end has to be laid out; older messages are added on top when
there is time, or when someone looks. Knows lines and their numbers, not which of them are in view.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from typing import NamedTuple

from glmtui.chat import Message
from glmtui.ui.markdown.styled_text import BLANK, Line, Span
from glmtui.ui.transcript.entry import MARGIN, Entry


class Anchor(NamedTuple):
    """A place in the text, which is on another line at another width."""

    entry: int
    offset: int


class TranscriptLayout:
    """Lines, numbered from the first that is laid out.

    Attributes:
        width: cells of a line; 0 lays out none.
        total: lines that are laid out.
    """

    def __init__(self) -> None:
        self.width = 0
        self.total = 0
        self._entries: list[Entry] = []
        self._first = 0  # of the entries, the first that is laid out; all after it are
        self._starts: list[int] = []  # their first lines

    @property
    def is_whole(self) -> bool:
        """Whether all messages are laid out."""
        return self._first == 0

    # ---- messages

    def show(self, messages: Sequence[Message], places: Mapping[str, tuple[int, int]]) -> None:
        """These messages, none of them laid out; `places` is as `Transcript.show` has it."""
        known = {entry.message.id: entry for entry in self._entries}
        picked = self.picked
        self._entries = []
        for message in messages:
            place, entry = places.get(message.id), known.get(message.id)
            if entry is None or (entry.message, entry.place) != (message, place):
                entry = Entry(message, place)
            self._entries.append(entry)
        self._forget()
        self.pick(picked)

    def begin(self, message: Message, place: tuple[int, int] | None) -> int:
        """One more message, which may grow. Returns its first line."""
        entry = Entry(message, place, growing=True)
        self._entries.append(entry)
        if self.width:
            entry.lay_out(self.width)
            self._starts.append(self.total)
        return self._changed(0)

    def append(self, text: str) -> int:
        """The last message goes on. Returns the first line that is not as it was."""
        return self._changed(self._entries[-1].append(text))

    def finish(self, message: Message, note: str) -> int:
        """The last message at its end. Returns the first line that is not as it was."""
        return self._changed(self._entries[-1].finish(message, note))

    def _changed(self, first: int) -> int:
        if not self._starts:
            return 0
        self.total = self._starts[-1] + len(self._entries[-1])
        return self._starts[-1] + first

    # ---- the one that is picked

    @property
    def ids(self) -> list[str]:
        """The messages' ids, first to last."""
        return [entry.message.id for entry in self._entries]

    @property
    def picked(self) -> str | None:
        """The id of the message that is marked as the one that keys act on."""
        return next((entry.message.id for entry in self._entries if entry.picked), None)

    def pick(self, message_id: str | None) -> None:
        """Marks this message and no other."""
        for entry in self._entries:
            entry.picked = entry.message.id == message_id

    def fold(self, message_id: str) -> bool:
        """Hides or shows what the model thought before this reply. False where there is nothing."""
        at = self.ids.index(message_id)
        entry = self._entries[at]
        if not entry.has_thoughts:
            return False
        entry.fold(not entry.folded)
        self._number()
        return True

    def folded_at(self, y: int) -> str | None:
        """The id of the reply whose thoughts line `y` stands for, if it stands for any."""
        if y >= self.total:
            return None
        entry, start = self._at(y)
        return entry.message.id if entry.is_fold(y - start) else None

    def is_laid_out(self, message_id: str) -> bool:
        """Whether a message has lines yet."""
        return self.ids.index(message_id) >= self._first

    def lines_of(self, message_id: str) -> tuple[int, int]:
        """The first and the last line of a message that is laid out."""
        at = self.ids.index(message_id) - self._first
        return self._starts[at], self._starts[at] + len(self._entries[at + self._first]) - 1

    # ---- laying out

    def lay_out(self, width: int, at_least: int) -> None:
        """Lays out the last messages for this width, until there are so many lines."""
        self.width = width
        self._forget()
        self.look_back(lambda: self.total >= at_least)

    def lay_out_from(self, width: int, anchor: Anchor) -> int:
        """Lays out all messages from an anchor's on. Returns the line where it is now."""
        self.width = width
        self._forget()
        self.look_back(lambda: self._first <= anchor.entry)
        return self._entries[anchor.entry].line_at(anchor.offset)

    def look_back(self, enough: Callable[[], bool]) -> int:
        """Lays out older messages until it is enough. Returns how many lines came on top."""
        before = self.total
        while self.width and self._first > 0 and not enough():
            self._first -= 1
            entry = self._entries[self._first]
            entry.lay_out(self.width)
            self.total += len(entry)
        self._number()
        return self.total - before

    def _number(self) -> None:
        lengths = map(len, self._entries[self._first :])
        *self._starts, self.total = accumulate(lengths, initial=0)

    def _forget(self) -> None:
        self._first, self._starts, self.total = len(self._entries), [], 0

    # ---- messages by their ids

    def line_with(self, message_id: str, words: str) -> int:
        """The first line of a message that has these words, or the first of them, or any.

        The message is laid out.
        """
        at = self.ids.index(message_id)
        entry = self._entries[at]
        lines = [entry[n].text.lower() for n in range(len(entry))]
        for wanted in (words.lower(), *words.lower().split()[:1]):
            for n, line in enumerate(lines):
                if wanted in line:
                    return self._starts[at - self._first] + n
        return self._starts[at - self._first]

    # ---- lines

    def line(self, y: int) -> tuple[Span, Line]:
        """A line and what stands to its left; an empty one below the last."""
        if y >= self.total:
            return MARGIN, BLANK
        entry, start = self._at(y)
        return entry.margin(y - start), entry[y - start]

    def message_at(self, y: int) -> tuple[int, int]:
        """The first and the last line of the message that has line `y`."""
        entry, start = self._at(y)
        return start, start + len(entry) - 1

    def anchor(self, y: int) -> Anchor:
        """The place in the text where line `y` begins."""
        entry, start = self._at(y)
        return Anchor(self._entries.index(entry), entry.place_of(y - start))

    def _at(self, y: int) -> tuple[Entry, int]:
        at = max(0, bisect_right(self._starts, y) - 1)
        return self._entries[self._first + at], self._starts[at]
