"""A limit of processor time for work on the main thread, such as laying out untrusted text.

Parsers and regular expressions of others have inputs that take them minutes. A timer's signal
interrupts them, also in the middle of a match: Python's `re` looks for signals as it searches.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import TypeVar

_TICK_SECONDS = 0.01

_Result = TypeVar("_Result")


class OutOfTime(BaseException):  # no Exception, which a library may catch
    """The work took longer than it may."""


def within(seconds: float, work: Callable[[], _Result]) -> _Result:
    """What `work` returns.

    It is tried twice: a collection of garbage may fall into the time of one try, not of both.
    Limits may be nested. On another thread than the main one, or where there are no timers, there
    is no limit.

    Args:
        seconds: for a try, of this thread's processor time: a busy machine changes nothing.
        work: has no effect that may not be left half done.

    Raises:
        OutOfTime: the work took longer, and was left.
    """
    try:
        return _within(seconds, work)
    except OutOfTime:
        return _within(seconds, work)


def _within(seconds: float, work: Callable[[], _Result]) -> _Result:
    if threading.current_thread() is not threading.main_thread() or not hasattr(
        signal, "setitimer"
    ):
        return work()
    before = signal.getsignal(signal.SIGALRM)
    watch = _Watch(seconds, before if isinstance(before, _Watch) else None)
    began = time.monotonic()
    signal.signal(signal.SIGALRM, watch)
    left, interval = signal.setitimer(signal.ITIMER_REAL, _TICK_SECONDS, _TICK_SECONDS)
    try:
        try:
            return work()
        finally:
            watch.over = True
    finally:
        if left:
            left = max(left - (time.monotonic() - began), 1e-6)
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, signal.SIG_DFL if before is None else before)
        signal.setitimer(signal.ITIMER_REAL, left, interval)


class _Watch:
    """The signal's handler: raises once the time is over."""

    def __init__(self, seconds: float, outer: _Watch | None) -> None:
        self.over = False
        self._outer = outer
        self._until = time.thread_time() + seconds

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if self._outer is not None:
            self._outer(number, frame)
        if not self.over and time.thread_time() > self._until:
            raise OutOfTime
