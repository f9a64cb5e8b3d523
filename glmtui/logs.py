"""Logs: files for their owner alone that never grow for ever, and an error of ours in one line.

What goes there are warnings and tracebacks, never the values in their frames: those would hold
what was said, and keys. Knows where tracebacks go, and no command.
"""

from __future__ import annotations

import logging
import os
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from glmtui import __version__, paths
from glmtui.errors import GlmtuiError
from glmtui.language import _
from glmtui.store.durable import make_private_folder

LOG_BYTES = 1_000_000  # a log that is longer when it is opened begins anew; the old one is kept


def open_log(log: Path) -> int:
    """A descriptor to append to a log with. Raises OSError where it cannot be written."""
    make_private_folder(log.parent)
    if log.exists() and log.stat().st_size > LOG_BYTES:
        log.replace(log.with_suffix(".old.log"))
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.open(log, flags, 0o600)


@contextmanager
def warnings_to(descriptor: int) -> Iterator[None]:
    """Meanwhile, what any part of the program warns of is written to this descriptor."""
    with open(descriptor, "a", encoding="utf-8", errors="replace", closefd=False) as file:
        handler = logging.StreamHandler(file)
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        handler.setLevel(logging.WARNING)
        logging.getLogger().addHandler(handler)
        try:
            yield
        finally:
            logging.getLogger().removeHandler(handler)


def unexpected(error: Exception) -> GlmtuiError:
    """The error in a line; its traceback goes to a log file."""
    log = paths.state_dir() / "crash.log"
    what = _("unexpected {kind}: {error}").format(kind=type(error).__name__, error=error)
    try:
        with os.fdopen(open_log(log), "a", encoding="utf-8", errors="replace") as file:
            file.write(f"glmtui {__version__}, {datetime.now():%Y-%m-%d %H:%M:%S}\n")
            file.write("".join(traceback.format_exception(error)) + "\n")
    except OSError:
        return GlmtuiError(what, _("The details could not be written to {log}.").format(log=log))
    return GlmtuiError(what, _("The details are in {log}.").format(log=log))
