"""What the data folder would not take, put elsewhere when the program ends.

Nothing here waits for a disk that hangs, nor needs a terminal.
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

PLACE_SECONDS = 3.0
"""How long each place may take: after that its disk counts as one that hangs."""
LOG_SECONDS = 1.0

T = TypeVar("T")


def rescue(unsaved: Iterable[Conversation], drafts: Iterable[str] = ()) -> list[str]:
    """Writes each to a file of its own, in the first folder that takes it.

    All are written before anything is said or logged: the terminal may be gone, and the log's
    disk full.

    Returns:
        Where each is, a line for each.
    """
    bad: set[Path] = set()
    kept = [
        (talk, _write(f"{talk.id}.toml", partial(dumps, talk, "toml"), bad)) for talk in unsaved
    ]
    typed = [_write("draft.txt", partial(str, draft), bad) for draft in drafts]
    # Without titles: the first of what was said is one.
    named = [(f"conversation {talk.id}", path) for talk, path in kept]
    named += [("a draft", path) for path in typed]
    if named:
        within(LOG_SECONDS, lambda: _log(named))
    return [_said(talk, path) for talk, path in kept] + [_said_of_a_draft(path) for path in typed]


def within(seconds: float, call: Callable[[], T]) -> T | None:
    """What a call gives on a thread of its own; None if it fails, or takes longer."""
    given: list[T] = []

    def run() -> None:
        with contextlib.suppress(Exception):  # whatever it is, the next is to be tried
            given.append(call())

    thread = threading.Thread(target=run, name="glmtui-rescue", daemon=True)
    thread.start()
    thread.join(seconds)
    return given[0] if given else None


def _write(name: str, text: Callable[[], str], bad: set[Path]) -> Path | None:
    """The file that a text is in now; `bad` are the folders that have taken nothing."""

    def write(place: Path) -> Path:
        folder = Path(tempfile.mkdtemp(prefix="glmtui-", dir=place))
        path = folder / name
        try:
            replace_file(path, encode_utf8(text()))
        except BaseException:
            folder.rmdir()
            raise
        return path

    for place in _places():
        if place not in bad:
            if path := within(PLACE_SECONDS, lambda place=place: write(place)):  # type: ignore[misc]
                return path
            bad.add(place)
    return None


def _places() -> Iterator[Path]:
    """Folders that there are on most systems: on several disks, and in memory."""
    named = (os.environ.get(name, "") for name in ("TMPDIR", "HOME", "PWD", "XDG_RUNTIME_DIR"))
    temporary, *others = named
    texts = (temporary, "/tmp", "/var/tmp", *others, "/dev/shm")
    yield from dict.fromkeys(Path(text) for text in texts if text.startswith("/"))


def _said(conversation: Conversation, path: Path | None) -> str:
    name = sanitize(conversation.title)
    if path is None:
        return _("{name!r} could not be saved, in no folder of this computer.").format(name=name)
    text = _("{name!r} could not be saved; it is in {path} (glmtui import {path}).")
    return text.format(name=name, path=path)


def _said_of_a_draft(path: Path | None) -> str:
    if path is None:
        return _("What you had typed could not be saved, in no folder of this computer.")
    return _("What you had typed could not be saved; it is in {path}.").format(path=path)


def _log(kept: Iterable[tuple[str, Path | None]]) -> None:
    text = "".join(
        f"{datetime.now():%Y-%m-%d %H:%M:%S} {name} could not be saved; "
        f"it is in {path or 'no folder'}\n"
        for name, path in kept
    )
    append_to_log(paths.state_dir() / "glmtui.log", text)
