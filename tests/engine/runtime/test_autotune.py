"""Tuning of threads and chunks: fewer threads while a core is busy, and chunks of limited time."""

from __future__ import annotations

from itertools import groupby

from glmtui.engine.runtime.autotune import (
    CHUNK_SECONDS,
    MAX_RETRY_STEPS,
    MIN_RETRY_STEPS,
    TRIAL_STEPS,
    ChunkTuner,
    ThreadTuner,
)


class Machine:
    """A simulated machine, on which a step takes a given time for each number of threads.

    Attributes:
        waking: extra seconds of the first step after the number changes.
    """

    def __init__(self, seconds: dict[int, float]) -> None:
        self.seconds = seconds
        self.now = 0.0
        self.waking = 0.05
        self.threads = max(seconds)
        self.changes = 0
        self.tuner = ThreadTuner(self.threads, self.set, clock=lambda: self.now)

    def set(self, threads: int) -> None:
        self.threads = threads
        self.changes += 1
        self.now += self.waking

    def run(self, steps: int) -> list[int]:
        used = []
        for _ in range(steps):
            with self.tuner.time_step():
                used.append(self.threads)
                self.now += self.seconds[self.threads]
        return used


def test_both_numbers_are_tried_once_and_the_faster_is_kept() -> None:
    machine = Machine({4: 0.010, 3: 0.012})
    used = machine.run(500)
    assert used == [4] * TRIAL_STEPS + [3] * TRIAL_STEPS + [4] * (len(used) - 2 * TRIAL_STEPS)


def test_fewer_threads_are_kept_while_faster_with_rarer_and_rarer_trials() -> None:
    used = Machine({4: 0.012, 3: 0.010}).run(2000)
    stints = [len(list(same)) for threads, same in groupby(used) if threads == 3][:-1]
    assert stints == sorted(stints)
    assert (stints[0], stints[-1]) == (MIN_RETRY_STEPS, MAX_RETRY_STEPS)
    assert used.count(4) == TRIAL_STEPS * (len(stints) + 1)


def test_a_busy_core_is_noticed_at_once_and_its_return_soon() -> None:
    machine = Machine({4: 0.010, 3: 0.012})
    machine.run(100)
    machine.seconds[4] = 0.100
    assert machine.run(10).count(4) <= 3
    machine.run(1000)
    machine.seconds[4] = 0.010
    machine.run(MAX_RETRY_STEPS + 2 * TRIAL_STEPS)
    assert set(machine.run(100)) == {4}


def test_a_core_that_was_busy_for_a_moment_is_soon_used_again() -> None:
    machine = Machine({2: 0.013, 1: 0.021})
    machine.run(100)
    machine.seconds[2] = 0.100
    machine.run(3)
    machine.seconds[2] = 0.013
    assert machine.run(100).count(1) <= MIN_RETRY_STEPS + TRIAL_STEPS


def test_occasional_slow_steps_change_nothing() -> None:
    machine = Machine({2: 0.013, 1: 0.021})
    machine.run(100)
    for _ in range(100):  # a frame is drawn
        machine.seconds[2] = 0.035
        machine.run(1)
        machine.seconds[2] = 0.013
        assert machine.run(4) == [2] * 4


def test_threads_are_compared_again_when_all_steps_become_slower() -> None:
    machine = Machine({2: 0.013, 1: 0.021})
    machine.run(100)
    changes = machine.changes
    machine.seconds = {2: 0.020, 1: 0.030}  # the context has grown
    assert machine.run(100).count(1) == TRIAL_STEPS
    assert machine.changes == changes + 2


def test_one_thread_stays_one() -> None:
    machine = Machine({1: 0.01})
    assert set(machine.run(200)) == {1}
    assert machine.changes == 0


def test_large_batches_use_all_threads() -> None:
    machine = Machine({2: 0.1, 1: 0.01})
    machine.run(2 * TRIAL_STEPS)
    assert machine.threads == 1
    machine.tuner.use_all_threads()
    assert machine.threads == 2


def chunks_of(tokens: int, rate: float) -> list[int]:
    """Chunks in which a model that reads `rate` tokens per second reads a prompt."""
    now = 0.0
    tuner = ChunkTuner(64, 512, clock=lambda: now)
    chunks = []
    while tokens:
        chunks.append(min(tokens, tuner.tokens))
        with tuner.time(chunks[-1]):
            now += chunks[-1] / rate
        tokens -= chunks[-1]
    return chunks


def test_chunks_take_at_most_the_target_time() -> None:
    assert chunks_of(1200, rate=1000) == [64, 512, 512, 112]
    assert chunks_of(1000, rate=150) == [64, 256, 256, 256, 168]
    assert all(chunk / 150 <= CHUNK_SECONDS for chunk in chunks_of(1000, rate=150))
    assert chunks_of(200, rate=6) == [64, 64, 64, 8]  # smaller chunks would be slower
