"""The measuring itself: engines take turns at each work, round after round.

Knows what is asked of whom in which order. Medians and ratios are `plan`'s, processes `process`'s.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Protocol

from glmtui.engine.bench.plan import (
    QUESTION,
    REPLY,
    BenchPlan,
    BenchResult,
    BenchTarget,
    EngineResult,
    EngineStart,
    Measurement,
    TimedReply,
    fitting_contexts,
    fitting_turns,
    reported_turns,
)
from glmtui.engine.bench.worker import EngineProcess, copy_process
from glmtui.errors import EngineError, UsageError
from glmtui.language import _

WARM_UP = 8  # tokens
SEED = 20  # of the prompts, so that two runs read the same

Report = Callable[[str], None]


class BenchWorker(Protocol):
    """A `process.Worker`, or what stands in for one."""

    def load(self) -> EngineStart: ...
    def generate(self, prompt: Sequence[int], tokens: int) -> TimedReply: ...
    def peak_memory(self) -> int | None: ...


def run_bench(plan: BenchPlan, report: Report = lambda text: None) -> BenchResult:
    """Runs a plan, each engine in a process of its own.

    Args:
        report: told in a few words what is being done.

    Raises:
        GlmtuiError: an engine could not be loaded or failed.
    """
    with ExitStack() as running:
        bench = BenchRun(plan, report)
        for target in plan.targets:
            bench.begin(target, lambda target: running.enter_context(EngineProcess(target)))
        copier = running.enter_context(copy_process(plan.targets[0], bench.result.ours.start))
        copier.load()
        bench.measure(copier.copy_bandwidth)
        return bench.result


class BenchRun:
    """One bench at work. `begin` for each engine, ours first; then `measure`; then `result`."""

    def __init__(self, plan: BenchPlan, report: Report) -> None:
        self.plan = plan
        self.result = BenchResult(plan, [])
        self._report = report
        self._workers: list[tuple[BenchWorker, EngineResult]] = []
        self._random = random.Random(SEED)
        self._note_load_average()

    def begin(self, target: BenchTarget, launch: Callable[[BenchTarget], BenchWorker]) -> None:
        """Starts an engine, loads its model, and lets it reply once to a long prompt, untimed."""
        self._report(f"loading {target.name} in {target.engine}")
        started = time.perf_counter()
        worker = launch(target)
        ready = worker.load()
        measured = EngineResult(ready)
        self.result.engines.append(measured)
        if ready.vocabulary[1] < self.result.ours.start.vocabulary[1]:
            raise UsageError(
                _(
                    "{engine} has a model with {theirs:,} tokens, not {ours:,}: it is another one."
                ).format(
                    engine=target.engine,
                    theirs=ready.vocabulary[1],
                    ours=self.result.ours.start.vocabulary[1],
                ),
                _("Give it the file that {model} was made of.").format(model=target.name),
            )
        worker.generate(self._prompt(self._shortest), 1)
        measured.start_seconds = time.perf_counter() - started
        for context in self._contexts[:2]:
            self._report(f"warming up {target.engine} at {context:,} tokens")
            worker.generate(self._prompt(context), min(self.plan.tokens, WARM_UP))
        measured.warm_up_seconds = time.perf_counter() - started - measured.start_seconds
        self._workers.append((worker, measured))

    def measure(self, copy_bandwidth: Callable[[], float]) -> None:
        """Every round: all works, and at each work all engines.

        Args:
            copy_bandwidth: measures what a copy achieves, bytes per second read and written.
        """
        started = time.perf_counter()
        for number in range(self.plan.rounds):
            if number and time.perf_counter() - started > self.plan.max_seconds:
                break
            self._round = f"round {number + 1} of {self.plan.rounds}"
            self.result.copy_bandwidths.append(copy_bandwidth())
            # who goes first changes, so that a machine that slows down favours nobody
            order = self._workers if number % 2 == 0 else self._workers[::-1]
            for context in self._contexts:
                prompt = self._prompt(context)
                for worker, measured in order:
                    self._measure_reply(worker, measured, context, prompt)
            for worker, measured in order:
                self._measure_turns(worker, measured)
        for worker, measured in self._workers:
            measured.peak_memory = worker.peak_memory()
        self._note_load_average()

    def _measure_reply(
        self, worker: BenchWorker, measured: EngineResult, context: int, prompt: list[int]
    ) -> None:
        self._say(measured, f"a reply after {context:,} tokens")
        timed = worker.generate(prompt, self.plan.tokens)
        if len(timed.ids) != self.plan.tokens:
            raise EngineError(
                _("{engine} wrote {count} of {wanted} tokens.").format(
                    engine=measured.start.engine, count=len(timed.ids), wanted=self.plan.tokens
                ),
                _("Its rate would not be comparable."),
            )
        if context > self._shortest:
            _add(measured, Measurement("prefill", context), context / timed.first_seconds)
        if timed.rest_seconds > 0:
            rate = (self.plan.tokens - 1) / timed.rest_seconds
            _add(measured, Measurement("decode", context), rate)

    def _measure_turns(self, worker: BenchWorker, measured: EngineResult) -> None:
        """A conversation; where it is reported also a prompt as long that is all new."""
        ready = self.result.ours.start
        turns = range(1, fitting_turns(self._limit, len(ready.prompt_end)) + 1)
        said: list[int] = []
        for turn in turns:
            said += self._ids(QUESTION)
            prompt = [*said, *ready.prompt_end]
            if turn not in reported_turns(turns) and not measured.start.reuses:
                said += self._ids(REPLY)  # what it would have read, it will read again anyway
                continue
            self._say(measured, f"turn {turn} of a conversation")
            timed = worker.generate(prompt, REPLY)
            said += timed.ids
            if turn in reported_turns(turns):
                self.result.prompt_tokens[turn] = len(prompt)
                _add(measured, Measurement("turn", turn), timed.first_seconds)
        if measured is self.result.ours:
            for turn in reported_turns(turns):
                length = self.result.prompt_tokens[turn]
                self._say(measured, f"reading {length:,} tokens anew")
                timed = worker.generate(self._prompt(length), 1)
                _add(measured, Measurement("reread", turn), timed.first_seconds)

    def _say(self, measured: EngineResult, what: str) -> None:
        self._report(f"{self._round}: {what}, {measured.start.engine}")

    @property
    def _limit(self) -> int:
        """Tokens that fit into the context of every engine."""
        return min(engine.start.context_length for engine in self.result.engines)

    @property
    def _shortest(self) -> int:
        return max(len(self.result.ours.start.prompt_end), 1)

    @property
    def _contexts(self) -> list[int]:
        return fitting_contexts(self._limit, self.plan.tokens, self._shortest)

    def _prompt(self, length: int) -> list[int]:
        """A prompt of that many tokens that nobody has read before, not even its beginning."""
        end = self.result.ours.start.prompt_end
        return [*self._ids(length - len(end)), *end]

    def _ids(self, count: int) -> list[int]:
        start, stop = self.result.ours.start.vocabulary
        return [self._random.randrange(start, stop) for _ in range(count)]

    def _note_load_average(self) -> None:
        if hasattr(os, "getloadavg"):
            self.result.load_average.append(os.getloadavg()[0])


def _add(measured: EngineResult, work: Measurement, value: float) -> None:
    measured.samples.setdefault(work, []).append(value)
