"""Runs a blocking call (to a server, a DNS resolver, a disk) so that it can be abandoned."""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import TypeVar

from glmtui.engine.progress import LoadCancelled

POLL_SECONDS = 0.05

Result = TypeVar("Result")


def run_detached(
    call: Callable[[], Result],
    cancelled: threading.Event | None = None,
    abort: Callable[[], object] = lambda: None,
) -> Result:
    """Run `call()` in a daemon thread and return its result.

    Args:
        cancelled: if set, the call is abandoned: what it returns or raises later is ignored.
        abort: asks an abandoned call to end soon.

    Raises LoadCancelled if `cancelled` is set, and whatever `call` raises.
    """
    outcome: SimpleQueue[tuple[Result] | BaseException] = SimpleQueue()

    def run() -> None:
        try:
            outcome.put((call(),))
        except BaseException as error:  # raised again in the waiting thread
            outcome.put(error)

    threading.Thread(target=run, name="detached", daemon=True).start()
    try:
        while cancelled is None or not cancelled.is_set():
            try:
                done = outcome.get(timeout=POLL_SECONDS)
            except Empty:
                continue
            if isinstance(done, BaseException):
                raise done
            return done[0]
        raise LoadCancelled
    except BaseException:
        abort()
        raise
