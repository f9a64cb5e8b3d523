"""Where the choices for a command's argument come from: settings, files, what else there is.

One provider for each `Command.kind`. Nothing here knows the prompt they are offered in.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path

from glmtui import config
from glmtui.config.schema import Setting
from glmtui.errors import ConfigError
from glmtui.sanitize import sanitize, sanitize_line
from glmtui.ui.prompt.completion import ArgumentValue, Provider, fitting

MOST_NAMES = 5_000
"""Names of a folder that are looked at."""
PATIENCE = 0.15
"""Seconds that a key waits for choices that are being found."""


def among(names: Callable[[], Iterable[ArgumentValue]]) -> Provider:
    """Choices from a list, which is asked for each time."""
    return lambda typed: fitting(typed, list(names()))


def settings(typed: str, rows: Iterable[Setting] = config.SAMPLING_FIELDS) -> list[ArgumentValue]:
    """Names of settings, and after a name its values."""
    name, space, _value = typed.partition(" ")
    if not space:
        return fitting(
            typed, [ArgumentValue(f"{row.name} ", sanitize_line(row.help), True) for row in rows]
        )
    try:
        row = config.find_setting(name)
    except ConfigError:
        return []
    words = row.choices or (("true", "false") if row.kind is bool else ())
    if row.optional:
        words = (*words, "default")
    return fitting(typed, [ArgumentValue(f"{name} {word}", row.expected) for word in words])


def files(typed: str) -> Iterator[ArgumentValue]:
    """Files and folders whose path goes on from what is typed, folders with a slash."""
    above, slash, begun = typed.rpartition("/")
    try:
        folder = Path(above + slash).expanduser()
        with os.scandir(folder) as entries:
            names = [(entry.name, entry.is_dir()) for entry in islice(entries, MOST_NAMES)]
    except (OSError, ValueError, RuntimeError):  # nobody of that name
        return
    for name, is_folder in sorted(names):
        hidden = name.startswith(".") and not begun.startswith(".")
        # A name that cannot be typed as it is cannot be offered either.
        if name.lower().startswith(begun.lower()) and not hidden and sanitize(name) == name:
            note = "" if is_folder else size_of(folder / name)
            yield ArgumentValue(f"{above}{slash}{name}{'/' * is_folder}", note, is_folder)


def size_of(path: Path) -> str:
    """A file's size in words; empty where it cannot be known."""
    try:
        return file_size(path.stat().st_size)
    except OSError:
        return ""


def file_size(nbytes: int) -> str:
    """Bytes as a person reads them: "812 B", "3.2 kB", "1.4 MB"."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if nbytes >= size:
            return f"{nbytes / size:.1f} {unit}"
    return f"{nbytes} B"


def kept(load: Callable[[], Iterable[ArgumentValue]], seconds: float = 5.0) -> Provider:
    """Choices that take time to find: found anew after so long, not at each key.

    On a thread, which a key waits for no longer than `PATIENCE`: a later one has them then.
    """
    found: list[ArgumentValue] = []
    until = 0.0
    thread: threading.Thread | None = None

    def work() -> None:
        nonlocal found
        found = list(load())

    def provider(typed: str) -> list[ArgumentValue]:
        nonlocal until, thread
        if time.monotonic() > until and (thread is None or not thread.is_alive()):
            until = time.monotonic() + seconds
            thread = threading.Thread(target=work, name="glmtui-choices", daemon=True)
            thread.start()
            thread.join(PATIENCE)
        return fitting(typed, found)

    return provider
