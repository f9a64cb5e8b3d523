"""Finding a conversation: the list of all, arranged in place, and the search through their text.

A dialog answers with what was found; opening it is the app's. Both read files on threads of
their own, so that a key never waits for a disk.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Input, OptionList, Static
from textual.widgets.option_list import Option

from glmtui.errors import StoreError
from glmtui.language import _, ngettext
from glmtui.sanitize import one_line, visible
from glmtui.store import Summary
from glmtui.store.search import Hit, search
from glmtui.ui.dialogs import MOST_ROWS
from glmtui.ui.shelf import Shelf

PATIENCE = 0.15
"""Seconds a list may take before it is shown without its rows."""
BATCH_SECONDS = 0.1
SHOWN_BEFORE, WIDEST = 24, 90  # cells of a place in a text


@dataclass(frozen=True, slots=True)
class Found:
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


class FindingDialog(ModalScreen[Found | None]):
    """A field above a list; what the list has is the subclass's."""

    AUTO_FOCUS = "Input"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "leave", show=False),
        Binding("up", "move('cursor_up')", show=False),
        Binding("down", "move('cursor_down')", show=False),
        Binding("pageup", "move('page_up')", show=False),
        Binding("pagedown", "move('page_down')", show=False),
    ]

    def __init__(self, title: str, words: str, placeholder: str, foot: str) -> None:
        super().__init__()
        self._title = title
        self._foot = foot
        self.field = Input(words, placeholder=placeholder, compact=True)
        self.field.cursor_blink = False
        self.list = OptionList(compact=True)
        self.list.can_focus = False
        self.said = Static(Content(""), classes="note")
        self.said.display = False

    def compose(self) -> ComposeResult:
        """Title, field, list, what there is to say, the keys."""
        with Vertical(classes="dialog"):
            yield Static(Content(self._title), classes="heading")
            yield self.field
            yield self.list
            yield self.said
            yield Static(Content(self._foot), classes="help")

    def say(self, text: str) -> None:
        """A line under the list; "" takes it away."""
        self.said.display = bool(text)
        self.said.update(Content(visible(text)))

    def action_leave(self) -> None:
        """Closes without an answer."""
        self.dismiss(None)

    def action_move(self, how: str) -> None:
        """Moves in the list while the cursor stays in the field."""
        getattr(self.list, f"action_{how}")()


