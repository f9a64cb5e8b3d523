"""Exports a conversation to a file that the user names; the suffix selects the format."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from pathlib import Path

from glmtui.chat import Conversation
from glmtui.errors import StoreError
from glmtui.language import _
from glmtui.store import dumps, to_markdown
from glmtui.store.file_names import file_name, format_of
from glmtui.system.durable_files import create_file, encode_utf8

WRITE_SECONDS = 10.0
"""How long the caller waits for a disk that hangs."""


def export(conversation: Conversation, path: Path | None) -> Path:
    """Writes a new file: lossless for .toml and .json, Markdown otherwise.

    Args:
        path: None makes a name of the title.

    Raises:
        StoreError: the file exists or cannot be written. No partial file remains.
    """
    path = path or Path(file_name(conversation, "toml")).with_suffix(".md")
    lossless = path.suffix in (".toml", ".json")
    text = dumps(conversation, format_of(path)) if lossless else to_markdown(conversation)
    error = _call_within(WRITE_SECONDS, lambda: create_file(path, encode_utf8(text)))
    if error is not None:
        message = _("Could not write {path}: {cause}")
        raise StoreError(message.format(path=path, cause=error.strerror)) from error
    return path.resolve()


def _call_within(seconds: float, write: Callable[[], None]) -> OSError | None:
    """Calls `write` on a thread. Returns its error, or a timeout if it takes longer."""
    results: list[OSError | None] = []

    def run() -> None:
        try:
            write()
        except OSError as error:
            results.append(error)
        else:
            results.append(None)

    thread = threading.Thread(target=run, name="glmtui-export", daemon=True)
    thread.start()
    thread.join(seconds)
    return results[0] if results else TimeoutError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT))
