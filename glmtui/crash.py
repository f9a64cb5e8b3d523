"""What to say of an error that is ours to mend. Knows where its traceback goes, and no command."""

from __future__ import annotations

import os
import traceback
from datetime import datetime

from glmtui import __version__, paths
from glmtui.errors import GlmtuiError
from glmtui.store.durable import make_private_folder


def unexpected(error: Exception) -> GlmtuiError:
    """The error in a line; its traceback goes to a log file, which is its owner's alone."""
    log = paths.state_dir() / "crash.log"
    what = f"unexpected {type(error).__name__}: {error}"
    try:
        make_private_folder(log.parent)
        handle = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        with os.fdopen(handle, "a", encoding="utf-8", errors="replace") as file:
            file.write(f"glmtui {__version__}, {datetime.now():%Y-%m-%d %H:%M:%S}\n")
            file.write("".join(traceback.format_exception(error)) + "\n")
    except OSError:
        return GlmtuiError(what, f"The details could not be written to {log}.")
    return GlmtuiError(what, f"The details are in {log}.")
