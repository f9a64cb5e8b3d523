"""Finding a conversation in the list of all, where they are arranged too.

A dialog answers with what was found; opening it is the screen's. Files are read on a thread, so
that a key never waits for a disk.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from typing import ClassVar

from textual.binding import BindingType
from textual.content import Content
from textual.widgets import Input, OptionList
from textual.widgets.option_list import Option

from glmtui.commands import LIST, Command, hints
from glmtui.errors import StoreError
from glmtui.language import _
from glmtui.sanitize import sanitize_line
from glmtui.store import Summary
from glmtui.ui.dialogs.list_dialog import MOST_ROWS, ListDialog
from glmtui.ui.session.library import Library, in_order
from glmtui.ui.terminal.graphemes import steady
from glmtui.ui.widgets.bindings import bindings

PATIENCE = 0.15
"""Seconds a list may take before it is shown without its rows."""
BATCH_SECONDS = 0.1
"""Seconds to the first rows that are shown before all are read; later it takes twice as long."""


@dataclass(frozen=True, slots=True)
class ConversationEntry:
    """What a dialog answers.

    Attributes:
        message_id: where to go in it; empty for its end.
        words: what was looked for.
        copy: whether to go on in a copy.
        search: whether to look through the texts for `words` instead.
    """

    conversation_id: str = ""
    message_id: str = ""
    words: str = ""
    copy: bool = False
    search: bool = False


class ConversationListDialog(ListDialog[ConversationEntry]):
    """A list of conversations, or of places in them; as large as the screen lets it."""

    DIALOG = "dialog finding"


class ConversationPicker(ConversationListDialog):
    """The saved conversations, pinned ones first, then the newest; a filter for their titles."""

    BINDINGS: ClassVar[list[BindingType]] = bindings(LIST, priority=True)

    def __init__(self, library: Library, keys: Sequence[Command], filter_text: str = "") -> None:
        self._keys = [command for command in keys if command.scope == LIST]
        words = [_("Enter opens"), *hints(self._keys), _("Esc closes")]
        foot = "\n".join("   ".join(row) for row in (words[:4], words[4:]))
        placeholder = _("Type to filter")
        super().__init__(_("Saved conversations"), filter_text, placeholder=placeholder, foot=foot)
        self._library = library
        self._all: list[tuple[Summary, str]] = []
        self._shown: list[Summary] = []
        self._titled: Summary | None = None
        self._filter = filter_text
        self._reading = False
        self._changed = False  # since reading began: what was read may be as it was before

    def on_mount(self) -> None:
        """Reads the list; where that takes longer, what was read is shown meanwhile."""
        self._read("")

    def _read(self, selected: str) -> None:
        self._reading, self._changed = True, False
        soon = self.app.call_later  # this dialog may be closed before the thread ends

        def work() -> None:
            listed: list[Summary] = []
            wrong, told = "", time.monotonic()
            wait = BATCH_SECONDS
            try:
                for row in self._library.iter_summaries():
                    listed.append(row)
                    if time.monotonic() - told > wait:
                        soon(self._take_some, list(listed))
                        told, wait = time.monotonic(), 2 * wait
            except StoreError as error:
                wrong = str(error)
            soon(self._take, listed, wrong, selected)

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        thread.join(PATIENCE)
        if thread.is_alive() and not self._all:
            self.say(_("Reading …"))

    def _take_some(self, listed: list[Summary]) -> None:
        """What was read so far, if that is more than is shown."""
        if len(listed) > len(self._all) and self._titled is None and not self._changed:
            self._list(listed, self.selected.id if self.selected else "")

    def _take(self, listed: list[Summary], wrong: str, selected: str) -> None:
        if self.selected is not None:
            selected = selected or self.selected.id
        if self._changed:
            self._read(selected)
            return
        self._reading = False
        self.say(wrong or ("" if listed else _("None yet.")))
        self._list(listed, selected)

    def _list(self, rows: Iterable[Summary], selected: str) -> None:
        self._all = [(row, f"{row.title} {row.model} {row.id}".lower()) for row in in_order(rows)]
        self._fill(selected)

    def on_input_changed(self, event: Input.Changed) -> None:
        """Filters as it is typed."""
        if self._titled is None and event.value != self._filter:
            self._filter = event.value
            self._fill("")

    def _fill(self, selected: str) -> None:
        words = self._filter.lower().split()
        fitting = [row for row, text in self._all if all(word in text for word in words)]
        self._shown = fitting[:MOST_ROWS]
        now = datetime.now(timezone.utc)
        self.list.clear_options()
        self.list.add_options(Option(_label(row, now)) for row in self._shown)
        if more := len(fitting) - len(self._shown):
            text = _("… {count:,} more; type to narrow them down").format(count=more)
            self.list.add_option(Option(Content(text), disabled=True))
        at = next((n for n, row in enumerate(self._shown) if row.id == selected), 0)
        self.list.highlighted = at if self._shown else None

    @property
    def selected(self) -> Summary | None:
        """The highlighted conversation."""
        at = self.list.highlighted
        return None if at is None or at >= len(self._shown) else self._shown[at]

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Opens the highlighted conversation, or gives it the title that was typed."""
        if (titled := self._titled) is not None:
            title = sanitize_line(event.value) or titled.title
            self._end_titling()
            if self._done(lambda: self._library.rename(titled.id, title)):
                self._put(replace(titled, title=title))
        elif self.selected is not None:
            self.dismiss(ConversationEntry(self.selected.id))

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        """Opens the conversation that was clicked."""
        if event.option_index < len(self._shown):
            self.dismiss(ConversationEntry(self._shown[event.option_index].id))

    # ---- keys

    def action_leave(self) -> None:
        """Leaves the title as it was, or closes."""
        if self._titled is not None:
            self._end_titling()
        else:
            super().action_leave()

    def action_listed_title(self) -> None:
        """Makes the field one for the title."""
        if self.selected is not None and self._titled is None:
            self._titled = self.selected
            self.field.value = sanitize_line(self._titled.title)
            self.field.cursor_position = len(self.field.value)
            self.say(_("The new title; Enter keeps it, Esc leaves it as it was."))

    def _end_titling(self) -> None:
        selected = self._titled.id if self._titled else ""
        self._titled = None
        self.field.value = self._filter
        self.say("")
        self._fill(selected)

    def action_listed_pin(self) -> None:
        """Pins, or no longer."""
        row = self.selected
        if row is not None and self._done(lambda: self._library.pin(row.id, not row.pinned)):
            self._put(replace(row, pinned=not row.pinned))

    def action_listed_delete(self) -> None:
        """Puts it into the trash; the next one is highlighted."""
        if (row := self.selected) is None:
            return
        at = self._shown.index(row)
        beside = [*self._shown[at + 1 : at + 2], *self._shown[max(0, at - 1) : at]]
        if self._done(lambda: self._library.delete(row.id)):
            left = (other for other, _ in self._all if other.id != row.id)
            self._list(left, beside[0].id if beside else "")
            title = sanitize_line(row.title)
            self.say(_("Deleted: {title}.").format(title=title) + self._way_back())

    def _way_back(self) -> str:
        (undo,) = (command for command in self._keys if command.action == "listed_undo")
        keys = undo.bare_key_names
        return _(" {key} brings it back.").format(key=keys[0]) if keys else ""

    def action_listed_undo(self) -> None:
        """Brings back what was deleted last."""
        restored = ""

        def undo() -> None:
            nonlocal restored
            restored = self._library.restore_last()

        if self._done(undo) and restored:
            self._read(restored)

    def action_listed_copy(self) -> None:
        """Opens a copy."""
        if self.selected is not None:
            self.dismiss(ConversationEntry(self.selected.id, copy=True))

    def action_listed_find(self) -> None:
        """Goes to the search through the texts, with what is typed."""
        self.dismiss(ConversationEntry(words=self.field.value, search=True))

    def _done(self, change: Callable[[], None]) -> bool:
        """Makes a change on disk. Whether it could be made; else it is said why not."""
        try:
            change()
        except StoreError as error:
            self.say(str(error))
            return False
        self._changed = self._reading
        self.say("")
        return True

    def _put(self, changed: Summary) -> None:
        """This in place of the row that has its id."""
        self._list((changed if row.id == changed.id else row for row, _ in self._all), changed.id)


def _label(summary: Summary, now: datetime) -> Content:
    title = steady(sanitize_line(summary.title)) or _("(no title)")
    return Content.assemble(
        when(summary.updated, now),
        ("* " if summary.pinned else "  ", "$text-accent"),
        Content(title).truncate(40, ellipsis=True, pad=True),
        Content.styled("  " + sanitize_line(summary.model), "$text-muted").truncate(
            18, ellipsis=True
        ),
    )


def when(then: datetime, now: datetime) -> Content:
    """How long ago, in a column of eight cells."""
    words = Content.styled(age(then, now), "$text-muted")
    return words.pad_left(max(0, 7 - words.cell_length)).pad_right(1)


def age(then: datetime, now: datetime) -> str:
    """How long ago, in at most seven cells: "now", "5 min", "3 h", "2 d", "2024-05"."""
    minutes = (now - then).total_seconds() / 60
    if minutes < 1:
        return _("now")
    if minutes < 60:
        return _("{count:.0f} min").format(count=minutes)
    if minutes < 24 * 60:
        return _("{count:.0f} h").format(count=minutes / 60)
    if minutes < 100 * 24 * 60:
        return _("{count:.0f} d").format(count=minutes / 60 / 24)
    return then.strftime("%Y-%m")
