"""ChatView: how the chat is laid out, and what of the session and the app is shown where.

What the user can do here is `chat_screen`'s. Knows widgets and their order; of the conversation
only what the session tells.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from textual import events, on
from textual.app import ComposeResult
from textual.containers import Container, Horizontal
from textual.content import Content
from textual.geometry import Size
from textual.screen import Screen
from textual.timer import Timer

from glmtui.language import N_, _, ngettext
from glmtui.ui.panels import status_text
from glmtui.ui.panels.device_memory import DeviceMemory
from glmtui.ui.panels.status_bar import StatusBar
from glmtui.ui.prompt.prompt import Prompt
from glmtui.ui.session.session import Session
from glmtui.ui.transcript.selection import SelectableTranscript
from glmtui.ui.transcript.transcript import Transcript
from glmtui.ui.widgets.line_cache import LineCache
from glmtui.ui.widgets.text_line import TextLine

if TYPE_CHECKING:
    from glmtui.ui.app import GlmtuiApp
    from glmtui.ui.panels.settings_panel import SettingsPanel

SHORTEST_FRAME, LONGEST_FRAME = 1 / 15, 1 / 10  # each costs the same, however little is new
SHARED_FRAME = 1 / 6  # where a frame holds up the model, which computes on this processor
SLOW_FRAME = 1 / 2  # where `motion` is false
STATUS_SECONDS = 0.5
PLACEHOLDER = N_("Ask anything, or / for commands")
WIDE = 100  # columns, from which on the panel has room beside the conversation


class Notice(TextLine):
    """What needs to be read: errors, and what to do about them."""

    def __init__(self) -> None:
        super().__init__()
        self._parts: dict[str, str] = {}

    def tell(self, subject: str, text: str) -> None:
        """Shows `text` on a subject in place of what was there; "" takes it away."""
        self._parts[subject] = text
        self.set_text("\n".join(filter(None, self._parts.values())))

    def close(self) -> bool:
        """Takes everything away. False where there was nothing."""
        had = self.display
        self._parts.clear()
        self.set_text("")
        return had


class ChatView(LineCache, Screen[None]):
    """The conversation, the prompt and the status bar; the settings panel beside or over them.

    Attributes:
        editing: the id of the question whose other words are in the prompt, if any.
    """

    app: GlmtuiApp

    def __init__(self) -> None:
        super().__init__()
        self.transcript = SelectableTranscript(self.to_prompt)
        self.welcome = TextLine(classes="welcome")
        self.below = TextLine(classes="below")
        self.body = Container(self.transcript, self.welcome, self.below, classes="body")
        self.main = Horizontal(self.body, classes="main")
        self.notice = Notice()
        self.prompt = Prompt(_(PLACEHOLDER))
        self.prompt.on_up_when_empty = self.select_last
        self.attached = TextLine(classes="attached")
        self.status = StatusBar()
        self.panel: SettingsPanel | None = None
        self.editing: str | None = None
        self.memories: tuple[DeviceMemory, ...] = ()
        self._pressing = False
        self._status_at = 0.0
        self._timer: Timer | None = None  # of the next frame,
        self._due = 0.0  # and when that is due
        self._transcript_size = Size()

    def compose(self) -> ComposeResult:
        """From top to bottom."""
        yield self.main
        yield self.notice
        yield self.attached
        yield self.prompt.completion_list
        yield self.prompt
        yield self.status

    def on_mount(self) -> None:
        """Watches over the transcript's size."""
        self.screen_layout_refresh_signal.subscribe(self, self._make_up_for_resize)

    def _make_up_for_resize(self, _: Screen[None]) -> None:
        """Textual sends no Resize where a field asked for its place before the layout was done."""
        if self.transcript.size != self._transcript_size:
            self._transcript_size = self.transcript.size
            self.transcript.on_resize()

    @property
    def session(self) -> Session:
        """The conversation in view and what is done with it."""
        return self.app.session

    # ---- what is shown

    def refresh_state(self) -> None:
        """Shows what the session has come to; called whenever it changes."""
        session = self.session
        self.notice.tell("load", status_text.error_text(session.load_error))
        self.welcome.set_text(
            "" if session.conversation.messages else status_text.welcome_text(session, self.app.how)
        )
        self.prompt.placeholder = Content(self.app.tool_use.placeholder or _(PLACEHOLDER))
        if self.panel is not None:
            self._fill(self.panel)
        self._show_status()
        if session.run is not None and self._timer is None:
            self._next_frame(SHORTEST_FRAME)

    def show_memory(self, memories: tuple[DeviceMemory, ...]) -> None:
        """Shows how full the devices are."""
        self.memories = memories
        self._show_status()

    def _show_status(self) -> None:
        self._status_at = now = time.monotonic()
        unsaved = self.app.save_error is not None
        pressing = status_text.memory_warning(self.session, self.memories, self.app.how)
        if bool(pressing) != self._pressing:  # once said it can be closed
            self._pressing = bool(pressing)
            self.notice.tell("memory", pressing)
        self.status.set_status(
            status_text.session_status(self.session, self.memories, now, unsaved=unsaved)
        )

    def _next_frame(self, delay: float) -> None:
        self._due = time.monotonic() + delay
        self._timer = self.set_timer(delay, self._frame)

    def _frame(self) -> None:
        """Shows what was written since the last frame. Where time is short, frames are fewer."""
        self._timer = None
        if self.session.run is None:
            return
        began = time.monotonic()
        delay = LONGEST_FRAME
        blocked = self.app.terminal_blocked
        self.session.drain(show=not blocked)  # what cannot be shown is saved all the same
        if not blocked:
            spent = time.monotonic() - self._due  # the lateness of the loop with it
            delay = min(LONGEST_FRAME, max(SHORTEST_FRAME, 3 * spent))
        if self.session.model is not None and self.session.model.device == "cpu":
            delay = SHARED_FRAME
        if not self.app.settings.motion:
            delay = SLOW_FRAME
        if began - self._status_at >= STATUS_SECONDS:
            self._show_status()
        self._next_frame(delay)

    def on_resize(self, event: events.Resize) -> None:
        """In a narrow window the panel gives way to the conversation, unless it is in use."""
        if self.panel is not None:
            narrow = event.size.width < WIDE
            self.panel.set_class(narrow, "-narrow")
            self.panel.display = self.panel.display and (self.in_panel or not narrow)

    @on(Transcript.FollowingChanged)
    def _say_lines_below(self, event: Transcript.FollowingChanged) -> None:
        if self.transcript.selected_id is not None:
            return
        count = 0 if event.following else event.lines_below
        text = ngettext(
            "{count:,} new line below, {key}", "{count:,} new lines below, {key}", count
        )
        self.below.set_text(
            text.format(count=count, key=self.app.how("scroll_end")) if count else ""
        )

    # ---- where keys go

    def select_last(self) -> bool:
        """Marks the last message and gives it the keys. False where there is none."""
        found = self.transcript.select_last()
        if found:
            self.set_focus(self.transcript)
        return found

    def unselect(self) -> None:
        """Gives the keys back to the prompt."""
        self.set_focus(self.prompt)
        self.transcript.select(None)

    def to_prompt(self, event: events.Key) -> None:
        """A key for the prompt, wherever it was pressed."""
        self.unselect()
        self.prompt.post_message(events.Key(event.key, event.character))

    def on_descendant_focus(self, event: events.DescendantFocus) -> None:
        """A message is marked only while keys act on it."""
        if event.widget is not self.transcript and self.transcript.selected_id is not None:
            self.transcript.select(None)

    # ---- the panel

    @property
    def in_panel(self) -> bool:
        focused = self.focused
        return self.panel is not None and focused is not None and self.panel in focused.ancestors

    def show_panel(self) -> SettingsPanel:
        """Shows the panel, leaving the cursor where it is."""
        if self.panel is None:
            from glmtui.ui.panels.settings_panel import (
                SettingsPanel,  # and its widgets, when first wanted
            )

            self.panel = SettingsPanel(classes="-narrow" if self.size.width < WIDE else "")
            self.main.mount(self.panel)
        self.panel.display = True
        self._fill(self.panel)
        return self.panel

    def _fill(self, panel: SettingsPanel) -> None:
        if panel.display:
            conversation, model = self.session.conversation, self.session.model
            defaults = model.defaults if model else type(conversation.params)()
            panel.show_values(conversation.params, conversation.system, defaults)
