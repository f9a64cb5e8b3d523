"""Prompt: the text area in which a question is typed, with history and completion.

The screen decides what Enter does, and supplies the history and the providers for completion.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import ClassVar

from textual import events
from textual.actions import SkipAction
from textual.binding import BindingType
from textual.content import Content
from textual.document._document import Location
from textual.strip import Strip
from textual.widgets import TextArea

from glmtui.commands import PROMPT, Command
from glmtui.language import _
from glmtui.sanitize import sanitize
from glmtui.ui.prompt.completion import (
    Completion,
    Provider,
    command_completion,
    find_completions,
    history_completions,
)
from glmtui.ui.prompt.completion_list import CompletionList
from glmtui.ui.prompt.history import History
from glmtui.ui.prompt.paste_folding import PasteFolding, is_large
from glmtui.ui.terminal import graphemes
from glmtui.ui.widgets.bindings import bindings
from glmtui.ui.widgets.line_cache import LineCache

JOINERS = ("\u200c", "\u200d")
"""Zero-width characters that input methods type, in Persian words and in emoji. Textual drops them
because they are not printable."""


class Prompt(LineCache, TextArea):
    """The text area. The screen also has to mount `completion_list`, above it.

    Attributes:
        sent_history: the texts that Up and the history search recall.
        next_match_key: name of the key for the next match of a history search.
        providers: providers of argument values, by `Command.kind`.
        on_up_when_empty: called when Up is pressed in an empty prompt. Returns whether it moved
            the focus; otherwise Up recalls from the history.
    """

    BINDINGS: ClassVar[list[BindingType]] = bindings(PROMPT)

    def __init__(self, placeholder: str = "") -> None:
        # A Content, because a str would be parsed as markup.
        super().__init__(
            compact=True, highlight_cursor_line=False, placeholder=Content(placeholder)
        )
        self.completion_list = CompletionList(self._on_completion_chosen)
        self.sent_history = History()
        self.next_match_key = ""
        self.providers: Mapping[str, Provider] = {}
        self.on_up_when_empty: Callable[[], bool] = lambda: False
        self.cursor_blink = False
        self.show_vertical_scrollbar = False
        self._folding = PasteFolding()
        self._searching = False
        self._recalled = ""  # the last text from the history, as shown
        self._completed_text = ""  # the text for which completions were last found

    # ---- text

    @property
    def full_text(self) -> str:
        """The text with folded pastes unfolded."""
        return self._folding.unfold(self.text)

    def take_text(self) -> str:
        """Returns the full text, clears the prompt, and adds the text to the history."""
        text = self.full_text
        self.sent_history.add(text)
        self.set_text("")
        return text

    def set_text(self, text: str) -> None:
        """Replaces the text and moves the cursor to its end. The user can undo it."""
        self.sent_history.stop_recall()
        self._replace_text(self._folding.fold(sanitize(text)))

    def _replace_text(self, text: str) -> None:
        self.replace(text, (0, 0), self.document.end)
        self.move_cursor(self.document.end)

    # ---- completion

    def complete(self, command: Command) -> bool:
        """Writes `command` into the prompt. Returns whether it needs no argument to be sent."""
        return self._apply(command_completion(command))

    def _apply(self, completion: Completion) -> bool:
        """Writes a completion into the prompt. Returns whether the text can be sent."""
        self._searching = False
        if completion.replaced is None:
            self.set_text(completion.text)
        else:
            row, column = self.cursor_location
            self.replace(completion.text, (row, column - completion.replaced), (row, column))
        self.completion_list.show(())
        return completion.submits

    def on_text_area_changed(self) -> None:
        """Updates the completions; there are none for a text that has just been recalled."""
        self._completed_text = self.text
        if self.text != self._recalled:
            self.sent_history.stop_recall()
        if self._searching:
            self._show_matches()
        elif self.sent_history.is_recalling:
            self.completion_list.show(())
        else:
            row, column = self.cursor_location
            lines = self.document.lines
            before = lines[row][:column]
            found = find_completions(before, lines[row][column:], self.providers)
            if len(lines) > 1:  # a command must be the whole text
                found = tuple(item for item in found if item.replaced is not None)
            is_command = " " not in before and before.startswith("/")
            self.completion_list.show(found, select_first=is_command)

    def _on_completion_chosen(self, completion: Completion) -> None:
        self._apply(completion)
        self.focus()

    # ---- history

    def search_history(self, query: str = "") -> None:
        """Starts a search: while the user types, the list shows the sent texts that match."""
        self.set_text(query)
        self._searching = True
        self._show_matches()

    def action_search_history(self) -> None:
        """Starts a search with the text in the prompt, or moves to the next match."""
        if self._searching:
            self.completion_list.move(1)
        elif self.text.strip():
            self.search_history(self.full_text)
        else:
            raise SkipAction

    def _show_matches(self) -> None:
        found = history_completions(self.sent_history.matching(self.text))
        keys = _("Type to filter   Enter inserts   Esc closes")
        if self.next_match_key:
            keys += "   " + _("{key} next match").format(key=self.next_match_key)
        footer = keys if found else _("No matches")
        self.completion_list.show(found, select_first=True, footer=footer)

    def _recall(self, text: str | None) -> None:
        if text is not None:
            self._recalled = self._folding.fold(text)
            self._replace_text(self._recalled)

    # ---- keys

    async def on_key(self, event: events.Key) -> None:
        """Handles the keys of the completion list and all bindings in the order of their arrival.

        Textual runs bindings after all keys of a burst: over a slow link, "teh", two backspaces
        and "he" would become "te". And the text area would insert a line break for Enter.
        """
        focused = self.screen.focused
        if focused is not None and focused is not self:  # an earlier key of the burst moved it
            event.prevent_default().stop()
            focused.post_message(events.Key(event.key, event.character))
            return
        if self._completed_text != self.text:  # the Changed message is still behind the burst
            self.on_text_area_changed()
        if self.completion_list.display and self._handle_list_key(event.key):
            event.prevent_default().stop()
            return
        if event.character in JOINERS:
            event.prevent_default().stop()
            self._insert(event.character)
            return
        if event.key == "enter":
            event.prevent_default()
        bound = None if event.is_printable else self.screen.active_bindings.get(event.key)
        if bound and await self.app.run_action(bound.binding.action, bound.node):
            event.prevent_default().stop()

    def _handle_list_key(self, key: str) -> bool:
        """Handles a key of the completion list. Returns whether it needs no further handling."""
        if key == "escape":
            self._searching = False
            self.completion_list.show(())
            return True
        completion = self.completion_list.selected
        if key == "tab" and completion is None and self.completion_list.completions:
            completion = self.completion_list.completions[0]
        if key == "enter" and self._searching and completion is None:
            return True
        if completion is None or key not in ("tab", "enter"):
            return False
        return not self._apply(completion) or key == "tab"

    def on_paste(self, event: events.Paste) -> None:
        """Inserts pasted text. It is sanitised, and its line ends do not send the prompt."""
        event.prevent_default().stop()
        text = sanitize(event.text.replace("\r\n", "\n").replace("\r", "\n"))
        self._insert(self._folding.marker_for(text) if is_large(text) else text)

    def _insert(self, text: str) -> None:
        if result := self._replace_via_keyboard(text, *self.selection):
            self.move_cursor(result.end_location)

    def get_cursor_left_location(self) -> Location:
        """One grapheme cluster or folded paste to the left."""
        row, column = self.cursor_location
        line = self.document.lines[row]
        if not column:
            return super().get_cursor_left_location()
        if marker := self._folding.marker_before(line[:column]):
            return row, column - len(marker)
        return row, graphemes.previous_boundary(line, column)

    def get_cursor_right_location(self) -> Location:
        """One grapheme cluster or folded paste to the right."""
        row, column = self.cursor_location
        line = self.document.lines[row]
        if column == len(line):
            return super().get_cursor_right_location()
        if marker := self._folding.marker_after(line[column:]):
            return row, column + len(marker)
        return row, graphemes.next_boundary(line, column)

    def render_line(self, y: int) -> Strip:
        """A row of the same width on every terminal; see `graphemes.uniform_width`."""
        strip = super().render_line(y)
        if graphemes.uniform_width(strip.text) == strip.text:
            return strip
        return Strip(
            [segment._replace(text=graphemes.uniform_width(segment.text)) for segment in strip]
        )

    def on_resize(self) -> None:
        """Moves the terminal's own cursor, beside which input methods open their windows."""
        self.call_after_refresh(self._place_cursor)

    def _place_cursor(self) -> None:
        if self.has_focus:
            self.app.cursor_position = self.cursor_screen_offset

    def action_cursor_up(self, select: bool = False) -> None:
        """Up: in the list, in the text; in the first row recalls an older text."""
        if self.completion_list.display:
            self.completion_list.move(-1)
        elif select or self._row > 0:
            super().action_cursor_up(select)
        elif self.text or self.sent_history.is_recalling or not self.on_up_when_empty():
            self._recall(self.sent_history.older(self.full_text))

    def action_cursor_down(self, select: bool = False) -> None:
        """Down: in the list, in the text; in the last row recalls a newer text."""
        if self.completion_list.display:
            self.completion_list.move(1)
        elif select or self._row < self.wrapped_document.height - 1:
            super().action_cursor_down(select)
        else:
            self._recall(self.sent_history.newer())

    def action_cursor_page_up(self) -> None:
        """Leaves the key to the screen, which scrolls the transcript."""
        raise SkipAction

    def action_cursor_page_down(self) -> None:
        """Leaves the key to the screen, which scrolls the transcript."""
        raise SkipAction

    def action_copy(self) -> None:
        """Copies the selected text of the prompt; without one, leaves the key to the screen."""
        if not self.selected_text:
            raise SkipAction
        super().action_copy()

    @property
    def _row(self) -> int:
        return self.wrapped_document.location_to_offset(self.cursor_location).y
