"""Saves what the data folder could not take to other folders, when the program ends.

Nothing here waits for a disk that hangs or needs a terminal.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TypeVar

from glmtui.chat import Conversation
from glmtui.language import _
from glmtui.logs import append_to_log
from glmtui.sanitize import sanitize
from glmtui.store import dumps
from glmtui.system import paths
from glmtui.system.durable_files import encode_utf8, replace_file

FOLDER_SECONDS = 3.0
"""How long a write to one folder may take. After that, its disk counts as one that hangs."""
LOG_SECONDS = 1.0
"""How long a write to the log may take."""

ResultT = TypeVar("ResultT")


def rescue(unsaved: Iterable[Conversation], drafts: Iterable[str] = ()) -> list[str]:
    """Writes each to its own file, in the first folder where that works.

    All are written before anything is logged or shown: the terminal may be gone, and the disk of
    the log may be full.

    Returns:
        One line for each, which says where it is.
    """
    bad_folders: set[Path] = set()
    conversation_files = [
        (talk, _write(f"{talk.id}.toml", partial(dumps, talk, "toml"), bad_folders))
        for talk in unsaved
    ]
    draft_files = [_write("draft.txt", partial(str, draft), bad_folders) for draft in drafts]
    # Without titles, which may quote the first question: a log must not hold conversations.
    log_entries = [(f"conversation {talk.id}", path) for talk, path in conversation_files]
    log_entries += [("a draft", path) for path in draft_files]
    if log_entries:
        call_within(LOG_SECONDS, lambda: _log(log_entries))
    messages = [_conversation_message(talk, path) for talk, path in conversation_files]
    return messages + [_draft_message(path) for path in draft_files]


def call_within(seconds: float, call: Callable[[], ResultT]) -> ResultT | None:
    """Calls a function on a thread. Returns None if it fails or takes longer."""
    results: list[ResultT] = []

    def run() -> None:
        with contextlib.suppress(Exception):  # whatever it is, the next folder must be tried
            results.append(call())

    thread = threading.Thread(target=run, name="glmtui-rescue", daemon=True)
    thread.start()
    thread.join(seconds)
    return results[0] if results else None


def _write(name: str, text: Callable[[], str], bad_folders: set[Path]) -> Path | None:
    """Writes a file in the first folder that works; adds those that do not to `bad_folders`."""

    def write(parent: Path) -> Path:
        folder = Path(tempfile.mkdtemp(prefix="glmtui-", dir=parent))
        path = folder / name
        try:
            replace_file(path, encode_utf8(text()))
        except BaseException:
            folder.rmdir()
            raise
        return path

    for parent in _folders():
        if parent not in bad_folders:
            if path := call_within(FOLDER_SECONDS, partial(write, parent)):
                return path
            bad_folders.add(parent)
    return None


def _folders() -> Iterator[Path]:
    """Folders that exist on most systems: on several disks, and in memory."""
    variables = ("TMPDIR", "HOME", "PWD", "XDG_RUNTIME_DIR")
    temporary, *others = (os.environ.get(name, "") for name in variables)
    candidates = (temporary, "/tmp", "/var/tmp", *others, "/dev/shm")
    yield from dict.fromkeys(Path(text) for text in candidates if text.startswith("/"))


def _conversation_message(conversation: Conversation, path: Path | None) -> str:
    name = sanitize(conversation.title)
    if path is None:
        return _("{name!r} could not be saved in any folder of this computer.").format(name=name)
    text = _(
        "{name!r} could not be saved in its folder; a copy is in {path} (glmtui import {path})."
    )
    return text.format(name=name, path=path)


def _draft_message(path: Path | None) -> str:
    if path is None:
        return _("The text in the prompt could not be saved in any folder of this computer.")
    return _(
        "The text in the prompt could not be saved in its folder; a copy is in {path}."
    ).format(path=path)


def _log(entries: Iterable[tuple[str, Path | None]]) -> None:
    text = "".join(
        f"{datetime.now():%Y-%m-%d %H:%M:%S} {name} could not be saved; "
        f"it is in {path or 'no folder'}\n"
        for name, path in entries
    )
    append_to_log(paths.state_dir() / "glmtui.log", text)
