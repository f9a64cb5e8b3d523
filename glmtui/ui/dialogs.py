"""Dialogs: a list to pick from with a filter, a choice.

A dialog is asked a question and dismissed with the answer; what follows from it is the app's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical, VerticalScroll
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Input, OptionList, Static
from textual.widgets.option_list import Option

from glmtui.language import _
from glmtui.sanitize import visible

MOST_ROWS = 200


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


class Picker(ModalScreen[str | None]):
    """A filter above a list. Enter answers with the row, Esc with None.

    Args:
        note: something to know first.
        typed_too: whether Enter answers with what was typed where no row fits.
    """

    AUTO_FOCUS = "Input"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "dismiss(None)", show=False),
        Binding("up", "move('cursor_up')", show=False),
        Binding("down", "move('cursor_down')", show=False),
        Binding("pageup", "move('page_up')", show=False),
        Binding("pagedown", "move('page_down')", show=False),
    ]

    def __init__(
        self,
        title: str,
        rows: Sequence[Row],
        *,
        filter_text: str = "",
        selected: str = "",
        note: str = "",
        foot: str = "",
        typed_too: bool = False,
    ) -> None:
        super().__init__()
        self._title = title
        self._rows = rows
        self._selected = selected
        self._note = note
        self._foot = foot
        self._typed_too = typed_too
        self._filter = Input(filter_text, placeholder=_("Type to filter"), compact=True)
        self._filter.cursor_blink = False
        self.list = OptionList(compact=True)
        self.list.can_focus = False

    def compose(self) -> ComposeResult:
        """Title, filter, list, a line on the keys."""
        with Vertical(classes="dialog"):
            yield Static(Content(self._title), classes="heading")
            if self._note:
                yield Static(Content(visible(self._note)), classes="note")
            yield self._filter
            yield self.list
            yield Static(Content(self._foot), classes="help")

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

    def action_move(self, how: str) -> None:
        """Moves in the list while the cursor stays in the filter."""
        getattr(self.list, f"action_{how}")()

    def _fill(self, selected: str) -> None:
        words = self._filter.value.lower().split()
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


class Choice(ModalScreen[str | None]):
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
        self._text = VerticalScroll(Static(Content(visible(text))), classes="text")
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
