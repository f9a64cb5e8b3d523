"""GlmtuiApp: owns settings, store, engine and session; the way in and the way out.

What is heavy (the engine, memory probes, dialogs) is brought in after the first paint. Knows no
layout: that is the screen's.
"""

from __future__ import annotations

import asyncio
import gc
import os
import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from threading import Thread
from typing import Any, ClassVar

from rich.text import Text
from textual import events
from textual.app import App, SystemCommand
from textual.binding import Binding, BindingType
from textual.screen import Screen

from glmtui.chat import Conversation
from glmtui.commands import COMMANDS, Command
from glmtui.commands import keymap as keysets
from glmtui.config import Settings
from glmtui.engine.api import CancelFlag, Engine, Event, ModelInfo, ProgressHook
from glmtui.errors import ConfigError, GlmtuiError, ModelNotFound, StoreError
from glmtui.language import _
from glmtui.net.addresses import shown_name
from glmtui.sanitize import visible
from glmtui.store import Store
from glmtui.system import paths
from glmtui.ui.chat.screen import ChatScreen
from glmtui.ui.chat.size_notice import SizeNotice, is_too_small
from glmtui.ui.chat.tool_use import ToolUse
from glmtui.ui.panels import status_text
from glmtui.ui.panels.device_memory import MemoryMonitor
from glmtui.ui.session.drafts import PromptDrafts
from glmtui.ui.session.library import Library
from glmtui.ui.session.saver import Saver
from glmtui.ui.session.session import Session
from glmtui.ui.terminal import signals
from glmtui.ui.terminal.signals import END_SIGNALS
from glmtui.ui.terminal.themes import DARK, LIGHT, TERMINAL, themes
from glmtui.ui.widgets.bindings import UNBOUND_KEY, keymap

EngineFactory = Callable[[Callable[[Event], None]], Engine]

ENGINE_SECONDS, SAVER_SECONDS = 0.3, 5.0


