"""ConversationPicker: the list of saved conversations, where they are also renamed and deleted.

Files are read on a thread, so that keys never wait for the disk.
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
from glmtui.ui.dialogs.list_dialog import MAX_ROWS, ListDialog, more_option
from glmtui.ui.session.library import Library, in_order
from glmtui.ui.terminal.graphemes import uniform_width
from glmtui.ui.widgets.bindings import bindings

WAIT_SECONDS = 0.15
"""How long opening the dialog waits for the list, to avoid showing it empty first."""
BATCH_SECONDS = 0.1
"""Time until the first rows are shown while reading goes on; later batches take twice as long."""


@dataclass(frozen=True, slots=True)
class ConversationChoice:
    """The answer of a dialog.

    Attributes:
        message_id: the message to scroll to; "" is the end.
        query: what was searched for.
        copy: whether to open a copy of the conversation.
        search: whether to open the search dialog with `query` instead.
    """

    conversation_id: str = ""
    message_id: str = ""
    query: str = ""
    copy: bool = False
    search: bool = False


class ConversationListDialog(ListDialog[ConversationChoice]):
    """A list of conversations or messages that fills the height of the screen."""

    DIALOG_CLASSES = "dialog full-height"


class ConversationPicker(ConversationListDialog):
    """The saved conversations with a filter, pinned ones first, then the newest."""

    BINDINGS: ClassVar[list[BindingType]] = bindings(LIST, priority=True)

    def __init__(self, library: Library, keys: Sequence[Command], filter_text: str = "") -> None:
        self._keys = [command for command in keys if command.scope == LIST]
        texts = [_("Enter opens"), *hints(self._keys), _("Esc closes")]
        footer = "\n".join("   ".join(row) for row in (texts[:4], texts[4:]))
        placeholder = _("Type to filter")
        super().__init__(
            _("Saved conversations"), filter_text, placeholder=placeholder, footer=footer
        )
        self._library = library
        self._all: list[tuple[Summary, str]] = []  # with the text that the filter searches
        self._shown: list[Summary] = []
        self._renaming: Summary | None = None
        self._filter = filter_text
        self._reading = False
        self._changed = False  # whether the user has changed a file since reading began

    def on_mount(self) -> None:
        self._read("")

    def _read(self, selected: str) -> None:
        self._reading, self._changed = True, False
        soon = self.app.call_later  # this dialog may be closed before the thread ends

        def work() -> None:
            rows: list[Summary] = []
            error_text, shown_at = "", time.monotonic()
            wait = BATCH_SECONDS
            try:
                for row in self._library.iter_summaries():
                    # Titles and models come from files; they are sanitised here only.
                    title, model = sanitize_line(row.title), sanitize_line(row.model)
                    rows.append(replace(row, title=title, model=model))
                    if time.monotonic() - shown_at > wait:
                        soon(self._show_batch, list(rows))
                        shown_at, wait = time.monotonic(), 2 * wait
            except StoreError as error:
                error_text = str(error)
            soon(self._end_reading, rows, error_text, selected)

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        thread.join(WAIT_SECONDS)
        if thread.is_alive() and not self._all:
            self.set_status(_("Reading …"))

    def _show_batch(self, rows: list[Summary]) -> None:
        """Shows what has been read so far, unless this would undo something."""
        if len(rows) > len(self._all) and self._renaming is None and not self._changed:
            self._list(rows, self.selected.id if self.selected else "")

    def _end_reading(self, rows: list[Summary], error_text: str, selected: str) -> None:
        if self.selected is not None:
            selected = selected or self.selected.id
        if self._changed:
            self._read(selected)
            return
        self._reading = False
        self.set_status(error_text or ("" if rows else _("No saved conversations.")))
        self._list(rows, selected)

    def _list(self, rows: Iterable[Summary], selected: str) -> None:
        self._all = [(row, f"{row.title} {row.model} {row.id}".lower()) for row in in_order(rows)]
        self._fill(selected)

    def on_input_changed(self, event: Input.Changed) -> None:
        if self._renaming is None and event.value != self._filter:
            self._filter = event.value
            self._fill("")

    def _fill(self, selected: str) -> None:
        words = self._filter.lower().split()
        matches = [row for row, text in self._all if all(word in text for word in words)]
        self._shown = matches[:MAX_ROWS]
        now = datetime.now(timezone.utc)
        self.list.clear_options()
        self.list.add_options(Option(_label(row, now)) for row in self._shown)
        if more := len(matches) - len(self._shown):
            self.list.add_option(more_option(more))
        at = next((n for n, row in enumerate(self._shown) if row.id == selected), 0)
        self.list.highlighted = at if self._shown else None

    @property
    def selected(self) -> Summary | None:
        """The highlighted conversation."""
        at = self.list.highlighted
        return None if at is None or at >= len(self._shown) else self._shown[at]

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Opens the highlighted conversation, or renames it."""
        if (renamed := self._renaming) is not None:
            title = sanitize_line(event.value) or renamed.title
            self._end_renaming()
            if self._apply(lambda: self._library.rename(renamed.id, title)):
                self._replace_row(replace(renamed, title=title))
        elif self.selected is not None:
            self.dismiss(ConversationChoice(self.selected.id))

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        if event.option_index < len(self._shown):
            self.dismiss(ConversationChoice(self._shown[event.option_index].id))

    # ---- keys

    def action_leave(self) -> None:
        """Cancels renaming, or closes the dialog."""
        if self._renaming is not None:
            self._end_renaming()
        else:
            super().action_leave()

    def action_listed_title(self) -> None:
        """Starts renaming: the field now holds the title."""
        if self.selected is not None and self._renaming is None:
            self._renaming = self.selected
            self.field.value = self._renaming.title
            self.field.cursor_position = len(self.field.value)
            self.set_status(_("New title. Enter saves, Esc cancels."))

    def _end_renaming(self) -> None:
        selected = self._renaming.id if self._renaming else ""
        self._renaming = None
        self.field.value = self._filter
        self.set_status("")
        self._fill(selected)

    def action_listed_pin(self) -> None:
        """Pins or unpins."""
        row = self.selected
        if row is not None and self._apply(lambda: self._library.pin(row.id, not row.pinned)):
            self._replace_row(replace(row, pinned=not row.pinned))

    def action_listed_delete(self) -> None:
        """Moves to the trash and highlights the next conversation."""
        if (row := self.selected) is None:
            return
        at = self._shown.index(row)
        neighbours = [*self._shown[at + 1 : at + 2], *self._shown[max(0, at - 1) : at]]
        if self._apply(lambda: self._library.delete(row.id)):
            remaining = (other for other, _text in self._all if other.id != row.id)
            self._list(remaining, neighbours[0].id if neighbours else "")
            self.set_status(_("Deleted: {title}.").format(title=row.title) + self._undo_hint())

    def _undo_hint(self) -> str:
        (undo,) = (command for command in self._keys if command.action == "listed_undo")
        keys = undo.bare_key_names
        return _(" {key} restores it.").format(key=keys[0]) if keys else ""

    def action_listed_undo(self) -> None:
        """Restores the conversation that was deleted last."""
        restored = ""

        def undo() -> None:
            nonlocal restored
            restored = self._library.restore_last()

        if self._apply(undo) and restored:
            self._read(restored)

    def action_listed_copy(self) -> None:
        if self.selected is not None:
            self.dismiss(ConversationChoice(self.selected.id, copy=True))

    def action_listed_find(self) -> None:
        """Goes to the full-text search with the text in the field."""
        self.dismiss(ConversationChoice(query=self.field.value, search=True))

    def _apply(self, change: Callable[[], None]) -> bool:
        """Makes a change on disk. Shows the error and returns False if that fails."""
        try:
            change()
        except StoreError as error:
            self.set_status(str(error))
            return False
        self._changed = self._reading
        self.set_status("")
        return True

    def _replace_row(self, changed: Summary) -> None:
        """Replaces the row of the same conversation."""
        rows = (changed if row.id == changed.id else row for row, _text in self._all)
        self._list(rows, changed.id)


def _label(summary: Summary, now: datetime) -> Content:
    title = uniform_width(summary.title) or _("(no title)")
    return Content.assemble(
        age_column(summary.updated, now),
        ("* " if summary.pinned else "  ", "$text-accent"),
        Content(title).truncate(40, ellipsis=True, pad=True),
        Content.styled("  " + summary.model, "$text-muted").truncate(18, ellipsis=True),
    )


def age_column(then: datetime, now: datetime) -> Content:
    """`format_age` in a column of eight cells."""
    age = Content.styled(format_age(then, now), "$text-muted")
    return age.pad_left(max(0, 7 - age.cell_length)).pad_right(1)


def format_age(then: datetime, now: datetime) -> str:
    """The time from `then` to `now`, or the month, in at most seven cells: "3 h", "2024-05"."""
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
