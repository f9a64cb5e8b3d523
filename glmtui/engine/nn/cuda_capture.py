"""Captures a function as a CUDA graph, which replays its kernels in one launch."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias, TypeVar

import torch

Replay: TypeAlias = Callable[[], None]
Result = TypeVar("Result")


def capture(work: Callable[[], Result], device: torch.device) -> tuple[Replay, Result]:
    """Runs `work` once without capture, so that libraries initialize, and then captures it.

    Both runs use a stream of `device`. By default `torch.cuda.graph` uses one stream per process,
    which it creates on the GPU where it is first used.

    Args:
        work: launches kernels on the device's current stream. It must not read results on the host.

    Returns:
        A function that replays the graph, and the result of the captured run. Every replay writes
        to the same memory and overwrites the tensors of that result.

    Raises:
        RuntimeError: the driver or an operation does not support capture.
    """
    with torch.cuda.device(device):
        stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(stream):
            work()
        torch.cuda.current_stream(device).wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            result = work()
        return graph.replay, result
