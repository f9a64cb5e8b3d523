"""How many threads a decode step should use right now, and how many tokens a prompt is read by.

Both are found by timing. One step is a few hundred short parallel loops, each as slow as its
slowest thread. With a core to itself every thread helps; if another program wants a core, the
thread that shares it holds up all others at every loop, and one thread less is several times
faster. Medians count, since what passes soon, as the drawing of what was said, slows a step now and
then. A prompt is read in chunks, and only between them is a cancel heard. Knows clocks, no tensors.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import median

LOOK = 4  # steps that tell how fast a number of threads is; the first, which wakes them, is slower
SOON, LATE = 8, 128  # steps with fewer threads than there could be, then a look at all
WORSE = 1.25  # times slower than they were: a look at one less
MEMORY = 5  # steps that count

CHUNK_SECONDS = 2.0  # that a cancel waits, about


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
        self._less = max(most - 1, 1)
        self._set_threads = set_threads
        self._clock = clock
        self._seconds = {n: deque[float](maxlen=MEMORY) for n in (self._less, most)}
        self._in_use = most
        self._steps = 0  # since the number changed
        self._expected = 0.0  # seconds of a step with all threads, when they were chosen
        self._patience = SOON  # steps until the next look at all, longer after each in vain

    @contextmanager
    def step(self) -> Iterator[None]:
        """Around one step: picks the number of threads, and learns from how long it took."""
        self._use(self._next())
        started = self._clock()
        yield
        self._steps += 1
        if self._steps > 1:
            self._seconds[self._in_use].append(self._clock() - started)
        if self._in_use == self._most:
            if self._steps == LOOK:
                self._expected = median(self._seconds[self._most])
            elif self._steps > LOOK:  # they were found to be faster
                self._patience = SOON

    def all_threads(self) -> None:
        """For work in large pieces, which more threads always help."""
        self._use(self._most)

    def _next(self) -> int:
        if self._steps < LOOK:
            return self._in_use
        other = self._less if self._in_use == self._most else self._most
        if not self._seconds[other]:
            return other
        now = median(self._seconds[self._in_use])
        if median(self._seconds[other]) < now:
            return other
        if self._in_use == self._most:
            return other if now > WORSE * self._expected else self._in_use
        if self._steps < self._patience:
            return self._in_use
        self._patience = min(2 * self._patience, LATE)
        return other

    def _use(self, threads: int) -> None:
        if threads != self._in_use:
            self._in_use = threads
            self._steps = 0
            self._seconds[threads].clear()
            self._set_threads(threads)


class ChunkPacer:
    """Chooses chunks of a prompt that take about as long as a cancel may wait.

    Args:
        fewest: tokens of the first chunk, and of all others where even they take longer.
        most: tokens that are enough for full speed.

    Attributes:
        tokens: of the next chunk.
    """

    def __init__(
        self, fewest: int, most: int, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self._fewest = self.tokens = fewest
        self._most = most
        self._clock = clock

    @contextmanager
    def reading(self, tokens: int) -> Iterator[None]:
        """Around a chunk of so many tokens: learns from how long it took."""
        started = self._clock()
        yield
        took = max(self._clock() - started, 1e-9)
        fits = int(tokens * CHUNK_SECONDS / took) // self._fewest * self._fewest
        self.tokens = min(max(fits, self._fewest), self._most)
