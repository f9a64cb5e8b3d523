"""Starts the chat from the command line: folders, terminal, exit code, and a bounded exit."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import TextIO

from glmtui.chat import Conversation
from glmtui.config import Settings
from glmtui.engine.api import Engine, Event
from glmtui.errors import ConfigError
from glmtui.language import _, set_language
from glmtui.net.addresses import redact_if_url
from glmtui.store import Store
from glmtui.system import paths
from glmtui.system.terminfo import can_move_cursor
from glmtui.ui.app import GlmtuiApp
from glmtui.ui.session.rescue import rescue
from glmtui.ui.terminal import end_signals
from glmtui.ui.terminal.themes import has_few_colours

EXIT_SECONDS = 8.0
"""After this time the process ends, even if a thread still waits for something. Longer than
`workspace.SAVER_CLOSE_SECONDS`."""


def run(
    settings: Settings,
    problems: Sequence[ConfigError],
    *,
    open_conversation: str | None = None,
    model_asked: bool = False,
) -> int:
    """Runs the chat until the user leaves. Returns the exit code.

    It is a chat of plain lines if the settings say so, or if stdout is not a terminal that can
    place its cursor.

    Args:
        problems: errors in the settings, which are shown.
        open_conversation: an id, the beginning of one, or "last". The conversation's own model is
            loaded.
        model_asked: whether the model in `settings` comes from the command line; then it is loaded
            instead.

    Raises:
        StoreError: the conversation cannot be opened.
    """
    from glmtui.ui.terminal.driver import TerminalDriver, exclusive_terminal

    set_language(settings.language)
    store = Store(paths.data_dir() / "conversations", settings.format)
    conversation = None if open_conversation is None else store.load(open_conversation)
    # A stored conversation has a server's address without its credentials.
    same = conversation is not None and conversation.model == redact_if_url(settings.model or "")
    if conversation is not None and conversation.model and not (model_asked or same):
        settings = replace(settings, model=conversation.model)
    log = paths.state_dir() / "glmtui.log"
    if settings.plain or not (sys.stdout.isatty() and can_move_cursor()):
        return _run_plain(settings, store, conversation, problems)
    with exclusive_terminal(log) as terminal:
        app = GlmtuiApp(
            settings,
            store,
            _start_engine,
            problems=problems,
            conversation=conversation,
            terminal_blocked=lambda: terminal.blocked,
            few_colours=has_few_colours(),
            driver_class=TerminalDriver,
        )
        guard = ExitGuard(app)
        app.on_exit_start = guard.start
        try:
            app.run(mouse=settings.mouse)
        finally:
            ended = guard.end()
    code = app.return_code or 0
    if code == 1:
        guard.messages.insert(0, _("glmtui had an internal error; see {log}.").format(log=log))
    return _exit_code(code, _write_lines(guard.messages) and ended)


def _run_plain(
    settings: Settings,
    store: Store,
    conversation: Conversation | None,
    problems: Sequence[ConfigError],
) -> int:
    from glmtui.ui.plain.plain_chat import PlainChat, terminal_lines

    write, read = terminal_lines()
    chat = PlainChat(settings, store, _start_engine, write=write, read=read)
    chat.handle_signals()
    try:
        chat.run(conversation, problems)
    finally:
        with end_signals.end_signals_ignored():
            ended, unsaved = chat.close()
            messages = rescue(unsaved)
        ended &= _write_lines(messages)
    return _exit_code(128 + chat.signal_number if chat.signal_number else 0, ended)


def _write_lines(lines: Iterable[str], file: TextIO | None = None) -> bool:
    """Writes lines to a file or to stderr. Returns False if that is not possible."""
    file = file or sys.stderr
    try:
        file.writelines(line + "\n" for line in lines)
        file.flush()
        sys.stdout.flush()
    except OSError:  # the connection is closed
        return False
    return True


def _exit_code(code: int, ended: bool) -> int:
    """Returns the exit code if everything has ended; otherwise ends the process here.

    Threads inside torch would abort the process at its normal end, a disk that hangs would delay
    it, and Python would write once more to a terminal that is gone.
    """
    if not ended:
        for file in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError):
                file.flush()
        os._exit(code)
    return code


def _start_engine(emit: Callable[[Event], None]) -> Engine:
    from glmtui.engine.thread import EngineThread

    thread = EngineThread(emit)
    thread.start()
    return thread


class ExitGuard:
    """Ends an app within EXIT_SECONDS: conversations are saved, there or elsewhere.

    Attributes:
        messages: where the conversations are that could not be saved.
    """

    def __init__(self, app: GlmtuiApp) -> None:
        self.messages: list[str] = []
        self._app = app
        self._ending = threading.Lock()
        self._timer = threading.Timer(EXIT_SECONDS, self._force)
        self._timer.daemon = True

    def start(self) -> None:
        """Starts the time limit."""
        if not self._timer.is_alive() and not self._timer.finished.is_set():
            self._timer.start()

    def end(self) -> bool:
        """Closes the app after its `run`. Returns whether all its threads have ended."""
        if not self._ending.acquire(blocking=False):
            threading.Event().wait()  # too late: `_force` ends the process
        self._timer.cancel()
        return self._close()

    def _close(self) -> bool:
        with end_signals.end_signals_ignored():
            ended, unsaved = self._app.close()
            self.messages = rescue(unsaved, self._app.workspace.drafts.unsaved())
        return ended

    def _force(self) -> None:
        if self._ending.acquire(blocking=False):
            self._close()
            if sys.__stderr__ is not None:  # the terminal
                _write_lines(self.messages, sys.__stderr__)
            os._exit(self._app.return_code or 0)
