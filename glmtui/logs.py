"""Logs: files for their owner alone that never grow for ever, and an error of ours in one line.

What goes there are warnings and tracebacks, never the values in their frames: those would hold
what was said, and keys. Knows where tracebacks go, and no command.
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

MAX_LOG_BYTES = 1_000_000  # a log that is longer begins anew; the old one is kept beside it
ROTATION_CHECK_SECONDS = 10.0  # between looks at what libraries have written
JOIN_SECONDS = 1.0  # the log's disk may hang


def open_log(log: Path) -> int:
    """A descriptor to append to a log with. Raises OSError where it cannot be written."""
    make_private_folder(log.parent)
    if log.exists() and log.stat().st_size > MAX_LOG_BYTES:
        log.replace(log.with_suffix(".old.log"))
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.open(log, flags, 0o600)


def rotate_if_large(log: Path, *descriptors: int) -> None:
    """Has descriptors that lead to a log that is too long lead to a new one of that name.

    Nothing is lost, and any thread may call it. Where another program has put the long one away
    already, they join it in its new one. Raises OSError.
    """
    if os.fstat(descriptors[0]).st_size <= MAX_LOG_BYTES:
        return
    fresh = open_log(log)
    for descriptor in descriptors:
        os.dup2(fresh, descriptor, inheritable=os.get_inheritable(descriptor))
    os.close(fresh)


@contextmanager
def log_rotation(log: Path, *descriptors: int) -> Iterator[None]:
    """Meanwhile the log is renewed soon after it has grown too long, whoever writes to it."""
    ended = threading.Event()

    def look() -> None:
        while not ended.wait(ROTATION_CHECK_SECONDS):
            with suppress(OSError):  # the long one goes on
                rotate_if_large(log, *descriptors)

    thread = threading.Thread(target=look, name="glmtui-log", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(JOIN_SECONDS)


@contextmanager
def log_warnings_to(descriptor: int) -> Iterator[None]:
    """Meanwhile, what any part of the program warns of is written to this descriptor."""
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
    """Adds text to a log, without passwords of addresses. Raises OSError."""
    with os.fdopen(open_log(log), "a", encoding="utf-8", errors="replace") as file:
        file.write(redact_credentials(text))


def log_unexpected(error: BaseException) -> GlmtuiError:
    """The error in a line; its traceback goes to a log file."""
    log = paths.state_dir() / "crash.log"
    what = _("unexpected {kind}: {error}").format(kind=type(error).__name__, error=error)
    try:
        head = f"glmtui {__version__}, {datetime.now():%Y-%m-%d %H:%M:%S}\n"
        append_to_log(log, head + "".join(traceback.format_exception(error)) + "\n")
    except OSError:
        return GlmtuiError(what, _("The details could not be written to {log}.").format(log=log))
    return GlmtuiError(what, _("The details are in {log}.").format(log=log))
