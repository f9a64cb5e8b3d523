"""ChatScreen: the layout of the chat, where keys go, and which controller does what a command says.

The controllers do the work; the screen owns them and the widgets.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from textual import events, on
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Container, Horizontal
from textual.content import Content
from textual.geometry import Size
from textual.screen import Screen
from textual.widgets import TextArea

from glmtui.commands import Command, command_parser
from glmtui.config import Settings
from glmtui.engine.api import ToolCall
from glmtui.errors import GlmtuiError, StoreError, UsageError
from glmtui.language import N_, _, ngettext
from glmtui.store import Store
from glmtui.ui.chat.conversation_controller import ConversationController
from glmtui.ui.chat.frame_timer import FrameTimer
from glmtui.ui.chat.host import ResultT
from glmtui.ui.chat.memory_controller import MemoryController
from glmtui.ui.chat.message_controller import MessageController
from glmtui.ui.chat.model_controller import ModelController
from glmtui.ui.chat.notice import Notice
from glmtui.ui.chat.prompt_controller import PromptController
from glmtui.ui.chat.settings_controller import SettingsController
from glmtui.ui.chat.tool_use import ToolUse
from glmtui.ui.chat_commands import ChatCommands
from glmtui.ui.panels import status_text
from glmtui.ui.panels.device_memory import DeviceMemory
from glmtui.ui.panels.status_bar import StatusBar
from glmtui.ui.prompt.prompt import Prompt
from glmtui.ui.session.workspace import EngineFactory, Workspace
from glmtui.ui.terminal.editor import EditorHost, edit_text
from glmtui.ui.transcript.selection import SelectableTranscript
from glmtui.ui.transcript.transcript import Transcript
from glmtui.ui.widgets.bindings import bindings
from glmtui.ui.widgets.line_cache import LineCache
from glmtui.ui.widgets.text_line import TextLine

if TYPE_CHECKING:
    from glmtui.ui.panels.settings_panel import SettingsPanel

PLACEHOLDER = N_("Ask anything, or / for commands")
PANEL_WIDTH = 100
"""Columns from which on the settings panel has room beside the conversation."""


class ChatHost(EditorHost, Protocol):
    """What the screen needs of the app, besides what every Textual app has."""

    @property
    def commands(self) -> tuple[Command, ...]:
        """COMMANDS with the user's keys."""
        ...

    @property
    def terminal_blocked(self) -> bool:
        """Whether the terminal has not yet taken what was drawn before."""
        ...

    def call_soon(self, callback: Callable[[], None]) -> None:
        """Calls `callback` in the event loop. Any thread may call this."""
        ...


