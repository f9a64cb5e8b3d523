"""Providers of values for command arguments: settings, files and other lists.

There is one provider for each `Command.kind`.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path

from glmtui import config
from glmtui.config.setting_type import Setting
from glmtui.errors import ConfigError
from glmtui.sanitize import sanitize
from glmtui.ui.prompt.completion import ArgumentValue, Provider, matching_values

MAX_FOLDER_ENTRIES = 5_000
"""Entries of a folder that are read at each key; more would delay the key."""

WAIT_SECONDS = 0.15
"""How long a key waits for values that are loaded on a thread."""


def list_provider(load: Callable[[], Iterable[ArgumentValue]]) -> Provider:
    """A provider for values that are loaded at each key."""
    return lambda typed: matching_values(typed, list(load()))


def background_provider(
    load: Callable[[], Iterable[ArgumentValue]], seconds: float = 5.0
) -> Provider:
    """A provider for values that are slow to load.

    They are loaded on a thread and used for `seconds`. A key waits at most `WAIT_SECONDS` for the
    thread; until it is done, the last values are used.
    """
    values: list[ArgumentValue] = []
    until = 0.0
    thread: threading.Thread | None = None

    def work() -> None:
        nonlocal values
        values = list(load())

    def provider(typed: str) -> list[ArgumentValue]:
        nonlocal until, thread
        if time.monotonic() > until and (thread is None or not thread.is_alive()):
            until = time.monotonic() + seconds
            thread = threading.Thread(target=work, name="glmtui-choices", daemon=True)
            thread.start()
            thread.join(WAIT_SECONDS)
        return matching_values(typed, values)

    return provider


def setting_values(
    typed: str, rows: Iterable[Setting] = config.SAMPLING_FIELDS
) -> list[ArgumentValue]:
    """Names of settings; after a name and a space, values of that setting."""
    name, space, _value = typed.partition(" ")
    if not space:
        return matching_values(
            typed, [ArgumentValue(f"{row.name} ", row.help, True) for row in rows]
        )
    try:
        row = config.find_setting(name)
    except ConfigError:
        return []
    words = row.choices or (("true", "false") if row.kind is bool else ())
    if row.optional:
        words = (*words, "default")
    return matching_values(typed, [ArgumentValue(f"{name} {word}", row.expected) for word in words])


def file_values(typed: str) -> Iterator[ArgumentValue]:
    """Files, and folders with a slash, whose path begins with what is typed."""
    parent, slash, start = typed.rpartition("/")
    try:
        folder = Path(parent + slash).expanduser()
        with os.scandir(folder) as entries:
            names = [(entry.name, entry.is_dir()) for entry in islice(entries, MAX_FOLDER_ENTRIES)]
    except (OSError, ValueError, RuntimeError):  # RuntimeError: ~user of an unknown user
        return
    for name, is_folder in sorted(names):
        hidden = name.startswith(".") and not start.startswith(".")
        # The prompt would change a name that is not safe, and then it would name no file.
        if name.lower().startswith(start.lower()) and not hidden and sanitize(name) == name:
            note = "" if is_folder else _size_of(folder / name)
            yield ArgumentValue(f"{parent}{slash}{name}{'/' * is_folder}", note, is_folder)


def _size_of(path: Path) -> str:
    try:
        return format_file_size(path.stat().st_size)
    except OSError:
        return ""


def format_file_size(nbytes: int) -> str:
    """Bytes with a unit: "812 B", "3.2 kB", "1.4 MB"."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if nbytes >= size:
            return f"{nbytes / size:.1f} {unit}"
    return f"{nbytes} B"
