"""Base dialogs: a list below an input field, a picker with a filter, a choice of answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, TypeVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical, VerticalScroll
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Input, OptionList, Static
from textual.widgets.option_list import Option

from glmtui.language import _
from glmtui.sanitize import sanitize
from glmtui.ui.widgets.text_line import TextLine

MAX_ROWS = 200
"""Rows in a list. More would make it slow to fill; the user filters instead."""

Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class PickerRow:
    """A row of a picker.

    Attributes:
        value: the answer of the dialog if this row is picked.
        label: what is shown.
        search_text: what the filter searches, in lower case.
    """

    value: str
    label: Content
    search_text: str


class ListDialog(ModalScreen[Answer | None]):
    """An input field above a list. Arrow keys move in the list while the field has the focus.

    Escape dismisses it with None.

    Args:
        text: initial text of the field.
        note: shown above the field.
        footer: shown at the bottom; describes the keys.

    Attributes:
        field, list: their messages are handled by the subclass.
    """

    AUTO_FOCUS = "Input"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "leave", show=False),
        Binding("up", "move('cursor_up')", show=False),
        Binding("down", "move('cursor_down')", show=False),
        Binding("pageup", "move('page_up')", show=False),
        Binding("pagedown", "move('page_down')", show=False),
    ]
    DIALOG_CLASSES = "dialog"

    def __init__(
        self, title: str, text: str = "", *, placeholder: str, note: str = "", footer: str = ""
    ) -> None:
        super().__init__()
        self._title = title
        self._footer = footer
        self.field = Input(text, placeholder=placeholder, compact=True)
        self.field.cursor_blink = False
        self.list = OptionList(compact=True)
        self.list.can_focus = False
        self._note, self._status = TextLine("note"), TextLine("note")
        self._note.set_text(note)

    def compose(self) -> ComposeResult:
        with Vertical(classes=self.DIALOG_CLASSES):
            yield Static(Content(self._title), classes="heading")
            yield self._note
            yield self.field
            yield self.list
            yield self._status
            yield Static(Content(self._footer), classes="help")

    def set_status(self, text: str) -> None:
        """Sets the line below the list; "" hides it."""
        self._status.set_text(text)

    def action_leave(self) -> None:
        self.dismiss(None)

    def action_move(self, movement: str) -> None:
        getattr(self.list, f"action_{movement}")()


class Picker(ListDialog[str]):
    """A list with a filter. The answer is the value of the picked row.

    Args:
        selected: value of the row that is highlighted first.
        accepts_text: whether Enter answers with the text in the field if no row matches it.
    """

    def __init__(
        self,
        title: str,
        rows: Sequence[PickerRow],
        *,
        selected: str = "",
        note: str = "",
        footer: str = "",
        accepts_text: bool = False,
    ) -> None:
        super().__init__(title, placeholder=_("Type to filter"), note=note, footer=footer)
        self._rows = rows
        self._selected = selected
        self._accepts_text = accepts_text

    def on_mount(self) -> None:
        self._fill(self._selected)

    def on_input_changed(self, event: Input.Changed) -> None:
        self._fill("")

    def on_input_submitted(self, event: Input.Submitted) -> None:
        at = self.list.highlighted
        if at is not None and (option := self.list.get_option_at_index(at)).id is not None:
            self.dismiss(self._shown[int(option.id)].value)
        elif self._accepts_text and event.value.strip():
            self.dismiss(event.value.strip())

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        if event.option.id is not None:
            self.dismiss(self._shown[int(event.option.id)].value)

    def _fill(self, selected: str) -> None:
        words = self.field.value.lower().split()
        matches = [row for row in self._rows if all(word in row.search_text for word in words)]
        self._shown = matches[:MAX_ROWS]
        self.list.clear_options()
        self.list.add_options(Option(row.label, id=str(n)) for n, row in enumerate(self._shown))
        if more := len(matches) - len(self._shown):
            self.list.add_option(more_option(more))
        at = next((n for n, row in enumerate(self._shown) if row.value == selected), 0)
        self.list.highlighted = at if self._shown else None


def more_option(count: int) -> Option:
    """The last row of a list that does not show all matches."""
    text = _("… {count:,} more; type to filter").format(count=count)
    return Option(Content(text), disabled=True)


class ChoiceDialog(ModalScreen[str | None]):
    """A question with a few answers, the first one highlighted. Escape answers None.

    Args:
        text: details of the question, which can be scrolled.
        answers: labels by the value with which the dialog is dismissed.
    """

    AUTO_FOCUS = "OptionList"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "dismiss(None)", show=False),
        Binding("pageup", "scroll('page_up')", show=False, priority=True),
        Binding("pagedown", "scroll('page_down')", show=False, priority=True),
    ]

    def __init__(self, title: str, text: str, answers: Mapping[str, str]) -> None:
        super().__init__()
        self._title = title
        # A tool call's arguments and errors of tools enter here; nothing has sanitised them.
        self._text = VerticalScroll(Static(Content(sanitize(text))), classes="text")
        self._dialog = VerticalScroll(classes="dialog small")
        self._text.can_focus = self._dialog.can_focus = False
        self._answers = OptionList(
            *(Option(Content(label), id=answer) for answer, label in answers.items()), compact=True
        )

    def compose(self) -> ComposeResult:
        with self._dialog:
            yield Static(Content(self._title), classes="heading")
            yield self._text
            yield self._answers
            footer = _("Enter selects   Esc: no   PgUp, PgDn scroll the text")
            yield Static(Content(footer), classes="help")

    def on_mount(self) -> None:
        self._answers.highlighted = 0

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        self.dismiss(event.option.id)

    def action_scroll(self, movement: str) -> None:
        """Scrolls the text, and in a low window also the whole dialog."""
        for part in (self._text, self._dialog):
            getattr(part, f"scroll_{movement}")(animate=False)
