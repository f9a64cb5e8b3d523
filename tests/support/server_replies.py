"""Replies for the fault table: what a server of the test's says to the app."""

from __future__ import annotations

import contextlib
import itertools
import time

from support.fake_server import Exchange, delta

RATE = 200.0
"""Words per second of a reply."""


def counting(exchange: Exchange) -> None:
    """Says "1 2 3 ..." at `RATE` until nobody listens."""
    if exchange.models():
        return
    exchange.start()
    with contextlib.suppress(OSError):
        for n in itertools.count(1):
            exchange.event(delta(f"{n} "))
            time.sleep(1 / RATE)  # the rate is what is asked for, nobody is waited for
