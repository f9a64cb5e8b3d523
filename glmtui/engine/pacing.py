"""ThreadPacer: how many threads a decode step should use right now, found by timing the steps.

One step is a few hundred short parallel loops, each as slow as its slowest thread. With a core to
itself every thread helps; if another program wants a core, the thread that shares it holds up all
others at every loop, and one thread less is several times faster. Knows clocks, no tensors.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

PROBE_EVERY = 32  # steps between two looks at the choice that is not in use


class ThreadPacer:
    """Chooses between all threads and one less.

    Args:
        most: threads when nothing else runs.
        set_threads: tells the library how many to use; called only when the number changes.
    """

    def __init__(
        self,
        most: int,
        set_threads: Callable[[int], None],
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._most = most
        self._set_threads = set_threads
        self._clock = clock
        self._seconds = dict.fromkeys((most, max(most - 1, 1)), 0.0)  # 0: not tried yet
        self._in_use = most
        self._steps = 0

    @contextmanager
    def step(self) -> Iterator[None]:
        """Around one step: picks the number of threads, and learns from how long it took."""
        self._use(self._next())
        started = self._clock()
        yield
        took, known = self._clock() - started, self._seconds[self._in_use]
        self._seconds[self._in_use] = (known + took) / 2 if known else took

    def all_threads(self) -> None:
        """For work in large pieces, which more threads always help."""
        self._use(self._most)

    def _next(self) -> int:
        self._steps += 1
        best = min(self._seconds, key=self._seconds.__getitem__)
        if self._steps % PROBE_EVERY == 0:
            return next((n for n in self._seconds if n != best), best)
        return best

    def _use(self, threads: int) -> None:
        if threads != self._in_use:
            self._in_use = threads
            self._set_threads(threads)
