"""Prompt: where a question is typed, with history and completion.

Grows with its text up to six rows. What Enter means, what was sent before and what there is to
choose from is the screen's business; nothing here knows conversations, models or files.
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
from glmtui.ui.prompt.completion import Completion, Provider, offers, sent_before, written_out
from glmtui.ui.prompt.completion_list import CompletionList
from glmtui.ui.prompt.history import History
from glmtui.ui.prompt.paste_folding import PasteFolding, is_large
from glmtui.ui.terminal import graphemes
from glmtui.ui.widgets.bindings import bindings
from glmtui.ui.widgets.line_cache import LineCache

JOINERS = ("\u200c", "\u200d")
"""Zero width, as typed by input methods: within words of Persian, within emoji."""


class Prompt(LineCache, TextArea):
    """The text area at the bottom. `completions` is shown above it, by whoever mounts both.

    Attributes:
        past: what Up and the search for it bring back.
        next_key: the key that goes on in that search, as a person reads it.
        providers: the choices for arguments, by `Command.kind`.
        above: asked when Up is pressed in an empty prompt; whether it takes the keys from there.
    """

    BINDINGS: ClassVar[list[BindingType]] = bindings(PROMPT)

    def __init__(self, placeholder: str = "") -> None:
        # A Content, for a plain string would be read as markup.
        super().__init__(
            compact=True, highlight_cursor_line=False, placeholder=Content(placeholder)
        )
        self.completions = CompletionList(self._choose)
        self.past = History()
        self.next_key = ""
        self.providers: Mapping[str, Provider] = {}
        self.above: Callable[[], bool] = lambda: False
        self.cursor_blink = False
        self.show_vertical_scrollbar = False
        self._pasted = PasteFolding()
        self._searching = False
        self._recalled = ""
        self._offered = ""

    # ---- text

    @property
    def whole(self) -> str:
        """The text with all that is shown by a mark."""
        return self._pasted.unfolded(self.text)

    def take(self) -> str:
        """The whole text, which leaves the prompt and joins the history."""
        text = self.whole
        self.past.add(text)
        self.put("")
        return text

    def put(self, text: str) -> None:
        """`text` in place of what there is, the cursor behind it; can be undone."""
        self.past.leave()
        self._show(self._pasted.folded(sanitize(text)))

    def _show(self, text: str) -> None:
        self.replace(text, (0, 0), self.document.end)
        self.move_cursor(self.document.end)

    # ---- completion

    def complete(self, command: Command) -> bool:
        """Writes `command` out. Whether it can be sent as it stands, needing nothing more."""
        return self._take(written_out(command))

    def _take(self, offer: Completion) -> bool:
        """Writes an offer out. Whether it can be sent as it stands."""
        self._searching = False
        if offer.back is None:
            self.put(offer.text)
        else:
            row, column = self.cursor_location
            self.replace(offer.text, (row, column - offer.back), (row, column))
        self.completions.offer(())
        return offer.sends

    def on_text_area_changed(self) -> None:
        """Offers what the text may become; a text recalled or written out needs no list."""
        self._offered = self.text
        if self.text != self._recalled:
            self.past.leave()
        if self._searching:
            self._offer_history()
        elif self.past.walking:
            self.completions.offer(())
        else:
            row, column = self.cursor_location
            lines = self.document.lines
            before = lines[row][:column]
            whole_lines = row == 0 == len(lines) - 1
            found = offers(before, lines[row][column:], self.providers)
            if not whole_lines:  # a command is all there is
                found = tuple(offer for offer in found if offer.back is not None)
            self.completions.offer(found, first=" " not in before and before.startswith("/"))

    def _choose(self, offer: Completion) -> None:
        self._take(offer)
        self.focus()

    # ---- history

    def search_history(self, words: str = "") -> None:
        """Offers what was sent before while it is typed what it says."""
        self.put(words)
        self._searching = True
        self._offer_history()

    def action_search_history(self) -> None:
        """Begins the search with what is typed, or goes on to the next that fits."""
        if self._searching:
            self.completions.move(1)
        elif self.text.strip():
            self.search_history(self.whole)
        else:
            raise SkipAction

    def _offer_history(self) -> None:
        found = sent_before(self.past.having(self.text))
        keys = _("Type to narrow   Enter takes   Esc leaves")
        if self.next_key:
            keys += "   " + _("{key}: the next").format(key=self.next_key)
        self.completions.offer(found, first=True, foot=keys if found else _("Nothing like it"))

    def _recall(self, text: str | None) -> None:
        if text is not None:
            self._recalled = self._pasted.folded(text)
            self._show(self._recalled)

    # ---- keys

    async def on_key(self, event: events.Key) -> None:
        """Keys of the completion list, and whatever else is bound, in the order they came.

        Textual runs bindings after all keys of a burst: over a slow link, "teh", two backspaces
        and "he" would become "te". And the text area would take Enter for a line break.
        """
        focused = self.screen.focused
        if focused is not None and focused is not self:  # a burst of keys, one of which led there
            event.prevent_default().stop()
            focused.post_message(events.Key(event.key, event.character))
            return
        if self._offered != self.text:  # the word of it waits behind a burst of keys
            self.on_text_area_changed()
        if self.completions.display and self._is_for_list(event.key):
            event.prevent_default().stop()
            return
        if event.character in JOINERS:  # what Textual takes for no character
            event.prevent_default().stop()
            self._insert(event.character)
            return
        if event.key == "enter":
            event.prevent_default()
        bound = None if event.is_printable else self.screen.active_bindings.get(event.key)
        if bound and await self.app.run_action(bound.binding.action, bound.node):
            event.prevent_default().stop()

    def _is_for_list(self, key: str) -> bool:
        """Does what a key means to the list of what is offered. Whether that was all."""
        if key == "escape":
            self._searching = False
            self.completions.offer(())
            return True
        offer = self.completions.selected
        if key == "tab" and offer is None and self.completions.offered:
            offer = self.completions.offered[0]
        if key == "enter" and self._searching and offer is None:
            return True
        if offer is None or key not in ("tab", "enter"):
            return False
        return not self._take(offer) or key == "tab"

    def on_paste(self, event: events.Paste) -> None:
        """Pasted text never sends and never acts: line ends become breaks, controls visible."""
        event.prevent_default().stop()
        text = sanitize(event.text.replace("\r\n", "\n").replace("\r", "\n"))
        self._insert(self._pasted.mark(text) if is_large(text) else text)

    def _insert(self, text: str) -> None:
        if result := self._replace_via_keyboard(text, *self.selection):
            self.move_cursor(result.end_location)

    def get_cursor_left_location(self) -> Location:
        """A character to the left, as a reader sees it, or a pasted text by its mark."""
        row, column = self.cursor_location
        line = self.document.lines[row]
        if not column:
            return super().get_cursor_left_location()
        if mark := self._pasted.mark_before(line[:column]):
            return row, column - len(mark)
        return row, graphemes.before(line, column)

    def get_cursor_right_location(self) -> Location:
        """A character to the right, as a reader sees it, or a pasted text by its mark."""
        row, column = self.cursor_location
        line = self.document.lines[row]
        if column == len(line):
            return super().get_cursor_right_location()
        if mark := self._pasted.mark_after(line[column:]):
            return row, column + len(mark)
        return row, graphemes.after(line, column)

    def render_line(self, y: int) -> Strip:
        """A row, drawn so that every terminal takes it for as wide as we do."""
        strip = super().render_line(y)
        if graphemes.steady(strip.text) == strip.text:
            return strip
        return Strip([segment._replace(text=graphemes.steady(segment.text)) for segment in strip])

    def on_resize(self) -> None:
        """Tells the terminal's own cursor, where an input method opens, that it has moved."""
        self.call_after_refresh(self._place_cursor)

    def _place_cursor(self) -> None:
        if self.has_focus:
            self.app.cursor_position = self.cursor_screen_offset

    def action_cursor_up(self, select: bool = False) -> None:
        """Up a row; from the first one, back in the history, or without a text to what is above."""
        if self.completions.display:
            self.completions.move(-1)
        elif select or self._row > 0:
            super().action_cursor_up(select)
        elif self.text or self.past.walking or not self.above():
            self._recall(self.past.older(self.whole))

    def action_cursor_down(self, select: bool = False) -> None:
        """Down a row; from the last one, forward in the history."""
        if self.completions.display:
            self.completions.move(1)
        elif select or self._row < self.wrapped_document.height - 1:
            super().action_cursor_down(select)
        else:
            self._recall(self.past.newer())

    def action_cursor_page_up(self) -> None:
        """Leaves the key to the conversation."""
        raise SkipAction

    def action_cursor_page_down(self) -> None:
        """Leaves the key to the conversation."""
        raise SkipAction

    def action_copy(self) -> None:
        """Copies what is selected here, else leaves the key to the screen."""
        if not self.selected_text:
            raise SkipAction
        super().action_copy()

    @property
    def _row(self) -> int:
        return self.wrapped_document.location_to_offset(self.cursor_location).y
