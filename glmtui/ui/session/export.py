"""A conversation written to a file of the user's choice, as the file's ending says."""

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


def export(conversation: Conversation, path: Path | None) -> Path:
    """Writes where no file is yet, a whole file or none: .toml and .json exactly, else Markdown.

    Args:
        path: None makes a name of the title.

    Raises:
        StoreError: there is a file, or it cannot be written.
    """
    path = path or Path(file_name(conversation, "toml")).with_suffix(".md")
    exact = path.suffix in (".toml", ".json")
    text = dumps(conversation, format_of(path)) if exact else to_markdown(conversation)
    error = _within(WRITE_SECONDS, lambda: create_file(path, encode_utf8(text)))
    if error is not None:
        said = _("{path} cannot be written: {cause}")
        raise StoreError(said.format(path=path, cause=error.strerror)) from error
    return path.resolve()


def _within(seconds: float, write: Callable[[], None]) -> OSError | None:
    """What is wrong with a write; a disk that hangs keeps the caller only for so long."""
    ended: list[OSError | None] = []

    def work() -> None:
        try:
            write()
        except OSError as error:
            ended.append(error)
        else:
            ended.append(None)

    thread = threading.Thread(target=work, name="glmtui-export", daemon=True)
    thread.start()
    thread.join(seconds)
    return ended[0] if ended else TimeoutError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT))
