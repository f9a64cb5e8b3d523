"""Measuring: load time, memory, rates, time to first token, of our engine and of others.

`plan` is the data, `rounds` the order of work, `process` keeps each engine in a process of its
own; `native` and the peers are what runs in there, and alone import torch.
"""

from glmtui.engine.bench.plan import PEERS, EngineName, Measured, Plan, Result, Subject, Work
from glmtui.engine.bench.rounds import bench
from glmtui.engine.bench.shapes import SHAPES, check_memory, synthetic_options

__all__ = [
    "PEERS",
    "SHAPES",
    "EngineName",
    "Measured",
    "Plan",
    "Result",
    "Subject",
    "Work",
    "bench",
    "check_memory",
    "synthetic_options",
]
