"""What a copy achieves on a device. Runs in a process of its own: its buffers are no engine's."""

from __future__ import annotations

import statistics
import time

import torch

from glmtui.engine.bench.plan import BenchTarget

COPY_BYTES = 2**28  # far more than any cache holds
COPIES = 5


class CopyBandwidth:
    """Copies on the device that `BenchTarget.options` names, with as many threads as the engine."""

    start = None

    def __init__(self, target: BenchTarget) -> None:
        torch.set_num_threads(target.threads)
        self._device = torch.device(target.options.device)

    def copy_bandwidth(self) -> float:
        """Bytes per second, read and written, of a copy of COPY_BYTES; median of COPIES."""
        source = torch.ones(COPY_BYTES, dtype=torch.uint8, device=self._device)
        target = torch.zeros_like(source)
        seconds = []
        for _ in range(COPIES):
            self._finish()
            started = time.perf_counter()
            target.copy_(source)
            self._finish()
            seconds.append(time.perf_counter() - started)
        return 2 * COPY_BYTES / statistics.median(seconds)

    def _finish(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
