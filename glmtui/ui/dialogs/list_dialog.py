"""Dialogs: a list under a field, one to pick from with a filter, a choice.

A dialog is asked a question and dismissed with the answer; what follows from it is the app's.
"""

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

MOST_ROWS = 200

Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class Row:
    """One thing to pick.

    Attributes:
        value: what the dialog answers.
        label: what is shown.
        words: what the filter looks through, in lower case.
    """

    value: str
    label: Content
    words: str


class ListDialog(ModalScreen[Answer | None]):
    """A field above a list, which can be walked while it is typed; Esc answers with None.

    Args:
        typed: what is in the field at first.
        note: something to know first.
        foot: what the keys do.

    Attributes:
        field, list: what the subclass fills and listens to.
    """

    AUTO_FOCUS = "Input"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "leave", show=False),
        Binding("up", "move('cursor_up')", show=False),
        Binding("down", "move('cursor_down')", show=False),
        Binding("pageup", "move('page_up')", show=False),
        Binding("pagedown", "move('page_down')", show=False),
    ]
    DIALOG = "dialog"

    def __init__(
        self, title: str, typed: str = "", *, placeholder: str, note: str = "", foot: str = ""
    ) -> None:
        super().__init__()
        self._title = title
        self._foot = foot
        self.field = Input(typed, placeholder=placeholder, compact=True)
        self.field.cursor_blink = False
        self.list = OptionList(compact=True)
        self.list.can_focus = False
        self._note, self._said = TextLine("note"), TextLine("note")
        self._note.say(note)

    def compose(self) -> ComposeResult:
        """Title, note, field, list, what there is to say, the keys."""
        with Vertical(classes=self.DIALOG):
            yield Static(Content(self._title), classes="heading")
            yield self._note
            yield self.field
            yield self.list
            yield self._said
            yield Static(Content(self._foot), classes="help")

    def say(self, text: str) -> None:
        """A line under the list; "" takes it away."""
        self._said.say(text)

    def action_leave(self) -> None:
        """Closes without an answer."""
        self.dismiss(None)

    def action_move(self, how: str) -> None:
        """Moves in the list while the cursor stays in the field."""
        getattr(self.list, f"action_{how}")()


class Picker(ListDialog[str]):
    """A filter above a list. Enter answers with the row.

    Args:
        typed_too: whether Enter answers with what was typed where no row fits.
    """

    def __init__(
        self,
        title: str,
        rows: Sequence[Row],
        *,
        selected: str = "",
        note: str = "",
        foot: str = "",
        typed_too: bool = False,
    ) -> None:
        super().__init__(title, placeholder=_("Type to filter"), note=note, foot=foot)
        self._rows = rows
        self._selected = selected
        self._typed_too = typed_too

    def on_mount(self) -> None:
        """Fills the list."""
        self._fill(self._selected)

    def on_input_changed(self, event: Input.Changed) -> None:
        """Filters as it is typed."""
        self._fill("")

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Answers with the highlighted row."""
        at = self.list.highlighted
        if at is not None and (option := self.list.get_option_at_index(at)).id is not None:
            self.dismiss(self._shown[int(option.id)].value)
        elif self._typed_too and event.value.strip():
            self.dismiss(event.value.strip())

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        """Answers with the row that was clicked."""
        if event.option.id is not None:
            self.dismiss(self._shown[int(event.option.id)].value)

    def _fill(self, selected: str) -> None:
        words = self.field.value.lower().split()
        fitting = [row for row in self._rows if all(word in row.words for word in words)]
        self._shown = fitting[:MOST_ROWS]
        self.list.clear_options()
        self.list.add_options(Option(row.label, id=str(n)) for n, row in enumerate(self._shown))
        if len(fitting) > MOST_ROWS:
            more = _("… {count:,} more; type to narrow them down").format(
                count=len(fitting) - MOST_ROWS
            )
            self.list.add_option(Option(Content(more), disabled=True))
        at = next((n for n, row in enumerate(self._shown) if row.value == selected), 0)
        self.list.highlighted = at if self._shown else None


class ChoiceDialog(ModalScreen[str | None]):
    """A question with a few answers, the first one highlighted. Enter gives one, Esc None.

    Args:
        text: what the question is about; all of it can be read, however long.
        answers: their words, by what the dialog answers.
    """

    AUTO_FOCUS = "OptionList"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "dismiss(None)", show=False),
        Binding("pageup", "look('page_up')", show=False, priority=True),
        Binding("pagedown", "look('page_down')", show=False, priority=True),
    ]

    def __init__(self, title: str, text: str, answers: Mapping[str, str]) -> None:
        super().__init__()
        self._title = title
        self._text = VerticalScroll(Static(Content(sanitize(text))), classes="text")
        self._dialog = VerticalScroll(classes="dialog small")
        self._text.can_focus = self._dialog.can_focus = False
        self._answers = OptionList(
            *(Option(Content(words), id=answer) for answer, words in answers.items()), compact=True
        )

    def compose(self) -> ComposeResult:
        """Title, text, answers, a line on the keys."""
        with self._dialog:
            yield Static(Content(self._title), classes="heading")
            yield self._text
            yield self._answers
            foot = _("Enter chooses   Esc: no   PgUp, PgDn: more of the text")
            yield Static(Content(foot), classes="help")

    def on_mount(self) -> None:
        """Highlights the first answer."""
        self._answers.highlighted = 0

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        """Answers."""
        self.dismiss(event.option.id)

    def action_look(self, how: str) -> None:
        """Scrolls the text, and in a low window the whole dialog."""
        for part in (self._text, self._dialog):
            getattr(part, f"scroll_{how}")(animate=False)
