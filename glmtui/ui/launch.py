"""The program with a screen, from the command line's word to the process's end.

Knows folders, the terminal and the exit code; what happens between them is the app's.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from glmtui import paths
from glmtui.addresses import shown_name
from glmtui.chat import Conversation
from glmtui.config import Settings
from glmtui.engine.api import Engine, Event
from glmtui.errors import ConfigError
from glmtui.language import _, speak
from glmtui.sanitize import visible
from glmtui.store import Store, dumps
from glmtui.ui.app import GlmtuiApp
from glmtui.ui.themes import few_colours


def run(
    settings: Settings,
    problems: Sequence[ConfigError],
    *,
    open_conversation: str | None = None,
    model_asked: bool = False,
) -> int:
    """The program with a screen, until the user leaves. Returns its exit code.

    Args:
        problems: what was wrong with the settings, to be shown.
        open_conversation: an id, the beginning of one, or "last"; it goes on with its own model.
        model_asked: the model in `settings` was asked for just now, so it takes over.

    Raises:
        StoreError: that conversation cannot be opened.
    """
    from glmtui.ui.terminal import TerminalDriver, own_terminal

    speak(settings.language)
    store = Store(paths.data_dir() / "conversations", settings.format)
    conversation = None if open_conversation is None else store.load(open_conversation)
    # of the address that is asked for anyway, a conversation has only what may be stored
    known = conversation is not None and conversation.model == shown_name(settings.model or "")
    if conversation is not None and conversation.model and not (model_asked or known):
        settings = replace(settings, model=conversation.model)
    log = paths.state_dir() / "glmtui.log"
    if settings.plain:
        return _run_plain(settings, store, conversation, problems)
    with own_terminal(log) as terminal:
        app = GlmtuiApp(
            settings,
            store,
            _start_engine,
            problems=problems,
            conversation=conversation,
            terminal_blocked=lambda: terminal.blocked,
            few_colours=few_colours(),
            driver_class=TerminalDriver,
        )
        app.run(mouse=settings.mouse)
        ended, unsaved = app.close()
    code = app.return_code or 0
    if code == 1:
        sys.stderr.write(_("glmtui met an error of its own; {log} has it.").format(log=log) + "\n")
    sys.stderr.writelines(_rescue(unsaved))
    return _end(code, ended)


def _run_plain(
    settings: Settings,
    store: Store,
    conversation: Conversation | None,
    problems: Sequence[ConfigError],
) -> int:
    from glmtui.ui.plain import PlainChat
    from glmtui.ui.plain_talk import lines_of_the_terminal

    write, read = lines_of_the_terminal()
    chat = PlainChat(settings, store, _start_engine, write=write, read=read)
    chat.run(conversation, problems)
    ended, unsaved = chat.close()
    sys.stderr.writelines(_rescue(unsaved))
    return _end(0, ended)


def _end(code: int, ended: bool) -> int:
    """The exit code, where the engine has ended; else the process ends here."""
    if not ended:  # still inside torch, whose threads would abort the process at its end
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code


def _start_engine(emit: Callable[[Event], None]) -> Engine:
    from glmtui.engine.thread import EngineThread

    thread = EngineThread(emit)
    thread.start()
    return thread


def _rescue(unsaved: Iterable[Conversation]) -> Iterator[str]:
    """Puts what the data folder would not take into the temporary one; says where."""
    for conversation in unsaved:
        name = visible(conversation.title)
        try:
            path = Path(tempfile.mkdtemp(prefix="glmtui-")) / f"{conversation.id}.toml"
            path.write_text(dumps(conversation, "toml"), encoding="utf-8")
        except OSError as error:
            text = _("{name!r} could not be saved: {cause}")
            yield text.format(name=name, cause=error.strerror) + "\n"
        else:
            text = _("{name!r} could not be saved; it is in {path} (glmtui import {path}).")
            yield text.format(name=name, path=path) + "\n"
