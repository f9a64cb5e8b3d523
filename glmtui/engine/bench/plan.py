"""What is measured, of whom, and what came out: plain data, shared by all processes of a bench.

Knows no torch, no clock and no process.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol, TypeAlias

from glmtui.engine.model_info import LoadOptions, ModelInfo

EngineName: TypeAlias = Literal["glmtui", "transformers", "llama-cpp"]
PEERS: tuple[EngineName, ...] = ("transformers", "llama-cpp")
KINDS = ("prefill", "decode", "turn", "reread")
CONTEXTS = (0, 512, 2048)  # tokens; those that do not fit become what fits
TURNS = 20
SHOWN_TURNS = (1, 5, 10, 20)
QUESTION = 41  # tokens; with the reply 85 a turn, so that turn 20 stands at 1,660
REPLY = 44


@dataclass(frozen=True, slots=True)
class BenchTarget:
    """An engine that is to be measured.

    Attributes:
        model: the folder; None for random weights.
        synthetic: a key of `synthetic.SHAPES`; empty for a folder.
        threads: of the CPU, in matrix products.
        gguf: the file that llama.cpp is to read.
        context_length: tokens of context it has to hold.
    """

    engine: EngineName
    model: ModelInfo | None
    synthetic: str
    options: LoadOptions
    threads: int
    gguf: Path | None = None
    context_length: int = 0

    @property
    def name(self) -> str:
        """What the model is called."""
        return self.model.name if self.model else f"{self.synthetic} (random weights)"


@dataclass(frozen=True, slots=True)
class EngineStart:
    """An engine that has its model in memory.

    Attributes:
        version: of the libraries that compute.
        reuses: whether it keeps what it has read from one call to the next.
        load_seconds: from files (or random numbers) to a model that can answer, imports left out.
        context_length: tokens.
        weight_bytes: memory of the weights; None where unknown.
        step_bytes: of them, what every generated token has to read.
        kv_bytes_per_token: of the KV cache.
        vocabulary: ids that a prompt may be made of, from the first to before the last.
        prompt_end: ids that every prompt has to end with.
    """

    engine: EngineName
    device: str
    dtype: str
    quant: str
    version: str
    reuses: bool
    load_seconds: float
    context_length: int
    weight_bytes: int | None = None
    step_bytes: int | None = None
    kv_bytes_per_token: int | None = None
    vocabulary: tuple[int, int] = (0, 0)
    prompt_end: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class TimedReply:
    """One reply, timed where its tokens come out.

    Attributes:
        first_seconds: from the call to the first token.
        rest_seconds: from there to the last.
    """

    first_seconds: float
    rest_seconds: float
    ids: tuple[int, ...]


class BenchEngine(Protocol):
    """An engine with its model in memory, as the process that holds it sees it."""

    @property
    def start(self) -> EngineStart: ...

    def generate(self, prompt: Sequence[int], tokens: int) -> TimedReply:
        """A greedy reply of exactly that many tokens; none of them ends it."""
        ...

    def peak_memory(self) -> int | None:
        """Most bytes in use so far: on GPUs what torch had there, else resident."""
        ...


@dataclass(frozen=True, slots=True)
class Measurement:
    """One thing to measure.

    Attributes:
        kind: "prefill" and "decode" are rates in tokens per second; "turn" and "reread" are
            seconds to the first token, in a conversation that goes on and of a prompt as long of
            which nothing was read before.
        at: tokens of context, or the turn counted from 1.
    """

    kind: Literal["prefill", "decode", "turn", "reread"]
    at: int

    @property
    def is_rate(self) -> bool:
        return self.kind in ("prefill", "decode")


@dataclass(frozen=True, slots=True)
class BenchPlan:
    """What a bench does.

    Attributes:
        targets: our engine first.
        rounds: how often everything is measured, unless that takes long.
        tokens: of each reply.
        max_seconds: after so many no further round begins.
    """

    targets: tuple[BenchTarget, ...]
    rounds: int = 3
    tokens: int = 64
    max_seconds: float = 90


@dataclass(slots=True)
class EngineResult:
    """One engine's results.

    Attributes:
        start_seconds: from the start of its process, imports included, to its first reply.
        samples: of each work, one number a round.
        warm_up_seconds: of what was done before anything was timed.
        peak_memory: bytes, up to the end; None where unknown.
    """

    start: EngineStart
    start_seconds: float = 0.0
    warm_up_seconds: float = 0.0
    samples: dict[Measurement, list[float]] = field(default_factory=dict)
    peak_memory: int | None = None

    def median(self, work: Measurement) -> float | None:
        """None where it was not measured."""
        found = self.samples.get(work)
        return statistics.median(found) if found else None


@dataclass(slots=True)
class BenchResult:
    """What came out of a bench.

    Attributes:
        engines: ours first.
        copies: bandwidth of a copy, bytes per second read and written, one a round.
        prompt_tokens: length of the prompt at each turn that was measured.
        load_average: of the machine, at the start and at the end; empty where it is not told.
    """

    plan: BenchPlan
    engines: list[EngineResult]
    copy_bandwidths: list[float] = field(default_factory=list)
    prompt_tokens: dict[int, int] = field(default_factory=dict)
    load_average: list[float] = field(default_factory=list)

    @property
    def rounds(self) -> int:
        """How many there were."""
        return len(self.copy_bandwidths)

    @property
    def ours(self) -> EngineResult:
        return self.engines[0]

    @property
    def measurements(self) -> list[Measurement]:
        """Everything measured, kind by kind."""
        found = dict.fromkeys(work for engine in self.engines for work in engine.samples)
        return sorted(found, key=lambda work: (KINDS.index(work.kind), work.at))

    @property
    def copy_bandwidth(self) -> float | None:
        """Median bandwidth of a copy, bytes per second read and written."""
        return statistics.median(self.copy_bandwidths) if self.copy_bandwidths else None

    def bandwidth(self, work: Measurement) -> float | None:
        """Bytes per second that our decoding has to read: weights once a token, and the KV cache.

        None for other works, and where the sizes are not known.
        """
        ready, rate = self.ours.start, self.ours.median(work)
        if work.kind != "decode" or rate is None or ready.step_bytes is None:
            return None
        cached = work.at + self.plan.tokens / 2  # in the middle of the reply
        return rate * (ready.step_bytes + cached * (ready.kv_bytes_per_token or 0))

    def share_of_copy(self, work: Measurement) -> float | None:
        """`bandwidth` as a fraction of a copy's; None where it is not known."""
        achieved, copy = self.bandwidth(work), self.copy_bandwidth
        return achieved / copy if achieved is not None and copy else None

    def ratio(self, peer: EngineResult, work: Measurement) -> float | None:
        """How many times as fast as `peer` we are; None where either was not measured."""
        ours, theirs = self.ours.samples.get(work), peer.samples.get(work)
        if not ours or not theirs:
            return None
        return paired_ratio(ours, theirs) if work.is_rate else paired_ratio(theirs, ours)


