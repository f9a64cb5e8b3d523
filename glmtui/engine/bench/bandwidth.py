"""CopyBandwidth: measures a memory copy on a device, as a reference for an engine's bandwidth."""

from __future__ import annotations

import statistics
import time

import torch

from glmtui.engine.bench.bench_engine import BenchTarget

COPY_BYTES = 2**28  # much more than any processor cache
COPIES = 5  # of which the median is taken


class CopyBandwidth:
    """Copies on the device of the target's options, with as many threads as the engine uses."""

    start = None

    def __init__(self, target: BenchTarget) -> None:
        torch.set_num_threads(target.threads)
        self._device = torch.device(target.options.device)

    def copy_bandwidth(self) -> float:
        """Bytes per second, read and written."""
        source = torch.ones(COPY_BYTES, dtype=torch.uint8, device=self._device)
        target = torch.zeros_like(source)
        seconds = []
        for _ in range(COPIES):
            self._synchronize()
            started = time.perf_counter()
            target.copy_(source)
            self._synchronize()
            seconds.append(time.perf_counter() - started)
        return 2 * COPY_BYTES / statistics.median(seconds)

    def _synchronize(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
