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
    Measured,
    Plan,
    Result,
    StartInfo,
    Subject,
    Timed,
    Work,
    contexts_within,
    turns_to_report,
    turns_within,
)
from glmtui.engine.bench.worker import Worker, copy_worker
from glmtui.errors import EngineError, UsageError
from glmtui.language import _

WARM_UP = 8  # tokens
SEED = 20  # of the prompts, so that two runs read the same

Report = Callable[[str], None]


class Measurable(Protocol):
    """A `process.Worker`, or what stands in for one."""

    def load(self) -> StartInfo: ...
    def generate(self, prompt: Sequence[int], tokens: int) -> Timed: ...
    def peak_memory(self) -> int | None: ...


def bench(plan: Plan, report: Report = lambda text: None) -> Result:
    """Runs a plan, each engine in a process of its own.

    Args:
        report: told in a few words what is being done.

    Raises:
        GlmtuiError: an engine could not be loaded or failed.
    """
    with ExitStack() as running:
        bench = Bench(plan, report)
        for subject in plan.subjects:
            bench.begin(subject, lambda subject: running.enter_context(Worker(subject)))
        copier = running.enter_context(copy_worker(plan.subjects[0], bench.result.ours.ready))
        copier.load()
        bench.measure(copier.copy_bandwidth)
        return bench.result


class Bench:
    """One bench at work. `begin` for each engine, ours first; then `measure`; then `result`."""

    def __init__(self, plan: Plan, report: Report) -> None:
        self.plan = plan
        self.result = Result(plan, [])
        self._report = report
        self._workers: list[tuple[Measurable, Measured]] = []
        self._random = random.Random(SEED)
        self._note_load_average()

    def begin(self, subject: Subject, start: Callable[[Subject], Measurable]) -> None:
        """Starts an engine, loads its model, and lets it reply once to a long prompt, untimed."""
        self._report(f"loading {subject.name} in {subject.engine}")
        started = time.perf_counter()
        worker = start(subject)
        ready = worker.load()
        measured = Measured(ready)
        self.result.engines.append(measured)
        if ready.vocabulary[1] < self.result.ours.ready.vocabulary[1]:
            raise UsageError(
                _(
                    "{engine} has a model with {theirs:,} tokens, not {ours:,}: it is another one."
                ).format(
                    engine=subject.engine,
                    theirs=ready.vocabulary[1],
                    ours=self.result.ours.ready.vocabulary[1],
                ),
                _("Give it the file that {model} was made of.").format(model=subject.name),
            )
        worker.generate(self._prompt(self._shortest), 1)
        measured.start_seconds = time.perf_counter() - started
        for context in self._contexts[:2]:
            self._report(f"warming up {subject.engine} at {context:,} tokens")
            worker.generate(self._prompt(context), min(self.plan.tokens, WARM_UP))
        measured.warm_seconds = time.perf_counter() - started - measured.start_seconds
        self._workers.append((worker, measured))

    def measure(self, copy_bandwidth: Callable[[], float]) -> None:
        """Every round: all works, and at each work all engines.

        Args:
            copy_bandwidth: measures what a copy achieves, bytes per second read and written.
        """
        started = time.perf_counter()
        for number in range(self.plan.rounds):
            if number and time.perf_counter() - started > self.plan.enough_seconds:
                break
            self._round = f"round {number + 1} of {self.plan.rounds}"
            self.result.copies.append(copy_bandwidth())
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
        self, worker: Measurable, measured: Measured, context: int, prompt: list[int]
    ) -> None:
        self._say(measured, f"a reply after {context:,} tokens")
        timed = worker.generate(prompt, self.plan.tokens)
        if len(timed.ids) != self.plan.tokens:
            raise EngineError(
                _("{engine} wrote {count} of {wanted} tokens.").format(
                    engine=measured.ready.engine, count=len(timed.ids), wanted=self.plan.tokens
                ),
                _("Its rate would not be comparable."),
            )
        if context > self._shortest:
            _add(measured, Work("prefill", context), context / timed.first_seconds)
        if timed.rest_seconds > 0:
            rate = (self.plan.tokens - 1) / timed.rest_seconds
            _add(measured, Work("decode", context), rate)

    def _measure_turns(self, worker: Measurable, measured: Measured) -> None:
        """A conversation; where it is reported also a prompt as long that is all new."""
        ready = self.result.ours.ready
        turns = range(1, turns_within(self._limit, len(ready.prompt_end)) + 1)
        said: list[int] = []
        for turn in turns:
            said += self._ids(QUESTION)
            prompt = [*said, *ready.prompt_end]
            if turn not in turns_to_report(turns) and not measured.ready.reuses:
                said += self._ids(REPLY)  # what it would have read, it will read again anyway
                continue
            self._say(measured, f"turn {turn} of a conversation")
            timed = worker.generate(prompt, REPLY)
            said += timed.ids
            if turn in turns_to_report(turns):
                self.result.prompt_tokens[turn] = len(prompt)
                _add(measured, Work("turn", turn), timed.first_seconds)
        if measured is self.result.ours:
            for turn in turns_to_report(turns):
                length = self.result.prompt_tokens[turn]
                self._say(measured, f"reading {length:,} tokens anew")
                timed = worker.generate(self._prompt(length), 1)
                _add(measured, Work("reread", turn), timed.first_seconds)

    def _say(self, measured: Measured, what: str) -> None:
        self._report(f"{self._round}: {what}, {measured.ready.engine}")

    @property
    def _limit(self) -> int:
        """Tokens that fit into the context of every engine."""
        return min(engine.ready.context_length for engine in self.result.engines)

    @property
    def _shortest(self) -> int:
        return max(len(self.result.ours.ready.prompt_end), 1)

    @property
    def _contexts(self) -> list[int]:
        return contexts_within(self._limit, self.plan.tokens, self._shortest)

    def _prompt(self, length: int) -> list[int]:
        """A prompt of that many tokens that nobody has read before, not even its beginning."""
        end = self.result.ours.ready.prompt_end
        return [*self._ids(length - len(end)), *end]

    def _ids(self, count: int) -> list[int]:
        start, stop = self.result.ours.ready.vocabulary
        return [self._random.randrange(start, stop) for _ in range(count)]

    def _note_load_average(self) -> None:
        if hasattr(os, "getloadavg"):
            self.result.load_average.append(os.getloadavg()[0])


def _add(measured: Measured, work: Work, value: float) -> None:
    measured.samples.setdefault(work, []).append(value)
