"""Answers of the fake server for the tests in faults."""

from __future__ import annotations

import contextlib
import itertools
import time

from support.fake_server import Exchange, delta

RATE = 200.0
"""Words per second of a reply."""


def count_forever(exchange: Exchange) -> None:
    """Reply "1 2 3 ..." at `RATE` until the client disconnects."""
    if exchange.answer_model_list():
        return
    exchange.start()
    with contextlib.suppress(OSError):
        for n in itertools.count(1):
            exchange.event(delta(f"{n} "))
            time.sleep(1 / RATE)  # keeps the rate; nothing is awaited
