"""Log files: private to their owner, limited in size, with warnings and tracebacks.

They never hold the values of variables in a traceback's frames: these could be conversations or
API keys.
"""

from __future__ import annotations

import logging
import os
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from glmtui import __version__
from glmtui.errors import GlmtuiError
from glmtui.language import _
from glmtui.net.addresses import redact_credentials
from glmtui.system import paths
from glmtui.system.durable_files import make_private_folder

MAX_LOG_BYTES = 1_000_000  # a larger log is renamed to .old.log and a new one is started
ROTATION_CHECK_SECONDS = 10.0  # interval between checks of the size
JOIN_SECONDS = 1.0  # limit of waiting for the thread at the end: the disk may hang


def open_log(log: Path) -> int:
    """Open a log for appending, rotate it if it is large, return the descriptor. Raises OSError."""
    make_private_folder(log.parent)
    if log.exists() and log.stat().st_size > MAX_LOG_BYTES:
        log.replace(log.with_suffix(".old.log"))
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.open(log, flags, 0o600)


def rotate_if_large(log: Path, *descriptors: int) -> None:
    """Redirect descriptors from a log that is too large to a new one of the same name.

    Thread-safe; no line is lost. If another process has rotated the log already, the descriptors
    are redirected to the log that it started. Raises OSError.
    """
    if os.fstat(descriptors[0]).st_size <= MAX_LOG_BYTES:
        return
    fresh = open_log(log)
    for descriptor in descriptors:
        os.dup2(fresh, descriptor, inheritable=os.get_inheritable(descriptor))
    os.close(fresh)


@contextmanager
def log_rotation(log: Path, *descriptors: int) -> Iterator[None]:
    """Rotate the log in the background during the block, whoever writes to it."""
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(ROTATION_CHECK_SECONDS):
            with suppress(OSError):  # writing to the large one goes on
                rotate_if_large(log, *descriptors)

    thread = threading.Thread(target=watch, name="glmtui-log", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(JOIN_SECONDS)


@contextmanager
def log_warnings_to(descriptor: int) -> Iterator[None]:
    """Write all warnings of the `logging` module to this descriptor during the block."""
    with open(descriptor, "a", encoding="utf-8", errors="replace", closefd=False) as file:
        handler = logging.StreamHandler(file)
        handler.setFormatter(_Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        handler.setLevel(logging.WARNING)
        logging.getLogger().addHandler(handler)
        try:
            yield
        finally:
            logging.getLogger().removeHandler(handler)


class _Formatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return redact_credentials(super().format(record))


def append_to_log(log: Path, text: str) -> None:
    """Append text to a log, with URLs redacted. Raises OSError."""
    with os.fdopen(open_log(log), "a", encoding="utf-8", errors="replace") as file:
        file.write(redact_credentials(text))


def log_unexpected(error: BaseException) -> GlmtuiError:
    """Append the traceback of a bug to crash.log and return an error that names the file."""
    log = paths.state_dir() / "crash.log"
    message = _("unexpected {kind}: {error}").format(kind=type(error).__name__, error=error)
    try:
        head = f"glmtui {__version__}, {datetime.now():%Y-%m-%d %H:%M:%S}\n"
        append_to_log(log, head + "".join(traceback.format_exception(error)) + "\n")
    except OSError:
        return GlmtuiError(message, _("The details could not be written to {log}.").format(log=log))
    return GlmtuiError(message, _("The details are in {log}.").format(log=log))