def paired_ratio(above: Sequence[float], below: Sequence[float]) -> float | None:
    """Median over the rounds of above / below, each taken within one round.

    What slows a whole round down on a shared machine falls out of it.
    """
    pairs = [a / b for a, b in zip(above, below, strict=True) if b > 0]
    return statistics.median(pairs) if pairs else None


def needed_context(tokens: int) -> int:
    """How much context a bench with replies of that many tokens takes."""
    return max(max(CONTEXTS) + tokens, TURNS * (QUESTION + REPLY) + 8)


def fitting_contexts(limit: int, tokens: int, shortest: int) -> list[int]:
    """`CONTEXTS` as far as they fit, as lengths of prompts, each once.

    Args:
        limit: the context length.
        tokens: of the reply that follows.
        shortest: length of the shortest prompt there is.
    """
    longest = max(limit - tokens, shortest)
    return sorted({min(max(context, shortest), longest) for context in CONTEXTS})


def fitting_turns(limit: int, end: int) -> int:
    """How many turns of a conversation fit; `end` is how many ids close each prompt."""
    return min(TURNS, (limit - end) // (QUESTION + REPLY))


def reported_turns(turns: Iterable[int]) -> list[int]:
    """Those of the turns that are reported: `SHOWN_TURNS`, and the last."""
    every = list(turns)
    return [turn for turn in every if turn in SHOWN_TURNS or turn == every[-1]]
