"""How an engine's process times its replies. Imports no torch, which not every engine needs."""

from __future__ import annotations

import time
from collections.abc import Iterator

from glmtui.engine.bench.plan import TimedReply


def time_reply(tokens: Iterator[int]) -> TimedReply:
    """Times a reply that is handed out token by token."""
    started = time.perf_counter()
    ids = [next(tokens)]
    first = time.perf_counter()
    ids += tokens
    return TimedReply(first - started, time.perf_counter() - first, tuple(ids))
