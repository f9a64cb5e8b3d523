"""BenchResult: the samples of a benchmark, their medians and ratios."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field

from glmtui.engine.bench.bench_engine import EngineStart
from glmtui.engine.bench.plan import KINDS, BenchPlan, Measurement


@dataclass(slots=True)
class EngineResult:
    """The results of one engine.

    Attributes:
        start_seconds: from the start of its process, with imports, to its first reply.
        warm_up_seconds: of the replies that were not measured.
        samples: one number per round for each measurement.
        peak_memory: in bytes, at the end of the benchmark; None if unknown.
    """

    start: EngineStart
    start_seconds: float = 0.0
    warm_up_seconds: float = 0.0
    samples: dict[Measurement, list[float]] = field(default_factory=dict)
    peak_memory: int | None = None

    def add(self, measurement: Measurement, value: float) -> None:
        self.samples.setdefault(measurement, []).append(value)

    def median(self, measurement: Measurement) -> float | None:
        """None if it was not measured."""
        samples = self.samples.get(measurement)
        return statistics.median(samples) if samples else None


@dataclass(slots=True)
class BenchResult:
    """The results of a benchmark.

    Attributes:
        engines: ours first.
        copy_bandwidths: of a memory copy, one sample per round; bytes per second, read and
            written.
        prompt_tokens: length of the prompt at each measured turn.
        load_average: of the machine, at the start and at the end; empty if it is unknown.
    """

    plan: BenchPlan
    engines: list[EngineResult]
    copy_bandwidths: list[float] = field(default_factory=list)
    prompt_tokens: dict[int, int] = field(default_factory=dict)
    load_average: list[float] = field(default_factory=list)

    @property
    def rounds(self) -> int:
        """The number of rounds that were measured."""
        return len(self.copy_bandwidths)

    @property
    def ours(self) -> EngineResult:
        return self.engines[0]

    @property
    def measurements(self) -> list[Measurement]:
        """Everything that was measured, sorted by kind."""
        found = dict.fromkeys(each for engine in self.engines for each in engine.samples)
        return sorted(found, key=lambda each: (KINDS.index(each.kind), each.at))

    @property
    def copy_bandwidth(self) -> float | None:
        """The median of `copy_bandwidths`."""
        return statistics.median(self.copy_bandwidths) if self.copy_bandwidths else None

    def bandwidth(self, measurement: Measurement) -> float | None:
        """Bytes per second that our engine reads while decoding: weights and KV cache.

        None for other measurements, and if the sizes are unknown.
        """
        start, rate = self.ours.start, self.ours.median(measurement)
        if measurement.kind != "decode" or rate is None or start.step_bytes is None:
            return None
        cached_tokens = measurement.at + self.plan.tokens / 2  # on average during the reply
        return rate * (start.step_bytes + cached_tokens * (start.kv_bytes_per_token or 0))

    def share_of_copy(self, measurement: Measurement) -> float | None:
        """`bandwidth` as a fraction of `copy_bandwidth`; None if either is unknown."""
        achieved, copy = self.bandwidth(measurement), self.copy_bandwidth
        return achieved / copy if achieved is not None and copy else None

    def ratio(self, peer: EngineResult, measurement: Measurement) -> float | None:
        """How many times faster our engine is than `peer`; None if either was not measured."""
        ours, theirs = self.ours.samples.get(measurement), peer.samples.get(measurement)
        if not ours or not theirs:
            return None
        return paired_ratio(ours, theirs) if measurement.is_rate else paired_ratio(theirs, ours)


def paired_ratio(numerators: Sequence[float], denominators: Sequence[float]) -> float | None:
    """The median of the ratios of each round.

    A round in which a shared machine is slower slows down both numbers, so its ratio stays valid.
    """
    pairs = zip(numerators, denominators, strict=True)
    ratios = [numerator / denominator for numerator, denominator in pairs if denominator > 0]
    return statistics.median(ratios) if ratios else None
