"""Measuring: load time, memory, rates, time to first token, of our engine and of others.

`plan` is the data, `rounds` the order of work, `process` keeps each engine in a process of its
own; `native` and the peers are what runs in there, and alone import torch.
"""

from glmtui.engine.bench.plan import (
    PEERS,
    BenchPlan,
    BenchResult,
    BenchTarget,
    EngineName,
    EngineResult,
    Measurement,
    needed_context,
)
from glmtui.engine.bench.rounds import run_bench
from glmtui.engine.bench.shapes import SHAPES, check_memory, synthetic_options

__all__ = [
    "PEERS",
    "SHAPES",
    "BenchPlan",
    "BenchResult",
    "BenchTarget",
    "EngineName",
    "EngineResult",
    "Measurement",
    "check_memory",
    "needed_context",
    "run_bench",
    "synthetic_options",
]
