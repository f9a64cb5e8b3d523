"""run_bench: loads the engines and measures them in turn, round after round."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Protocol

from glmtui.engine.bench.bench_engine import BenchTarget, EngineStart, TimedReply
from glmtui.engine.bench.engine_process import EngineProcess, copy_process
from glmtui.engine.bench.plan import (
    QUESTION_TOKENS,
    REPLY_TOKENS,
    BenchPlan,
    Measurement,
    fitting_contexts,
    fitting_turns,
    reported_turns,
)
from glmtui.engine.bench.results import BenchResult, EngineResult
from glmtui.errors import EngineError, UsageError
from glmtui.language import _

WARM_UP_TOKENS = 8  # of the replies that are not measured
SEED = 20  # of the random prompts, so that every benchmark has the same ones

Report = Callable[[str], None]


class BenchWorker(Protocol):
    """An `EngineProcess`, or a fake in tests."""

    def load(self) -> EngineStart: ...
    def generate(self, prompt: Sequence[int], tokens: int) -> TimedReply: ...
    def peak_memory(self) -> int | None: ...


def run_bench(plan: BenchPlan, report: Report = lambda text: None) -> BenchResult:
    """Measures each engine in a process of its own.

    Args:
        report: called with a short text about what is being done.

    Raises:
        GlmtuiError: an engine could not load its model, or failed.
    """
    with ExitStack() as processes:
        run = BenchRun(plan, report)
        for target in plan.targets:
            run.add_engine(target, lambda target: processes.enter_context(EngineProcess(target)))
        copier = processes.enter_context(copy_process(plan.targets[0], run.result.ours.start))
        copier.load()
        run.measure(copier.copy_bandwidth)
        return run.result


class BenchRun:
    """A benchmark in progress: `add_engine` for each engine, ours first, then `measure`."""

    def __init__(self, plan: BenchPlan, report: Report) -> None:
        self.plan = plan
        self.result = BenchResult(plan, [])
        self._report = report
        self._workers: list[tuple[BenchWorker, EngineResult]] = []
        self._random = random.Random(SEED)
        self._record_load_average()

    def add_engine(
        self, target: BenchTarget, start_worker: Callable[[BenchTarget], BenchWorker]
    ) -> None:
        """Starts an engine, loads its model, and lets it reply to a few prompts as a warm-up."""
        self._report(f"loading {target.name} in {target.engine}")
        started = time.perf_counter()
        worker = start_worker(target)
        result = EngineResult(worker.load())
        self.result.engines.append(result)
        ours = self.result.ours.start
        if result.start.vocabulary[1] < ours.vocabulary[1]:
            raise UsageError(
                _(
                    "The model in {engine} has {theirs:,} tokens instead of {ours:,}, so it is a "
                    "different model."
                ).format(
                    engine=target.engine,
                    theirs=result.start.vocabulary[1],
                    ours=ours.vocabulary[1],
                ),
                _("Use the file that {model} was made from.").format(model=target.name),
            )
        worker.generate(self._make_prompt(self._shortest), 1)
        result.start_seconds = time.perf_counter() - started
        for context in self._contexts[:2]:
            self._report(f"warming up {target.engine} at {context:,} tokens")
            tokens = min(self.plan.tokens, WARM_UP_TOKENS)
            worker.generate(self._make_prompt(context), tokens)
        result.warm_up_seconds = time.perf_counter() - started - result.start_seconds
        self._workers.append((worker, result))

    def measure(self, copy_bandwidth: Callable[[], float]) -> None:
        """Measures everything on all engines, in each round.

        Args:
            copy_bandwidth: measures a memory copy; bytes per second, read and written.
        """
        started = time.perf_counter()
        for number in range(self.plan.rounds):
            if number and time.perf_counter() - started > self.plan.max_seconds:
                break
            self._round = f"round {number + 1} of {self.plan.rounds}"
            self.result.copy_bandwidths.append(copy_bandwidth())
            # the order alternates, so that a machine that slows down favours no engine
            order = self._workers if number % 2 == 0 else self._workers[::-1]
            for context in self._contexts:
                prompt = self._make_prompt(context)
                for worker, result in order:
                    self._measure_reply(worker, result, context, prompt)
            for worker, result in order:
                self._measure_turns(worker, result)
        for worker, result in self._workers:
            result.peak_memory = worker.peak_memory()
        self._record_load_average()

    def _measure_reply(
        self, worker: BenchWorker, result: EngineResult, context: int, prompt: list[int]
    ) -> None:
        self._report_step(result, f"a reply after {context:,} tokens")
        reply = worker.generate(prompt, self.plan.tokens)
        if len(reply.ids) != self.plan.tokens:
            raise EngineError(
                _("{engine} generated {count} of {wanted} tokens.").format(
                    engine=result.start.engine, count=len(reply.ids), wanted=self.plan.tokens
                ),
                _("Its rate would not be comparable."),
            )
        if context > self._shortest:
            result.add(Measurement("prefill", context), context / reply.first_seconds)
        if reply.rest_seconds > 0:
            rate = (self.plan.tokens - 1) / reply.rest_seconds
            result.add(Measurement("decode", context), rate)

    def _measure_turns(self, worker: BenchWorker, result: EngineResult) -> None:
        """Measures a conversation, and on our engine new prompts of the same lengths."""
        end = self.result.ours.start.prompt_end
        turns = range(1, fitting_turns(self._limit, len(end)) + 1)
        reported = reported_turns(turns)
        conversation: list[int] = []
        for turn in turns:
            conversation += self._random_ids(QUESTION_TOKENS)
            prompt = [*conversation, *end]
            if turn not in reported and not result.start.reuses:
                # skip it: the engine reads the whole conversation again in the next turn anyway
                conversation += self._random_ids(REPLY_TOKENS)
                continue
            self._report_step(result, f"turn {turn} of a conversation")
            reply = worker.generate(prompt, REPLY_TOKENS)
            conversation += reply.ids
            if turn in reported:
                self.result.prompt_tokens[turn] = len(prompt)
                result.add(Measurement("turn", turn), reply.first_seconds)
        if result is self.result.ours:
            for turn in reported:
                length = self.result.prompt_tokens[turn]
                self._report_step(result, f"a new prompt of {length:,} tokens")
                reply = worker.generate(self._make_prompt(length), 1)
                result.add(Measurement("reread", turn), reply.first_seconds)

    def _report_step(self, result: EngineResult, step: str) -> None:
        self._report(f"{self._round}: {step}, {result.start.engine}")

    @property
    def _limit(self) -> int:
        """The context length, in tokens, that all engines have."""
        return min(engine.start.context_length for engine in self.result.engines)

    @property
    def _shortest(self) -> int:
        """Length of the shortest possible prompt."""
        return max(len(self.result.ours.start.prompt_end), 1)

    @property
    def _contexts(self) -> list[int]:
        return fitting_contexts(self._limit, self.plan.tokens, self._shortest)

    def _make_prompt(self, length: int) -> list[int]:
        """A random prompt, of which no engine can have a prefix in its cache."""
        end = self.result.ours.start.prompt_end
        return [*self._random_ids(length - len(end)), *end]

    def _random_ids(self, count: int) -> list[int]:
        start, stop = self.result.ours.start.vocabulary
        return [self._random.randrange(start, stop) for _ in range(count)]

    def _record_load_average(self) -> None:
        if hasattr(os, "getloadavg"):
            self.result.load_average.append(os.getloadavg()[0])
