"""GlmtuiApp: the Textual app around the chat screen: themes, keys, start, signals and exit.

What is slow to import (the engine, memory probes, dialogs) is imported after the first paint.
"""

from __future__ import annotations

import asyncio
import gc
import os
import traceback
from collections.abc import Callable, Iterable, Sequence
from threading import Thread
from typing import Any, ClassVar

from rich.text import Text
from textual import events
from textual.app import App, SystemCommand
from textual.binding import Binding, BindingType
from textual.screen import Screen

from glmtui.chat import Conversation
from glmtui.commands import COMMANDS, Command
from glmtui.commands.keymap import merge_keys
from glmtui.config import Settings
from glmtui.errors import ConfigError, GlmtuiError
from glmtui.language import _
from glmtui.logs import log_unexpected
from glmtui.sanitize import sanitize
from glmtui.store import Store
from glmtui.ui.chat.screen import ChatScreen
from glmtui.ui.chat.size_notice import SizeNotice, is_too_small
from glmtui.ui.panels.device_memory import MemoryMonitor
from glmtui.ui.session.workspace import EngineFactory
from glmtui.ui.terminal import end_signals
from glmtui.ui.terminal.end_signals import END_SIGNALS
from glmtui.ui.terminal.themes import DARK, LIGHT, TERMINAL, themes
from glmtui.ui.widgets.bindings import UNBOUND_KEY, keymap


