"""Prompt: where a question is typed, with history and the completion of slash commands.

Grows with its text up to six rows. What Enter means is the screen's business; nothing here knows
conversations or models.
"""

from __future__ import annotations

from collections.abc import Callable

from textual import events
from textual.actions import SkipAction
from textual.content import Content
from textual.widget import Widget
from textual.widgets import TextArea

from glmtui import commands
from glmtui.language import _
from glmtui.sanitize import visible


class Completions(Widget):
    """The slash commands that fit what is typed, one a row; hidden where there are none.

    Args:
        choose: called with the command whose row was clicked.
    """

    ROWS = 8

    def __init__(self, choose: Callable[[commands.Command], None]) -> None:
        super().__init__()
        self.display = False
        self._choose = choose
        self._offered: tuple[commands.Command, ...] = ()
        self._at = 0

    @property
    def selected(self) -> commands.Command | None:
        """The highlighted command; None where nothing is offered."""
        return self._offered[self._at] if self._offered else None

    def offer(self, offered: tuple[commands.Command, ...]) -> None:
        """Shows these, the first one highlighted."""
        if offered != self._offered:
            self._offered, self._at = offered, 0
            self.display = bool(offered)
            self.refresh(layout=True)

    def move(self, step: int) -> None:
        """Highlights the next (1) or the previous (-1), around the ends."""
        self._at = (self._at + step) % len(self._offered)
        self.refresh()

    def get_content_height(self, *_: object) -> int:
        """One row for each, as far as there is room."""
        return min(len(self._offered), self.ROWS)

    def render(self) -> Content:
        """The rows around the highlighted one."""
        width = max((len(command.usage) for command in self._offered), default=0)
        rows = []
        for n, command in enumerate(self._offered[self._first :][: self.ROWS], self._first):
            style = "$block-cursor-foreground on $block-cursor-background" if n == self._at else ""
            row = Content.assemble(
                ("▸" if n == self._at else " ", style),  # seen without colour too
                (f"{command.usage:<{width}}  ", style or "$accent"),
                (_(command.help), style or "$text-muted"),
            )
            rows.append(row.truncate(self.size.width, ellipsis=True, pad=n == self._at))
        return Content("\n").join(rows)

    def on_click(self, event: events.Click) -> None:
        """Chooses the row under the mouse."""
        row = self._first + event.y
        if row < len(self._offered):
            self._choose(self._offered[row])

    @property
    def _first(self) -> int:
        return max(0, self._at - self.ROWS + 1)


class Prompt(TextArea):
    """The text area at the bottom. `completions` is shown above it, by whoever mounts both."""

    def __init__(self, placeholder: str = "") -> None:
        # A Content, for a plain string would be read as markup.
        super().__init__(
            compact=True, highlight_cursor_line=False, placeholder=Content(placeholder)
        )
        self.completions = Completions(self._choose)
        self.cursor_blink = False
        self.show_vertical_scrollbar = False
        self.above: Callable[[], bool] = lambda: False  # takes the keys on the way up, if it can
        self._history: list[str] = []
        self._at: int | None = None
        self._draft = ""
        self._offered = ""

    # ---- text

    def take(self) -> str:
        """The text, which leaves the prompt and joins the history."""
        text = self.text
        self.remember(text)
        self.put("")
        return text

    def put(self, text: str) -> None:
        """`text` in place of what there is, the cursor behind it; can be undone."""
        self._at = None
        self.replace(visible(text), (0, 0), self.document.end)
        self.move_cursor(self.document.end)

    def remember(self, text: str) -> None:
        """Adds `text` to what Up brings back."""
        if text.strip() and text not in self._history[-1:]:
            self._history.append(text)

    def complete(self, command: commands.Command) -> bool:
        """Writes `command` out. Whether it can be sent as it stands, needing nothing more."""
        self.put(f"/{command.slash} " if command.argument else f"/{command.slash}")
        self.completions.offer(())
        return not command.argument or command.argument.startswith("[")

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
        command = self.completions.selected
        if event.key == "enter":
            event.prevent_default()
            if command is not None and not self.complete(command):
                event.stop()
                return
        elif command is not None and event.key in ("tab", "escape"):
            event.prevent_default().stop()
            if event.key == "tab":
                self.complete(command)
            else:
                self.completions.offer(())
            return
        bound = None if event.is_printable else self.screen.active_bindings.get(event.key)
        if bound and await self.app.run_action(bound.binding.action, bound.node):
            event.prevent_default().stop()

    def on_paste(self, event: events.Paste) -> None:
        """Pasted text never sends and never acts: line ends become breaks, controls visible."""
        event.prevent_default().stop()
        text = visible(event.text.replace("\r\n", "\n").replace("\r", "\n"))
        if result := self._replace_via_keyboard(text, *self.selection):
            self.move_cursor(result.end_location)

    def on_text_area_changed(self) -> None:
        """Offers what the text may become; a command recalled or written out needs no list."""
        self._offered = self.text
        self.completions.offer(() if self._at is not None else commands.completions(self.text))

    def _choose(self, command: commands.Command) -> None:
        self.complete(command)
        self.focus()

    def on_resize(self) -> None:
        """Tells the terminal's own cursor, where an input method opens, that it has moved."""
        self.call_after_refresh(self._place_cursor)

    def _place_cursor(self) -> None:
        if self.has_focus:
            self.app.cursor_position = self.cursor_screen_offset

    def action_cursor_up(self, select: bool = False) -> None:
        """Up a row; from the first one, back in the history, or without a text to what is above."""
        if self.completions.selected is not None:
            self.completions.move(-1)
        elif select or self._row > 0:
            super().action_cursor_up(select)
        elif not self.text and self._at is None and self.above():
            return
        elif self._at != 0 and self._history:
            if self._at is None:
                self._draft = self.text
            self._recall((len(self._history) if self._at is None else self._at) - 1)

    def action_cursor_down(self, select: bool = False) -> None:
        """Down a row; from the last one, forward in the history."""
        if self.completions.selected is not None:
            self.completions.move(1)
        elif select or self._row < self.wrapped_document.height - 1:
            super().action_cursor_down(select)
        elif self._at is not None:
            self._recall(self._at + 1)

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

    def _recall(self, at: int) -> None:
        last = at == len(self._history)
        self.put(self._draft if last else self._history[at])
        self._at = None if last else at
