"""The program with a screen, from the command line's word to the process's end.

Knows folders, the terminal and the exit code; what happens between them is the app's.
"""

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
from glmtui.language import _, speak
from glmtui.net.addresses import shown_name
from glmtui.store import Store
from glmtui.system import paths
from glmtui.system.terminfo import can_place_cursor
from glmtui.ui.app import GlmtuiApp
from glmtui.ui.session.rescue import rescue
from glmtui.ui.terminal import signals
from glmtui.ui.terminal.themes import has_few_colours

LEAVE_SECONDS = 8.0
"""After the user has left, until the process ends whatever a thread of it waits for; more than
`app.SAVER_SECONDS`."""


def run(
    settings: Settings,
    problems: Sequence[ConfigError],
    *,
    open_conversation: str | None = None,
    model_asked: bool = False,
) -> int:
    """The program with a screen, until the user leaves. Returns its exit code.

    Without one, as a chat of plain lines, where the settings say so, or where stdout is no terminal
    or one that cannot place a cursor.

    Args:
        problems: what was wrong with the settings, to be shown.
        open_conversation: an id, the beginning of one, or "last"; it goes on with its own model.
        model_asked: the model in `settings` was asked for just now, so it takes over.

    Raises:
        StoreError: that conversation cannot be opened.
    """
    from glmtui.ui.terminal.driver import TerminalDriver, exclusive_terminal

    speak(settings.language)
    store = Store(paths.data_dir() / "conversations", settings.format)
    conversation = None if open_conversation is None else store.load(open_conversation)
    # of the address that is asked for anyway, a conversation has only what may be stored
    known = conversation is not None and conversation.model == shown_name(settings.model or "")
    if conversation is not None and conversation.model and not (model_asked or known):
        settings = replace(settings, model=conversation.model)
    log = paths.state_dir() / "glmtui.log"
    if settings.plain or not (sys.stdout.isatty() and can_place_cursor()):
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
        guard = _Guard(app)
        app.leaving = guard.start
        try:
            app.run(mouse=settings.mouse)
        finally:
            ended = guard.end()
    code = app.return_code or 0
    if code == 1:
        guard.said.insert(0, _("glmtui met an error of its own; {log} has it.").format(log=log))
    return _end(code, _say(guard.said) and ended)


def _run_plain(
    settings: Settings,
    store: Store,
    conversation: Conversation | None,
    problems: Sequence[ConfigError],
) -> int:
    from glmtui.ui.plain.line_chat import lines_of_the_terminal
    from glmtui.ui.plain.plain_chat import PlainChat

    write, read = lines_of_the_terminal()
    chat = PlainChat(settings, store, _start_engine, write=write, read=read)
    chat.hear_signals()
    try:
        chat.run(conversation, problems)
    finally:
        with signals.end_signals_ignored():
            ended, unsaved = chat.close()
            said = rescue(unsaved)
        ended &= _say(said)
    return _end(128 + chat.signalled if chat.signalled else 0, ended)


def _say(lines: Iterable[str], file: TextIO | None = None) -> bool:
    """Writes lines, to stderr if nothing else is named; False where nobody can be told."""
    file = file or sys.stderr
    try:
        file.writelines(line + "\n" for line in lines)
        file.flush()
        sys.stdout.flush()
    except OSError:  # the link has dropped
        return False
    return True


def _end(code: int, ended: bool) -> int:
    """The exit code, where all has ended; else the process ends here.

    Torch's threads would abort the process at its end, a disk that hangs would hold it up, and a
    terminal that has gone would be written to once more.
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


class _Guard:
    """The end of an app: what there is is saved, there or elsewhere, whatever hangs.

    Attributes:
        said: where what could not be saved is now.
    """

    def __init__(self, app: GlmtuiApp) -> None:
        self._app = app
        self._ends = threading.Lock()
        self._timer = threading.Timer(LEAVE_SECONDS, self._force)
        self._timer.daemon = True
        self.said: list[str] = []

    def start(self) -> None:
        """From now on the app has so many seconds to come to its end."""
        if not self._timer.is_alive() and not self._timer.finished.is_set():
            self._timer.start()

    def end(self) -> bool:
        """Ends the app once it does not run any more. Returns whether all of it has ended."""
        if not self._ends.acquire(blocking=False):
            threading.Event().wait()  # too late: the process ends
        self._timer.cancel()
        return self._end()

    def _end(self) -> bool:
        with signals.end_signals_ignored():
            ended, unsaved = self._app.close()
            self.said = rescue(unsaved, self._app.typed.unsaved())
        return ended

    def _force(self) -> None:
        if self._ends.acquire(blocking=False):
            self._end()
            if sys.__stderr__ is not None:  # the terminal
                _say(self.said, sys.__stderr__)
            os._exit(self._app.return_code or 0)
