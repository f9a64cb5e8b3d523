"""Measures engines, ours and others: load time, memory, token rates, time to the first token.

Knows what is measured in which order, and runs each engine in a process of its own; torch is
imported in these processes only. Does not know how results are displayed (`cli.bench_report`).
"""

from glmtui.engine.bench.bench_engine import PEERS, BenchTarget, EngineName
from glmtui.engine.bench.bench_run import run_bench
from glmtui.engine.bench.plan import BenchPlan, Measurement, needed_context
from glmtui.engine.bench.results import BenchResult, EngineResult
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
