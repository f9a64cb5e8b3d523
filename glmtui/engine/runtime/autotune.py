"""Tuning by measured time: threads for a decode step, and the size of prefill chunks.

A decode step is a few hundred short parallel loops, each as slow as its slowest thread. When
another program takes a core, the thread on that core delays every loop, and one thread fewer is
several times faster. Decisions use medians, because any single step may be delayed.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import median

# Steps to run after the number of threads changes, before deciding again. The first is not
# counted, because it starts the threads.
TRIAL_STEPS = 4
# Steps with one thread fewer, before all threads are tried again: at first, and at most.
MIN_RETRY_STEPS, MAX_RETRY_STEPS = 8, 128
SLOWDOWN = 1.25  # try one thread fewer when a step is this many times slower than expected
WINDOW = 5  # steps whose median counts

CHUNK_SECONDS = 2.0  # target time of a prefill chunk: a cancel is only seen between chunks


class ThreadTuner:
    """Chooses between all threads and one fewer for decode steps.

    Args:
        max_threads: threads to use when nothing else runs.
        set_threads: sets the number of threads of the library; called when it changes.
    """

    def __init__(
        self,
        max_threads: int,
        set_threads: Callable[[int], None],
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._max = max_threads
        self._fewer = max(max_threads - 1, 1)
        self._set_threads = set_threads
        self._clock = clock
        self._seconds = {n: deque[float](maxlen=WINDOW) for n in (self._fewer, max_threads)}
        self._threads = max_threads
        self._steps = 0  # since the number changed
        self._expected = 0.0  # seconds per step with all threads, when they were chosen
        self._retry_steps = MIN_RETRY_STEPS  # doubles whenever all threads were tried in vain

    @contextmanager
    def time_step(self) -> Iterator[None]:
        """Sets the number of threads for one step, and measures the step."""
        self._use(self._choose())
        started = self._clock()
        yield
        self._steps += 1
        if self._steps > 1:
            self._seconds[self._threads].append(self._clock() - started)
        if self._threads == self._max:
            if self._steps == TRIAL_STEPS:
                self._expected = median(self._seconds[self._max])
            elif self._steps > TRIAL_STEPS:  # the trial found them to be faster
                self._retry_steps = MIN_RETRY_STEPS

    def use_all_threads(self) -> None:
        """For large batches of tokens, where more threads are always faster."""
        self._use(self._max)

    def _choose(self) -> int:
        if self._steps < TRIAL_STEPS:
            return self._threads
        other = self._fewer if self._threads == self._max else self._max
        if not self._seconds[other]:
            return other
        current_seconds = median(self._seconds[self._threads])
        if median(self._seconds[other]) < current_seconds:
            return other
        if self._threads == self._max:
            return other if current_seconds > SLOWDOWN * self._expected else self._threads
        if self._steps < self._retry_steps:
            return self._threads
        self._retry_steps = min(2 * self._retry_steps, MAX_RETRY_STEPS)
        return other

    def _use(self, threads: int) -> None:
        if threads != self._threads:
            self._threads = threads
            self._steps = 0
            self._seconds[threads].clear()
            self._set_threads(threads)


class ChunkTuner:
    """Chooses the size of prefill chunks so that each takes about CHUNK_SECONDS.

    Args:
        least: tokens of the first chunk, and of later ones if even these are slower.
        most: tokens that reach full speed.

    Attributes:
        tokens: size of the next chunk; a multiple of `least`.
    """

    def __init__(
        self, least: int, most: int, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self._least = self.tokens = least
        self._most = most
        self._clock = clock

    @contextmanager
    def time(self, tokens: int) -> Iterator[None]:
        """Measures a chunk of this many tokens."""
        started = self._clock()
        yield
        seconds = max(self._clock() - started, 1e-9)
        target = int(tokens * CHUNK_SECONDS / seconds) // self._least * self._least
        self.tokens = min(max(target, self._least), self._most)
