"""ChatScreen: the one screen, and every `action_*` named in COMMANDS.

Actions ask the session and the app; what is shown for it is here. Knows how a conversation is
laid out, not how it is kept, nor what a model is.
"""

from __future__ import annotations

import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from textual import events, on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Container, Horizontal
from textual.content import Content
from textual.geometry import Size
from textual.screen import Screen
from textual.timer import Timer
from textual.widgets import Static

from glmtui import commands, config
from glmtui.errors import GlmtuiError, UsageError
from glmtui.sanitize import visible
from glmtui.setting import Value
from glmtui.ui import wording
from glmtui.ui.prompt import Prompt
from glmtui.ui.session import Session
from glmtui.ui.status import Memory, StatusBar
from glmtui.ui.transcript import Transcript

if TYPE_CHECKING:
    from glmtui.ui.app import GlmtuiApp
    from glmtui.ui.panel import SettingRow, SettingsPanel

SHORTEST_FRAME, LONGEST_FRAME = 1 / 25, 1 / 10
STATUS_SECONDS = 0.5
PLACEHOLDER = "Ask anything, or / for commands"
WIDE = 100  # columns, from which on the panel has room beside the conversation


class Words(Static):
    """Plain text, drawn again only when it changes; an empty one takes no room."""

    def __init__(self, classes: str | None = None) -> None:
        super().__init__(markup=False, classes=classes)
        self.display = False
        self._text = ""

    def say(self, text: str) -> None:
        """Shows `text` in place of what there was."""
        if text != self._text:
            self._text = text
            self.display = bool(text)
            self.update(Content(visible(text)))


class Notice(Words):
    """What needs to be read: errors, and what to do about them."""

    def __init__(self) -> None:
        super().__init__()
        self._parts: dict[str, str] = {}

    def tell(self, subject: str, text: str) -> None:
        """Shows `text` on a subject in place of what was there; "" takes it away."""
        self._parts[subject] = text
        self.say("\n".join(filter(None, self._parts.values())))

    def close(self) -> bool:
        """Takes everything away. False where there was nothing."""
        had = self.display
        self._parts.clear()
        self.say("")
        return had


