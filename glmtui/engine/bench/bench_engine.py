"""BenchEngine: what a benchmark needs of an engine. Imports no torch: not every engine uses it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, TypeAlias

from glmtui.engine.model_info import LoadOptions, ModelInfo

EngineName: TypeAlias = Literal["glmtui", "transformers", "llama-cpp"]
PEERS: tuple[EngineName, ...] = ("transformers", "llama-cpp")


@dataclass(frozen=True, slots=True)
class BenchTarget:
    """An engine to measure, and the model to load in it.

    Attributes:
        model: the model's folder; None for random weights.
        synthetic: with random weights a key of `shapes.SHAPES`, otherwise empty.
        threads: CPU threads for matrix products.
        gguf: the file that llama.cpp reads.
        context_length: tokens of context that the engine has to provide.
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
        """The name of the model, for display."""
        return self.model.name if self.model else f"{self.synthetic} (random weights)"


@dataclass(frozen=True, slots=True)
class EngineStart:
    """What an engine reports when its model is loaded. The JSON report has all these fields.

    Attributes:
        version: of the libraries that do the computation.
        reuses: whether the engine keeps the KV cache of a prompt for the next one.
        load_seconds: from the files (or random numbers) to a usable model, without imports.
        context_length: in tokens.
        weight_bytes: memory of the weights; None if unknown.
        step_bytes: the part of the weights that is read for every generated token.
        kv_bytes_per_token: of the KV cache.
        vocabulary: range of the ids that a prompt may contain: the first, and the last plus one.
        prompt_end: ids that every prompt must end with.
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
    """One reply with its times, measured in the engine's process.

    Attributes:
        first_seconds: from the call to the first token.
        rest_seconds: from the first to the last token.
    """

    first_seconds: float
    rest_seconds: float
    ids: tuple[int, ...]


class BenchEngine(Protocol):
    """An engine with a loaded model, in its own process."""

    @property
    def start(self) -> EngineStart: ...

    def generate(self, prompt: Sequence[int], tokens: int) -> TimedReply:
        """A greedy reply of exactly `tokens` tokens; end tokens do not end it."""
        ...

    def peak_memory(self) -> int | None:
        """Most bytes in use so far: on GPUs what torch allocated, otherwise resident memory."""
        ...


def time_reply(tokens: Iterator[int]) -> TimedReply:
    """Consumes a reply that is generated token by token."""
    started = time.perf_counter()
    ids = [next(tokens)]
    first = time.perf_counter()
    ids += tokens
    return TimedReply(first - started, time.perf_counter() - first, tuple(ids))