class GlmtuiApp(App[None], inherit_bindings=False):
    """The program with a screen.

    Args:
        engine_factory: makes a started engine that sends its events to the function it is given;
            called after the first paint.
        problems: what was wrong with the settings.
        conversation: the one to open; None begins a new one.
        terminal_blocked: whether the terminal has not yet taken what was drawn before.
        few_colours: whether the terminal has 16 or fewer.

    Attributes:
        leaving: called when the app begins to end.
    """

    CSS_PATH = "app.tcss"
    TITLE = "glmtui"
    COMMAND_PALETTE_BINDING = UNBOUND_KEY  # it is the chat's to open
    BINDINGS: ClassVar[list[BindingType]] = [  # also over a dialog
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
        self.settings = settings
        self.store = store
        self.save_error: StoreError | None = None
        self.signalled = 0
        self.leaving: Callable[[], object] = lambda: None
        self._hears_signals = self._told_unlocked = False
        self.commands = keysets.in_force(settings.keys, settings.bindings)
        self._problems = list(problems)
        self._blocked = terminal_blocked
        self._engine_factory = engine_factory
        self._engine: Engine | None = None
        self._memory = MemoryMonitor(lambda found: self._soon(lambda: self.chat.show_memory(found)))
        self._saver = Saver(
            store,
            lambda error: self._soon(lambda: self._save_failed(error)),
            lambda name, why: self._soon(lambda: self._goes_on_in_a_copy(name, why)),
        )
        self.typed = PromptDrafts(paths.state_dir(), self._saver.call)
        self.chat = ChatScreen()
        self.tool_use = ToolUse(self)
        self.shelf = Library(self)
        self.session = Session(
            self._fresh_conversation(),
            self._saver,
            self.chat.transcript,
            soon=self._soon,
            changed=self._session_changed,
            offered=self.tool_use.offered,
            called=self.tool_use.called,
        )
        self.session.keep_turns = settings.keep_turns
        self._opening = conversation
        if settings.keys != "default" or settings.bindings:
            self.set_keymap(keymap(self.commands))
        if not settings.motion:
            self.animation_level = "none"
        for theme in themes():
            self.register_theme(theme)
        known = settings.theme in self.available_themes
        self.theme = settings.theme if known else DARK
        if few_colours and self.theme in (DARK, LIGHT):  # they would lose what tells rows apart
            self.theme = TERMINAL
        if not known:
            self._problems.append(
                ConfigError(
                    _("There is no theme {name!r}; {shown} is shown.").format(
                        name=settings.theme, shown=DARK
                    ),
                    _("There are {names}.").format(names=", ".join(self.available_themes)),
                )
            )

    def get_default_screen(self) -> Screen[Any]:
        """The chat is the first screen."""
        return self.chat

    # ---- the way in

    def on_ready(self) -> None:
        """After the first paint: the engine, the model, the memory meters."""
        gc.freeze()  # what is here now stays; collecting need not look at it again
        gc.enable()
        if not self.is_headless:
            self.hear_signals(self.leave)
        if self._opening is not None:
            self.session.open(self._opening)
        if not self.chat.prompt.text:  # else someone was quick
            self._bring_draft()
        if self.settings.panel:
            self.chat.show_panel()
        self.tell_notice("config", "\n".join(map(str, self._problems)))
        self.chat.refresh_state()
        # Imports take their time; a key pressed meanwhile must not wait for them.
        Thread(target=self._bring_in, name="glmtui-start", daemon=True).start()

    def _bring_in(self) -> None:
        from glmtui.engine.catalog import resolver

        # One library after the other: two threads that link at once wait for each other, and the
        # one that waits would keep the interpreter's lock.
        self._memory.sample()
        self._memory.start()
        self._engine = self._engine_factory(self.session.hear)
        name = self.settings.model or self.session.conversation.model
        if not name:
            here = [model.name for model in resolver.installed()]
            name = resolver.DEFAULT_MODEL if resolver.DEFAULT_MODEL in here else "".join(here[:1])
        self._soon(lambda: self._go(name))

    def _go(self, name: str) -> None:
        assert self._engine is not None
        self.session.attach(self._engine)
        if name:
            self.use_model(name)
        else:
            self.pick_model()

    def _fresh_conversation(self) -> Conversation:
        return Conversation.new(system=self.settings.system_prompt, params=self.settings.sampling)

    # ---- what the screen asks for

    def tell(self, text: str, *, bad: bool = False) -> None:
        """A word in passing."""
        self.notify(visible(text), severity="error" if bad else "information", markup=False)

    def tell_notice(self, subject: str, text: str) -> None:
        """Something to read; stays until it is closed or replaced."""
        self.chat.notice.tell(subject, text)

    def copy_to_clipboard(self, text: str) -> None:
        """Copies, and says where to: Textual's own way reaches few terminals over SSH."""
        from glmtui.ui.terminal.clipboard import copy_to_clipboard

        self._clipboard = text  # for Textual's fields to paste
        if self._driver is not None:
            copied = copy_to_clipboard(text, self._driver.write, os.environ)
            self.tell(copied.message, bad=copied.failed)

    def how(self, action: str) -> str:
        """How to do something: the first of its keys, or its command."""
        command = next(command for command in self.commands if command.action == action)
        return (*command.key_names, command.usage)[0]

    @property
    def terminal_blocked(self) -> bool:
        """Whether the terminal is still busy with what was drawn before."""
        return self._blocked()

    def new_conversation(self) -> None:
        """An empty page, to which what is typed goes along."""
        carry = bool(self.chat.prompt.text.strip())
        self.leave_conversation(self._fresh_conversation(), carry=carry)

    def fork_conversation(self) -> None:
        """Goes on in a copy, under an id of its own; the other is left as it is on disk."""
        self.session.cut()
        self._saver.forget(self.session.conversation.id)
        self.session.open(self.session.conversation.fork())
        self.session.change()
        self.tell(_("You go on in a copy of the conversation."))

    def leave_conversation(self, for_another: Conversation, *, carry: bool = False) -> None:
        """Shows another conversation; the one that is left is saved.

        Args:
            carry: whether what is typed goes along; else it stays, and the other's draft comes.
        """
        if not carry:
            self.keep_draft()
        left = self.session.conversation
        self.session.open(for_another)
        self._saver.leave(left.id)
        if not carry:
            self._bring_draft()
        self.chat.prompt.focus()

    def leave_for_deletion(self) -> None:
        """An empty page in place of the conversation in view, which is not saved any more."""
        left = self.session.conversation
        self.leave_conversation(self._fresh_conversation())
        self._saver.forget(left.id)
        self._saver.settle(SAVER_SECONDS)

    def keep_draft(self) -> None:
        """Keeps what is typed and not sent yet."""
        self.typed.keep_draft(self.session.conversation, self.chat.prompt.full_text)

    def _bring_draft(self) -> None:
        draft = self.typed.draft(self.session.conversation)
        if draft or self.chat.prompt.text:
            self.chat.prompt.set_text(draft)

    def pick_model(self, wanted: str = "", why: str = "") -> None:
        """Lets the user choose a model; one that is not here is fetched first."""
        from glmtui.ui.dialogs.model_picker import ModelPicker

        picker = ModelPicker(self.settings, shown_name(wanted or self.session.model_name), why)
        self.push_screen(picker, lambda name: self.use_model(name, fetch=True) if name else None)

    def use_model(self, name: str, *, fetch: bool = False) -> None:
        """Loads the model `name` stands for; one that is not here is fetched or offered."""
        from glmtui.engine.catalog import resolver

        try:
            options = self.settings.load_options
            target = resolver.resolve(name, self.settings.server_specs(), options.family)
        except ModelNotFound as error:
            from glmtui.ui.dialogs.model_picker import DownloadDialog, is_downloadable

            if fetch and is_downloadable(name):
                self.push_screen(DownloadDialog(name, partial(self._fetch, name)), self._fetched)
            else:
                self.pick_model(name, error.message)
        except GlmtuiError as error:
            self.tell_notice("load", str(error))
        else:
            self.session.load(target, name, options)

    def _fetch(self, name: str, on_progress: ProgressHook, cancelled: CancelFlag) -> ModelInfo:
        from glmtui.engine.pull import pull

        return pull(
            name, endpoint=self.settings.endpoint, on_progress=on_progress, cancelled=cancelled
        )

    def _fetched(self, model: ModelInfo | None) -> None:
        if model is not None:
            self.session.load(model, model.name, self.settings.load_options)

    def action_command_palette(self) -> None:
        """The palette acts on the chat; it does not open over a dialog."""
        if self.screen is self.chat:
            from textual.command import CommandPalette

            self.push_screen(CommandPalette(placeholder=_("Find a command")))

    def get_system_commands(self, screen: Screen[Any]) -> Iterable[SystemCommand]:
        """The palette's entries: what can be done and is not part of typing."""
        for command in self.commands:
            if command.slash:
                help_line = "  ".join((_(command.help), *command.key_names))
                yield SystemCommand(_(command.title), help_line, lambda c=command: self._do(c))

    def _do(self, command: Command) -> None:
        if self.chat.prompt.complete(command):
            self.run_worker(self.chat.action_send())  # an editor would hold up the loop's messages

    # ---- what happens meanwhile

    def on_resize(self, event: events.Resize) -> None:
        """A window too small for anything gets a message instead."""
        small = is_too_small(event.size)
        if small and not isinstance(self.screen, SizeNotice):
            self.push_screen(SizeNotice())
        elif not small and isinstance(self.screen, SizeNotice):
            self.pop_screen()

    def _session_changed(self) -> None:
        self.chat.refresh_state()
        if self.store.unlocked and not self._told_unlocked:
            self._told_unlocked = True
            self.tell_notice("locks", status_text.no_locks_notice(self.store.unlocked))

    def _save_failed(self, error: StoreError | None) -> None:
        self.save_error = error
        self.tell_notice("store", status_text.save_error_notice(error))
        self.chat.refresh_state()

    def _goes_on_in_a_copy(self, conversation_id: str, why: StoreError) -> None:
        copy_id = self._saver.moved(conversation_id)
        if copy_id and self.session.conversation.id == conversation_id:
            self.session.conversation = replace(self.session.conversation, id=copy_id)
        self.tell_notice("copy", status_text.copy_notice(why))

    def _soon(self, call: Callable[[], None]) -> None:
        self.call_later(call)

    # ---- the way out

    def _fatal_error(self) -> None:
        """A fault of ours: its traceback to the log, without the values that Textual would add."""
        text = "".join(traceback.format_exception(self._exception))
        self._exit_renderables.append(Text(text, no_wrap=True, overflow="ignore"))
        self.leaving()
        self._close_messages_no_wait()

    def hear_signals(self, handler: Callable[[int], None]) -> None:
        """Has this be called with the number of each signal that would end a program."""
        self._hears_signals = True
        loop = asyncio.get_running_loop()
        for number in END_SIGNALS:
            loop.add_signal_handler(number, handler, number)

    def leave(self, number: int) -> None:
        """Leaves because of a signal."""
        self.signalled = number
        self.exit(return_code=128 + number)

    def exit(self, *args: Any, **how: Any) -> None:
        """Leaves; what would end the program does so no more, for it is ending."""
        if self._hears_signals:
            loop = asyncio.get_running_loop()
            for number in END_SIGNALS:
                loop.remove_signal_handler(number)
            signals.ignore_end_signals()
        self.leaving()
        super().exit(*args, **how)

    def close(self) -> tuple[bool, tuple[Conversation, ...]]:
        """After `run`: ends the reply, the threads and the store. Does not wait for a disk that
        hangs.

        Returns: whether the engine's thread and the saver's have ended, and what could not be
            saved.
        """
        self._memory.stop()
        for step in (self.keep_draft, self.session.close):
            try:
                step()
            except Exception:  # a fault of ours; what there is has to be saved all the same
                traceback.print_exc()
        ended = self._engine is None or self._engine.close(ENGINE_SECONDS)
        unsaved = self._saver.close(SAVER_SECONDS, self._let_go)
        return ended and self._saver.ended, unsaved

    def _let_go(self) -> None:
        self.typed.close()
        self.store.close()