class ChatScreen(Screen[None]):
    """The conversation, the prompt and the status bar; the settings panel beside or over them."""

    AUTO_FOCUS = "Prompt"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding(command.keys, command.action, command.title, show=False)
        for command in commands.COMMANDS
        if command.keys
    ]

    app: GlmtuiApp

    def __init__(self) -> None:
        super().__init__()
        self.transcript = Transcript()
        self.welcome = Words(classes="welcome")
        self.below = Words(classes="below")
        self.body = Container(self.transcript, self.welcome, self.below, classes="body")
        self.main = Horizontal(self.body, classes="main")
        self.notice = Notice()
        self.prompt = Prompt(PLACEHOLDER)
        self.status = StatusBar()
        self.panel: SettingsPanel | None = None
        self._memories: tuple[Memory, ...] = ()
        self._editing: str | None = None
        self._status_at = 0.0
        self._timer: Timer | None = None
        self._transcript_size = Size()

    def compose(self) -> ComposeResult:
        """From top to bottom."""
        yield self.main
        yield self.notice
        yield self.prompt.completions
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
        self.notice.tell("load", wording.told(session.load_error))
        self.welcome.say("" if session.conversation.messages else wording.welcome(session))
        self.prompt.placeholder = Content(self.app.tool_use.placeholder or PLACEHOLDER)
        if self.panel is not None:
            self._fill(self.panel)
        self._show_status()
        if session.run is not None and self._timer is None:
            self._next_frame(SHORTEST_FRAME)

    def show_memory(self, memories: tuple[Memory, ...]) -> None:
        """Shows how full the devices are."""
        self._memories = memories
        self._show_status()

    def _show_status(self) -> None:
        self._status_at = now = time.monotonic()
        unsaved = self.app.save_error is not None
        self.status.tell(wording.facts(self.session, self._memories, now, unsaved=unsaved))

    def _next_frame(self, delay: float) -> None:
        self._timer = self.set_timer(delay, partial(self._frame, time.monotonic() + delay))

    def _frame(self, due: float) -> None:
        """Shows what was written since the last frame. Where time is short, frames are fewer."""
        self._timer = None
        if self.session.run is None:
            return
        began = time.monotonic()
        delay = LONGEST_FRAME
        blocked = self.app.terminal_blocked
        self.session.drain(show=not blocked)  # what cannot be shown is saved all the same
        if not blocked:
            spent = time.monotonic() - due  # the lateness of the loop with it
            delay = min(LONGEST_FRAME, max(SHORTEST_FRAME, 3 * spent))
        if began - self._status_at >= STATUS_SECONDS:
            self._show_status()
        self._next_frame(delay)

    def on_resize(self, event: events.Resize) -> None:
        """In a narrow window the panel gives way to the conversation, unless it is in use."""
        if self.panel is not None:
            narrow = event.size.width < WIDE
            self.panel.set_class(narrow, "-narrow")
            self.panel.display = self.panel.display and (self._in_panel or not narrow)

    # ---- a question and its reply

    def action_send(self) -> None:
        """Sends what is in the prompt, or does what its command says."""
        text = self.prompt.text
        if not text.strip():
            return
        if commands.looks_like_command(text):
            self._command(text)
        elif self.session.run is not None:
            self.app.tell("A reply is being written; Esc stops it.")
        else:
            self.prompt.take()
            editing, self._editing = self._editing, None
            text = text.strip("\n")
            if editing is not None or not self.app.tool_use.answer(text):
                self.session.ask(text, editing)

    def _command(self, text: str) -> None:
        try:
            command, argument = commands.parse(text)
        except UsageError as error:
            self.app.tell(str(error), bad=True)
            return
        self.prompt.take()
        action = getattr(self, f"action_{command.action}")
        try:
            action(argument) if command.argument else action()
        except GlmtuiError as error:
            self.app.tell(str(error), bad=True)

    def action_new_line(self) -> None:
        """Breaks the line at the cursor."""
        self.prompt.insert("\n")

    def action_stop(self) -> None:
        """Stops the reply; with none being written, closes the notice or ends an edit."""
        if self.session.run is not None:
            self.session.stop()
        elif self.notice.close() or self.app.tool_use.give_up():
            return
        elif self._editing is not None:
            self._editing = None
            self.prompt.put("")
            self.session.open(self.session.conversation)

    def action_regenerate(self) -> None:
        """Answers the last question again."""
        if self._idle() and not self.session.regenerate():
            self.app.tell("There is no question yet to answer.")

    def action_continue_reply(self) -> None:
        """Goes on with the last reply."""
        if self._idle() and not self.session.go_on():
            self.app.tell("There is no reply to go on with.")

    def action_edit(self) -> None:
        """Puts the last question into the prompt."""
        questions = [m for m in self.session.conversation.path if m.role == "user"]
        if not questions:
            self.app.tell("There is no question yet to edit.")
        elif self._idle():
            self._editing = questions[-1].id
            self.prompt.put(questions[-1].content)
            self.app.tell("Enter sends it as a new branch; Esc leaves it as it was.")

    def _idle(self) -> bool:
        if self.session.run is not None:
            self.app.tell("A reply is being written; Esc stops it.")
        return self.session.run is None

    # ---- conversations and models

    def action_new(self) -> None:
        """Starts an empty conversation."""
        self._editing = None
        self.app.new_conversation()

    def action_fork(self) -> None:
        """Goes on in a copy of the conversation."""
        self.app.fork_conversation()

    def action_open(self, title: str = "") -> None:
        """Lets the user pick a saved conversation."""
        self._editing = None
        self.app.pick_conversation(title)

    def action_model(self, name: str = "") -> None:
        """Loads a model, or lets the user pick one."""
        if name:
            self.app.use_model(name)
        else:
            self.app.pick_model()

    def action_export(self, file: str = "") -> None:
        """Writes the conversation to a file that is not there yet."""
        if not self.session.conversation.messages:
            self.app.tell("There is nothing yet to export.")
            return
        self.app.tell(f"Written to {self.app.export(Path(file).expanduser() if file else None)}")

    # ---- settings

    @property
    def _in_panel(self) -> bool:
        focused = self.focused
        return self.panel is not None and focused is not None and self.panel in focused.ancestors

    def action_settings(self) -> None:
        """Shows the panel and goes there, or hides it."""
        if self.panel is not None and self.panel.display:
            self.panel.display = False
            self.prompt.focus()
        else:
            panel = self.show_panel()
            panel.call_after_refresh(panel.focus_first)  # when its rows are there

    def show_panel(self) -> SettingsPanel:
        """Shows the panel, leaving the cursor where it is."""
        if self.panel is None:
            from glmtui.ui.panel import SettingsPanel  # and its widgets, when first wanted

            self.panel = SettingsPanel(classes="-narrow" if self.size.width < WIDE else "")
            self.main.mount(self.panel)
        self.panel.display = True
        self._fill(self.panel)
        return self.panel

    def _fill(self, panel: SettingsPanel) -> None:
        if panel.display:
            conversation, model = self.session.conversation, self.session.model
            defaults = model.defaults if model else type(conversation.params)()
            panel.tell(conversation.params, conversation.system, defaults)

    def on_setting_row_changed(self, event: SettingRow.Changed) -> None:
        """A field of the panel was filled in."""
        self._change(event.name, event.value)

    def action_set(self, text: str = "") -> None:
        """Changes one setting, from "NAME VALUE". Raises ConfigError."""
        name, _, value = text.partition(" ")
        self._change(config.find(name).name, config.parse_setting(name, value))
        self.app.tell(f"{name}: {value.strip() or 'as the model has it'}, from the next reply on.")

    def action_system(self, text: str = "") -> None:
        """Changes the system prompt."""
        self._change("system_prompt", text or None)
        self.app.tell("The system prompt is in force from the next reply on.")

    def _change(self, name: str, value: Value) -> None:
        session = self.session
        if name == "system_prompt":
            session.change(system=None if value is None else str(value))
        elif any(name == row.name for row in config.SAMPLING_FIELDS):
            values: dict[str, Any] = {name: value}
            session.change(params=replace(session.conversation.params, **values))
        else:
            raise UsageError(f"{name} cannot be changed while the app runs.")

    # ---- the rest

    def action_theme(self, name: str = "") -> None:
        """Takes on a theme, or the next. Raises UsageError."""
        themes = list(self.app.available_themes)
        if not name:
            name = themes[(themes.index(self.app.theme) + 1) % len(themes)]
        if name not in themes:
            raise UsageError(f"There is no theme {name}.", f"There are {', '.join(themes)}.")
        self.app.theme = name

    def action_page_up(self) -> None:
        """Looks back."""
        self.transcript.scroll_page_up(animate=False)

    def action_page_down(self) -> None:
        """Looks forward."""
        self.transcript.scroll_page_down(animate=False)

    def action_scroll_home(self) -> None:
        """Goes to where the conversation began."""
        self.transcript.scroll_home(animate=False)

    def action_scroll_end(self) -> None:
        """Goes to the end and follows it."""
        self.transcript.scroll_end(animate=False)

    def action_interrupt(self) -> None:
        """What Ctrl+C is for: copies a selection, stops a reply, or clears the prompt."""
        if self.get_selected_text():
            self.action_copy_text()
        elif self.session.run is not None:
            self.session.stop()
        elif self.prompt.text:
            self.prompt.take()
        else:
            self.app.tell("Ctrl+Q quits.")

    def action_palette(self) -> None:
        """Opens the list of commands."""
        self.app.action_command_palette()

    def action_help(self) -> None:
        """Shows keys and commands."""
        from glmtui.ui.dialogs import Help

        self.app.push_screen(Help())

    def action_quit(self) -> None:
        """Leaves."""
        self.app.exit()

    @on(Transcript.Following)
    def _say_lines_below(self, event: Transcript.Following) -> None:
        some = not event.following and event.lines_below
        self.below.say(f"{event.lines_below:,} new lines below, Ctrl+End" if some else "")