class ConversationPicker(FindingDialog):
    """The saved conversations, pinned ones first, then the newest; a filter for their titles."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+r", "rename", show=False, priority=True),
        Binding("ctrl+t", "pin", show=False, priority=True),
        Binding("ctrl+d", "delete", show=False, priority=True),
        Binding("ctrl+z", "undo", show=False, priority=True),
        Binding("ctrl+y", "copy", show=False, priority=True),
        Binding("ctrl+f", "search", show=False, priority=True),
    ]

    def __init__(self, shelf: Shelf, filter_text: str = "") -> None:
        keys = _(
            "Enter opens   Ctrl+R titles   Ctrl+T pins   Ctrl+D deletes   Ctrl+Z undoes\n"
            "Ctrl+Y opens a copy   Ctrl+F searches the text   Esc closes"
        )
        super().__init__(_("Saved conversations"), filter_text, _("Type to filter"), keys)
        self._shelf = shelf
        self._all: list[tuple[Summary, str]] = []
        self._shown: list[Summary] = []
        self._titled: Summary | None = None
        self._filter = filter_text

    def on_mount(self) -> None:
        """Reads the list; what it takes longer is waited for with an empty one."""
        self._read("")

    def _read(self, selected: str) -> None:
        soon = self.app.call_later  # this dialog may be closed before the thread ends

        def work() -> None:
            try:
                listed, wrong = self._shelf.listed(), ""
            except StoreError as error:
                listed, wrong = [], str(error)
            soon(self._take, listed, wrong, selected)

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        thread.join(PATIENCE)
        if thread.is_alive() and not self._all:
            self.say(_("Reading …"))

    def _take(self, listed: list[Summary], wrong: str, selected: str) -> None:
        self._all = [(row, f"{row.title} {row.model} {row.id}".lower()) for row in listed]
        self.say(wrong or ("" if listed else _("None yet.")))
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
            self._end_titling()
            self._do(lambda: self._shelf.rename(titled.id, event.value), titled.id)
        elif self.selected is not None:
            self.dismiss(Found(self.selected.id))

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        """Opens the conversation that was clicked."""
        if event.option_index < len(self._shown):
            self.dismiss(Found(self._shown[event.option_index].id))

    # ---- keys

    def action_leave(self) -> None:
        """Leaves the title as it was, or closes."""
        if self._titled is not None:
            self._end_titling()
        else:
            super().action_leave()

    def action_rename(self) -> None:
        """Makes the field one for the title."""
        if self.selected is not None and self._titled is None:
            self._titled = self.selected
            self.field.value = one_line(self._titled.title)
            self.field.cursor_position = len(self.field.value)
            self.say(_("The new title; Enter keeps it, Esc leaves it as it was."))

    def _end_titling(self) -> None:
        selected = self._titled.id if self._titled else ""
        self._titled = None
        self.field.value = self._filter
        self.say("")
        self._fill(selected)

    def action_pin(self) -> None:
        """Pins, or no longer."""
        if (row := self.selected) is not None:
            self._do(lambda: self._shelf.pin(row.id, not row.pinned), row.id)

    def action_delete(self) -> None:
        """Puts it into the trash; the next one is highlighted."""
        if (row := self.selected) is None:
            return
        at = self._shown.index(row)
        beside = [*self._shown[at + 1 : at + 2], *self._shown[max(0, at - 1) : at]]
        if self._do(lambda: self._shelf.delete(row.id), beside[0].id if beside else ""):
            title = one_line(row.title)
            self.say(_("Deleted: {title}. Ctrl+Z brings it back.").format(title=title))

    def action_undo(self) -> None:
        """Brings back what was deleted last."""
        self._do(lambda: self._shelf.undo())

    def action_copy(self) -> None:
        """Opens a copy."""
        if self.selected is not None:
            self.dismiss(Found(self.selected.id, copy=True))

    def action_search(self) -> None:
        """Goes to the search through the texts, with what is typed."""
        self.dismiss(Found(words=self.field.value, search=True))

    def _do(self, change: Callable[[], str | None], selected: str = "") -> bool:
        try:
            restored = change()
        except StoreError as error:
            self.say(str(error))
            return False
        self._read(restored or selected)
        return True


class TextSearch(FindingDialog):
    """The search through all conversations: what has the words, newest first, as it is found."""

    def __init__(self, paths: Callable[[], list[Path]], words: str = "") -> None:
        keys = _("Enter goes there   Esc closes")
        super().__init__(_("Find in all conversations"), words, _("Type what to find"), keys)
        self._paths = paths
        self._hits: list[Hit] = []
        self._search = 0  # counts them; an earlier one is not listened to
        self._done = ""

    def on_mount(self) -> None:
        """Begins with the words it was given."""
        self._begin()

    def on_input_changed(self, event: Input.Changed) -> None:
        """Searches as it is typed."""
        self._begin()

    def _begin(self) -> None:
        self._search += 1
        self._hits, words = [], self.field.value.strip()
        self.list.clear_options()
        self.say(_("Searching …") if words else "")
        if words:
            work = (self._search, words, self.app.call_later)
            threading.Thread(target=self._work, args=work, daemon=True).start()

    def _work(self, number: int, words: str, soon: Callable[..., object]) -> None:
        hits: list[Hit] = []
        count, told = 0, time.monotonic()
        try:
            for _path, found in search(self._paths(), words):
                hits += found
                count += len(found)
                if self._search != number or count >= MOST_ROWS:
                    break
                if hits and time.monotonic() - told > BATCH_SECONDS:
                    soon(self._add, number, hits)
                    hits, told = [], time.monotonic()
        except StoreError as error:
            soon(self._end, number, str(error))
        else:
            soon(self._add, number, hits)
            soon(self._end, number, "")

    def _add(self, number: int, hits: Iterable[Hit]) -> None:
        if number != self._search:
            return
        now = datetime.now(timezone.utc)
        last = self._hits[-1].conversation_id if self._hits else ""
        options = []
        for hit in hits:
            options.append(Option(_hit_label(hit, now, hit.conversation_id != last)))
            last = hit.conversation_id
            self._hits.append(hit)
        self.list.add_options(options)
        if self._hits and self.list.highlighted is None:
            self.list.highlighted = 0

    def _end(self, number: int, wrong: str) -> None:
        if number != self._search:
            return
        count = len(self._hits)
        if wrong or not count:
            self.say(wrong or _("Nothing has it."))
        elif count >= MOST_ROWS:
            self.say(
                _("The newest {count} places; type on to narrow them down").format(count=count)
            )
        else:
            self.say(ngettext("{count} place", "{count} places", count).format(count=count))

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Goes to the highlighted place."""
        self._go(self.list.highlighted)

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        """Goes to the place that was clicked."""
        self._go(event.option_index)

    def _go(self, at: int | None) -> None:
        if at is not None:
            hit = self._hits[at]
            self.dismiss(Found(hit.conversation_id, hit.message_id, self.field.value.strip()))


def _label(summary: Summary, now: datetime) -> Content:
    title = one_line(summary.title) or _("(no title)")
    return Content.assemble(
        _when(summary.updated, now),
        ("* " if summary.pinned else "  ", "$text-accent"),
        Content(title).truncate(40, ellipsis=True, pad=True),
        Content.styled("  " + one_line(summary.model), "$text-muted").truncate(18, ellipsis=True),
    )


def _hit_label(hit: Hit, now: datetime, first: bool) -> Content:
    """The place, under its conversation's title where it is the first of it."""
    before, after = _flowing(hit.before)[-SHOWN_BEFORE:], _flowing(hit.after)
    place = Content.assemble(before, (_flowing(hit.found), "$text-accent bold"), after)
    if not hit.message_id:
        lines = [_when(hit.updated, now) + "  " + place]
    else:
        lines = ["          " + place]
        if first:
            lines.insert(0, Content.assemble(_when(hit.updated, now), "  ", one_line(hit.title)))
    return Content("\n").join(line.truncate(WIDEST, ellipsis=True) for line in lines)


def _flowing(text: str) -> str:
    """A piece of a text on one line, the blanks at its ends kept."""
    return re.sub(r"\s+", " ", visible(text))


def _when(then: datetime, now: datetime) -> Content:
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
