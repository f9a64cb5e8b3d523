"""The signals that end a program: when the link drops several of them come, one after the other.

The first is the way out; while that is gone none of the others may cut it short.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

END_SIGNALS = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)


def ignore() -> None:
    """From now on they do nothing. To be called on the main thread; does nothing on others."""
    if threading.current_thread() is threading.main_thread():
        for number in END_SIGNALS:
            signal.signal(number, signal.SIG_IGN)


@contextmanager
def ignored() -> Iterator[None]:
    """Meanwhile they do nothing."""
    before = [(number, signal.getsignal(number)) for number in END_SIGNALS]
    ignore()
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, handler in before:
                signal.signal(number, handler or signal.SIG_DFL)
