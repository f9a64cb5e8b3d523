"""Work that waits for others (a server, a name service, a disk) and can be left at any moment."""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import TypeVar

from glmtui.engine.progress import LoadCancelled

POLL_SECONDS = 0.05

Result = TypeVar("Result")


def run_detached(
    work: Callable[[], Result],
    cancelled: threading.Event | None = None,
    give_up: Callable[[], object] = lambda: None,
) -> Result:
    """The result of `work()`, which runs on a thread of its own.

    Args:
        cancelled: once set, `work` is left alone: what it returns or raises later is dropped.
        give_up: asks `work` to end soon, called when it is left.

    Raises LoadCancelled once `cancelled` is set; else whatever `work` raises.
    """
    outcome: SimpleQueue[tuple[Result] | BaseException] = SimpleQueue()

    def run() -> None:
        try:
            outcome.put((work(),))
        except BaseException as error:  # raised again where it is waited for
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
        give_up()
        raise