class ChatScreen(LineCache, Screen[None]):
    """The conversation, the prompt and the status bar; the settings panel beside or over them.

    It is the front end of a `Workspace`.
    """

    AUTO_FOCUS = "Prompt"
    BINDINGS: ClassVar[list[BindingType]] = bindings(action="command('{}')")

    def __init__(
        self, host: ChatHost, settings: Settings, store: Store, engine_factory: EngineFactory
    ) -> None:
        super().__init__()
        self._host = host
        self.transcript = SelectableTranscript(self._send_key_to_prompt)
        self.welcome = TextLine(classes="welcome")
        self.below = TextLine(classes="below")
        self.body = Container(self.transcript, self.welcome, self.below, classes="body")
        self.main = Horizontal(self.body, classes="main")
        self.notice = Notice()
        self.prompt = Prompt(_(PLACEHOLDER))
        self.prompt.on_up_when_empty = self.focus_last_message
        self.attached = TextLine(classes="attached")
        self.status = StatusBar()
        self._transcript_size = Size()
        self._warned_of_locks = False

        self.workspace = Workspace(settings, store, engine_factory, self.transcript, self)
        self.session = self.workspace.session
        commands = ChatCommands(self.workspace)
        self.tool_use = ToolUse(self)
        self.models = ModelController(self)
        self.prompt_controller = PromptController(self, self.tool_use)
        self.conversations = ConversationController(self, self.prompt_controller, commands)
        self.messages = MessageController(self, self.prompt_controller, commands)
        self.settings = SettingsController(self, commands)
        self.memory = MemoryController(self, commands, self.models, self.conversations)
        self._frame_timer = FrameTimer(self)
        self.actions = self._make_actions()

    def compose(self) -> ComposeResult:
        yield self.main
        yield self.notice
        yield self.attached
        yield self.prompt.completion_list
        yield self.prompt
        yield self.status

    # ---- commands

    def _make_actions(self) -> Mapping[str, Callable[..., object]]:
        """What the rows of COMMANDS do, by `Command.action`.

        A row with an argument gets what was typed after the slash command, when it is typed.
        """
        conversations, messages, transcript = self.conversations, self.messages, self.transcript
        return {
            # the prompt
            "send": self.send,
            "new_line": lambda: self.prompt.insert("\n"),
            "editor": self.prompt_controller.open_editor,
            "history": self.prompt.search_history,
            "stop": self.stop,
            "interrupt": self.interrupt,
            # messages
            "select_message": messages.select_last,
            "previous_message": messages.select_previous,
            "next_message": messages.select_next,
            "previous_branch": messages.previous_branch,
            "next_branch": messages.next_branch,
            "copy_message": messages.copy,
            "copy_code": messages.copy_code,
            "edit": messages.edit,
            "regenerate": messages.regenerate,
            "answer_again": messages.answer_again,
            "continue_reply": messages.continue_reply,
            "thinking": messages.toggle_reasoning,
            "quote": messages.quote,
            "view_message": messages.view,
            "delete": messages.delete,
            "undo": messages.undo,
            "unselect": self.focus_prompt,
            # conversations
            "new": conversations.new,
            "open": conversations.pick,
            "find": conversations.search,
            "title": conversations.title,
            "pin": conversations.pin,
            "trash": conversations.trash,
            "restore": conversations.restore,
            "fork": conversations.fork,
            "export": conversations.export,
            # the model and its settings
            "model": self.models.model,
            "settings": self.settings.toggle_panel,
            "set": self.settings.set,
            "system": self.settings.system,
            "preset": self.settings.preset,
            "stats": self.memory.show_stats,
            "keep": self.memory.keep,
            "quant": self.memory.quant,
            "clear": self.memory.clear,
            # the screen
            "theme": self.set_theme,
            "page_up": lambda: transcript.scroll_page_up(animate=False),
            "page_down": lambda: transcript.scroll_page_down(animate=False),
            "half_page_up": lambda: self._scroll_by(-transcript.size.height // 2),
            "half_page_down": lambda: self._scroll_by(transcript.size.height // 2),
            "line_up": lambda: self._scroll_by(-1),
            "line_down": lambda: self._scroll_by(1),
            "scroll_home": lambda: transcript.scroll_home(animate=False),
            "scroll_end": lambda: transcript.scroll_end(animate=False),
            "palette": lambda: self.app.action_command_palette(),
            "help": self.show_help,
            "quit": lambda: self.app.exit(),
        }

    def action_command(self, name: str) -> object:
        """The Textual action of all keys of the chat. `name` is a `Command.action`."""
        return self.actions[name]()

    async def send(self) -> None:
        """Sends the question in the prompt, or runs the slash command there."""
        text = self.prompt.full_text
        if not command_parser.looks_like_command(text):
            self.prompt_controller.send()
            return
        try:
            command, argument = command_parser.parse(text)
        except UsageError as error:
            self.toast(str(error), error=True)
            return
        self.prompt.take_text()
        action = self.actions[command.action]
        try:
            result = action(argument) if command.argument else action()
            if inspect.isawaitable(result):
                await result
        except GlmtuiError as error:
            self.toast(str(error), error=True)

    def stop(self) -> None:
        """Stops the reply. Otherwise closes the notice, a waiting tool call or an edit."""
        if self.session.reply is not None:
            self.session.stop()
        elif not (self.notice.close() or self.tool_use.cancel()):
            self.prompt_controller.cancel_edit()

    def interrupt(self) -> None:
        """Copies the selected text, stops the reply, or clears the prompt."""
        if self.get_selected_text():
            self.action_copy_text()
        elif self.session.reply is not None:
            self.session.stop()
        elif self.prompt.text:
            self.prompt.take_text()
        else:
            text = _("Nothing to stop or clear. {key} quits.")
            self.toast(text.format(key=self.key_hint("quit")))

    def set_theme(self, name: str = "") -> None:
        """Changes the theme; without a name, to the next one. Raises UsageError."""
        names = list(self.theme_names())
        if not name:
            name = names[(names.index(self.app.theme) + 1) % len(names)]
        if name not in names:
            raise UsageError(
                _("There is no theme {name}.").format(name=name),
                _("Available: {names}.").format(names=", ".join(names)),
            )
        self.app.theme = name

    def show_help(self) -> None:
        from glmtui.ui.panels.help import HelpScreen

        self.app.push_screen(HelpScreen(self.commands))

    def _scroll_by(self, lines: int) -> None:
        self.transcript.scroll_relative(y=lines, animate=False)

    # ---- what the controllers need

    @property
    def commands(self) -> tuple[Command, ...]:
        return self._host.commands

    @property
    def terminal_blocked(self) -> bool:
        return self._host.terminal_blocked

    def key_hint(self, action: str) -> str:
        command = next(command for command in self.commands if command.action == action)
        return (*command.key_names, command.usage)[0]

    def toast(self, text: str, *, error: bool = False) -> None:
        self._host.toast(text, error=error)

    def open_dialog(
        self, dialog: Screen[ResultT], on_result: Callable[[ResultT | None], None] | None = None
    ) -> None:
        self.app.push_screen(dialog, on_result)

    def check_not_replying(self) -> bool:
        if self.session.reply is not None:
            text = _("A reply is being written; {key} stops it.")
            self.toast(text.format(key=self.key_hint("stop")))
        return self.session.reply is None

    def theme_names(self) -> Iterable[str]:
        return self.app.available_themes

    def copy_to_clipboard(self, text: str) -> None:
        self.app.copy_to_clipboard(text)

    async def edit_text(self, text: str) -> str | None:
        return await edit_text(self._host, text)

    # ---- the front end of the workspace

    def call_soon(self, callback: Callable[[], None]) -> None:
        self._host.call_soon(callback)

    def on_session_change(self) -> None:
        self.refresh_state()
        if self.workspace.store.unlocked and not self._warned_of_locks:
            self._warned_of_locks = True
            self.notice.set("locks", status_text.no_locks_notice(self.workspace.store.unlocked))

    def on_save_error(self, error: StoreError | None) -> None:
        self.notice.set("store", status_text.save_error_notice(error))
        self.refresh_state()

    def on_copy(self, reason: StoreError) -> None:
        self.notice.set("copy", status_text.copy_notice(reason))

    def discard_conversation(self) -> None:
        self.conversations.discard()

    def tool_declarations(self) -> Sequence[Mapping[str, Any]]:
        return self.tool_use.declarations()

    def on_tool_call(self, call: ToolCall) -> None:
        self.tool_use.ask(call)

    # ---- what is shown

    def refresh_state(self) -> None:
        """Shows the state of the session. Called whenever it changes."""
        session = self.session
        self.notice.set("load", status_text.error_text(session.load_error))
        is_empty = not session.conversation.messages
        self.welcome.set_text(status_text.welcome_text(session, self.key_hint) if is_empty else "")
        self.prompt.placeholder = Content(self.tool_use.placeholder or _(PLACEHOLDER))
        self.settings.refresh_panel()
        self.refresh_status()
        self._frame_timer.start()

    def show_memory(self, memories: tuple[DeviceMemory, ...]) -> None:
        """Shows how full the devices are."""
        self.memory.memories = memories
        self.refresh_status()

    def refresh_status(self) -> None:
        """Updates the status bar and the warning about memory."""
        self.memory.warn()
        unsaved = self.workspace.save_error is not None
        memories = self.memory.memories
        facts = status_text.session_status(
            self.session, memories, time.monotonic(), unsaved=unsaved
        )
        self.status.set_status(facts)

    # ---- the settings panel

    @property
    def narrow(self) -> bool:
        return self.size.width < PANEL_WIDTH

    def mount_panel(self, panel: SettingsPanel) -> None:
        self.main.mount(panel)

    # ---- sizes and other messages of Textual

    def on_mount(self) -> None:
        self.screen_layout_refresh_signal.subscribe(self, self._check_transcript_size)

    def _check_transcript_size(self, _: Screen[None]) -> None:
        """Textual sends no Resize if a widget asks for its place before the layout is done."""
        if self.transcript.size != self._transcript_size:
            self._transcript_size = self.transcript.size
            self.transcript.on_resize()

    def on_resize(self) -> None:
        panel, focused = self.settings.panel, self.focused
        in_use = panel is not None and focused is not None and panel in focused.ancestors
        self.settings.resize_panel(in_use=in_use)

    @on(TextArea.Changed)
    def _on_text_change(self, event: TextArea.Changed) -> None:
        if event.text_area is self.prompt:
            self.prompt_controller.on_change()

    @on(SelectableTranscript.SelectionChanged)
    def _on_selection_change(self) -> None:
        self.messages.on_selection_change()

    @on(Transcript.FollowingChanged)
    def _show_lines_below(self, event: Transcript.FollowingChanged) -> None:
        if self.transcript.selected_id is not None:
            return
        count = 0 if event.following else event.lines_below
        text = ngettext(
            "{count:,} new line below, {key}", "{count:,} new lines below, {key}", count
        )
        hint = text.format(count=count, key=self.key_hint("scroll_end"))
        self.below.set_text(hint if count else "")

    # ---- where keys go

    @property
    def in_transcript(self) -> bool:
        return self.focused is self.transcript

    def focus_last_message(self) -> bool:
        found = self.transcript.select_last()
        if found:
            self.set_focus(self.transcript)
        return found

    def focus_prompt(self) -> None:
        self.set_focus(self.prompt)
        self.transcript.select(None)

    def _send_key_to_prompt(self, event: events.Key) -> None:
        self.focus_prompt()
        self.prompt.post_message(events.Key(event.key, event.character))

    def on_paste(self, event: events.Paste) -> None:
        """Text that is pasted while a message is selected goes to the prompt."""
        if self.in_transcript:
            self.focus_prompt()
            self.prompt.post_message(events.Paste(event.text))

    def on_descendant_focus(self, event: events.DescendantFocus) -> None:
        """A message is selected only while the transcript has the keys."""
        if event.widget is not self.transcript and self.transcript.selected_id is not None:
            self.transcript.select(None)
