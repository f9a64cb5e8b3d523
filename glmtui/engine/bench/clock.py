"""What an engine's process measures of itself: the time of its replies, the memory it took.

Imports no torch, which not every engine needs.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator

from glmtui.engine.bench.plan import Timed


def timed(tokens: Iterator[int]) -> Timed:
    """Times a reply that is handed out token by token."""
    started = time.perf_counter()
    ids = [next(tokens)]
    first = time.perf_counter()
    ids += tokens
    return Timed(first - started, time.perf_counter() - first, tuple(ids))


def peak_resident() -> int | None:
    """The most memory this process has had resident, in bytes; None where it is not told."""
    if sys.platform == "win32":
        return None
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024
