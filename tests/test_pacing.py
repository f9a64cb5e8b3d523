"""ThreadPacer: all threads on a quiet machine, one less when a core is taken, and back again."""

from __future__ import annotations

from glmtui.engine.pacing import PROBE_EVERY, ThreadPacer


class Machine:
    """Steps that take a set time for each number of threads, on a clock of its own."""

    def __init__(self, seconds: dict[int, float]) -> None:
        self.seconds = seconds
        self.now = 0.0
        self.threads = max(seconds)
        self.changes = 0
        self.pacer = ThreadPacer(self.threads, self.set, clock=lambda: self.now)

    def set(self, threads: int) -> None:
        self.threads = threads
        self.changes += 1

    def run(self, steps: int) -> list[int]:
        used = []
        for _ in range(steps):
            with self.pacer.step():
                used.append(self.threads)
                self.now += self.seconds[self.threads]
        return used


def test_the_faster_number_is_kept_and_the_other_looked_at_now_and_then() -> None:
    used = Machine({4: 0.010, 3: 0.012}).run(10 * PROBE_EVERY)
    assert used.count(3) == 11  # once to know it, then at every probe
    assert used[-2:] == [4, 3]


def test_a_taken_core_is_noticed_at_once_and_its_return_soon() -> None:
    machine = Machine({4: 0.010, 3: 0.012})
    machine.run(PROBE_EVERY)
    machine.seconds[4] = 0.100
    assert machine.run(5).count(4) <= 1
    machine.run(10 * PROBE_EVERY)
    machine.seconds[4] = 0.010
    machine.run(6 * PROBE_EVERY)
    assert machine.run(10).count(4) >= 9


def test_one_thread_stays_one() -> None:
    machine = Machine({1: 0.01})
    assert set(machine.run(3 * PROBE_EVERY)) == {1}
    assert machine.changes == 0


def test_work_in_large_pieces_gets_all() -> None:
    machine = Machine({2: 0.1, 1: 0.01})
    machine.run(5)
    assert machine.threads == 1
    machine.pacer.all_threads()
    assert machine.threads == 2
