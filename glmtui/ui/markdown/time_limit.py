"""A limit on processor time for work on the main thread, such as laying out untrusted text.

Third-party parsers and regular expressions need minutes for some inputs. A timer signal interrupts
them, even in the middle of a match, because Python's `re` checks for signals as it searches.
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


class TimeLimitExceeded(BaseException):  # not an Exception, because libraries may catch those
    """The work took longer than its time limit."""


def call_with_time_limit(seconds: float, work: Callable[[], _Result]) -> _Result:
    """Returns the result of `work`.

    It is tried twice, because a garbage collection may fall into the time of one try. Limits may
    be nested. There is no limit on other threads than the main thread, or without timers.

    Args:
        seconds: of processor time of this thread, for each try. Does not depend on the load of
            the machine.
        work: may be interrupted anywhere and started again.

    Raises:
        TimeLimitExceeded: both tries took longer.
    """
    try:
        return _call_once(seconds, work)
    except TimeLimitExceeded:
        return _call_once(seconds, work)


def _call_once(seconds: float, work: Callable[[], _Result]) -> _Result:
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
            watch.done = True
    finally:
        if left:
            left = max(left - (time.monotonic() - began), 1e-6)
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, signal.SIG_DFL if before is None else before)
        signal.setitimer(signal.ITIMER_REAL, left, interval)


class _Watch:
    """The signal handler, which raises TimeLimitExceeded after `seconds`.

    Attributes:
        done: whether the work has ended; a late signal must not raise.
    """

    def __init__(self, seconds: float, outer: _Watch | None) -> None:
        self.done = False
        self._outer = outer
        self._until = time.thread_time() + seconds

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if self._outer is not None:
            self._outer(number, frame)
        if not self.done and time.thread_time() > self._until:
            raise TimeLimitExceeded
