"""The signals that end the program: see `GlmtuiApp.exit_on_signal` for what they do in the app.

When an SSH link drops, several of them arrive in a row. The first starts the shutdown; the others
must not interrupt it.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

END_SIGNALS = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)


def ignore_end_signals() -> None:
    """Ignores END_SIGNALS from now on. Does nothing on another thread than the main thread."""
    if threading.current_thread() is threading.main_thread():
        for number in END_SIGNALS:
            signal.signal(number, signal.SIG_IGN)


@contextmanager
def end_signals_ignored() -> Iterator[None]:
    """Ignores END_SIGNALS inside the block and then restores their handlers."""
    before = [(number, signal.getsignal(number)) for number in END_SIGNALS]
    ignore_end_signals()
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, handler in before:
                signal.signal(number, handler or signal.SIG_DFL)