class GlmtuiApp(App[None], inherit_bindings=False):
    """The program with a screen.

    Args:
        engine_factory: called after the first paint.
        problems: errors in the settings, which are shown.
        conversation: the conversation to open; None begins a new one.
        terminal_blocked: whether the terminal has not yet taken what was drawn before.
        few_colours: whether the terminal has 16 colours or fewer.

    Attributes:
        on_exit_start: called when the app begins to end.
    """

    CSS_PATH = "app.tcss"
    TITLE = "glmtui"
    COMMAND_PALETTE_BINDING = UNBOUND_KEY  # the chat screen has the key
    BINDINGS: ClassVar[list[BindingType]] = [  # works over a dialog too
        Binding(c.keys, c.action, show=False, priority=True, id=c.action)
        for c in COMMANDS
        if c.action == "quit"
    ]

    def __init__(
        self,
        settings: Settings,
        store: Store,
        engine_factory: EngineFactory,
        *,
        problems: Sequence[GlmtuiError] = (),
        conversation: Conversation | None = None,
        terminal_blocked: Callable[[], bool] = lambda: False,
        few_colours: bool = False,
        **textual: Any,
    ) -> None:
        super().__init__(ansi_color=True if few_colours else None, **textual)
        self.commands: tuple[Command, ...] = merge_keys(settings.keys, settings.bindings)
        self.on_exit_start: Callable[[], object] = lambda: None
        self._handles_signals = False
        self._problems = list(problems)
        self._terminal_blocked = terminal_blocked
        self._first_conversation = conversation
        self.chat = ChatScreen(self, settings, store, engine_factory)
        self.workspace = self.chat.workspace
        self.session = self.workspace.session
        self._memory = MemoryMonitor(
            lambda memories: self.call_soon(lambda: self.chat.show_memory(memories))
        )
        if settings.keys != "default" or settings.bindings:
            self.set_keymap(keymap(self.commands))
        if not settings.motion:
            self.animation_level = "none"
        self._set_theme(settings.theme, few_colours)

    def _set_theme(self, name: str, few_colours: bool) -> None:
        for theme in themes():
            self.register_theme(theme)
        known = name in self.available_themes
        self.theme = name if known else DARK
        if few_colours and self.theme in (DARK, LIGHT):  # their rows would look alike
            self.theme = TERMINAL
        if not known:
            text = _("There is no theme {name!r}; {shown} is used.").format(name=name, shown=DARK)
            hint = _("Available: {names}.").format(names=", ".join(self.available_themes))
            self._problems.append(ConfigError(text, hint))

    def get_default_screen(self) -> Screen[Any]:
        return self.chat

    # ---- start

    def on_ready(self) -> None:
        """After the first paint: starts the engine, the model and the memory meters."""
        gc.freeze()  # what is loaded now stays; garbage collection need not look at it again
        gc.enable()
        if not self.is_headless:
            self.handle_signals(self.exit_on_signal)
        if self._first_conversation is not None:
            self.session.open(self._first_conversation)
        if not self.chat.prompt.text:  # else the user was quick to type
            self.chat.prompt_controller.load_draft()
        if self.workspace.settings.panel:
            self.chat.settings.show_panel()
        self.chat.notice.set("config", "\n".join(map(str, self._problems)))
        self.chat.refresh_state()
        # The imports take a moment, and a key pressed meanwhile must not wait for them.
        Thread(target=self._start, name="glmtui-start", daemon=True).start()

    def _start(self) -> None:
        # One library after the other: two threads that load shared libraries at once wait for each
        # other, and the waiting one keeps the interpreter lock.
        self._memory.sample()
        self._memory.start()
        self.workspace.start_engine()
        name = self.workspace.first_model()
        self.call_soon(lambda: self.chat.models.model(name))

    # ---- what the screen needs

    def call_soon(self, callback: Callable[[], None]) -> None:
        self.call_later(callback)

    def toast(self, text: str, *, error: bool = False) -> None:
        if text:
            self.notify(sanitize(text), severity="error" if error else "information", markup=False)

    @property
    def terminal_blocked(self) -> bool:
        return self._terminal_blocked()

    def copy_to_clipboard(self, text: str) -> None:
        """Copies in the way this terminal supports, and says how: Textual's own way reaches few
        terminals over SSH."""
        from glmtui.ui.terminal.clipboard import copy_to_clipboard

        self._clipboard = text  # Textual's text fields paste this
        if self._driver is not None:
            copied = copy_to_clipboard(text, self._driver.write, os.environ)
            self.toast(copied.message, error=copied.failed)

    # ---- the command palette

    def action_command_palette(self) -> None:
        """Opens the palette over the chat, but not over a dialog."""
        if self.screen is self.chat:
            from textual.command import CommandPalette

            self.push_screen(CommandPalette(placeholder=_("Find a command")))

    def get_system_commands(self, screen: Screen[Any]) -> Iterable[SystemCommand]:
        """The palette's entries: all slash commands."""
        for command in self.commands:
            if command.slash:
                help_line = "  ".join((_(command.help), *command.key_names))
                yield SystemCommand(_(command.title), help_line, lambda c=command: self._run(c))

    def _run(self, command: Command) -> None:
        if self.chat.prompt.complete(command):
            self.run_worker(self.chat.send())  # an editor would block the message loop

    def on_resize(self, event: events.Resize) -> None:
        """Shows a message instead of a broken layout while the window is too small."""
        small = is_too_small(event.size)
        if small and not isinstance(self.screen, SizeNotice):
            self.push_screen(SizeNotice())
        elif not small and isinstance(self.screen, SizeNotice):
            self.pop_screen()

    # ---- exit

    def _fatal_error(self) -> None:
        """Logs the traceback of a bug, without the values of variables that Textual would add."""
        text = "".join(traceback.format_exception(self._exception))
        self._exit_renderables.append(Text(text, no_wrap=True, overflow="ignore"))
        self.on_exit_start()
        self._close_messages_no_wait()

    def handle_signals(self, handler: Callable[[int], None]) -> None:
        """Calls `handler` with the number of each signal that would end the program."""
        self._handles_signals = True
        loop = asyncio.get_running_loop()
        for number in END_SIGNALS:
            loop.add_signal_handler(number, handler, number)

    def exit_on_signal(self, number: int) -> None:
        self.exit(return_code=128 + number)

    def exit(self, *args: Any, **options: Any) -> None:
        """Ends the app. Further signals are ignored."""
        if self._handles_signals:
            loop = asyncio.get_running_loop()
            for number in END_SIGNALS:
                loop.remove_signal_handler(number)
            end_signals.ignore_end_signals()
        self.on_exit_start()
        super().exit(*args, **options)

    def close(self) -> tuple[bool, tuple[Conversation, ...]]:
        """After `run`: saves the draft and closes the workspace; see `Workspace.close`."""
        self._memory.stop()
        try:
            self.chat.prompt_controller.save_draft()
        except Exception as fault:  # a bug; the conversations must be saved all the same
            log_unexpected(fault)
        return self.workspace.close()
