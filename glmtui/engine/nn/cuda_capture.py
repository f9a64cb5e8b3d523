"""Capturing work as a CUDA graph, on the device that it is for.

Whatever was captured runs again as one launch, on the addresses that it had.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias, TypeVar

import torch

Replay: TypeAlias = Callable[[], None]
Result = TypeVar("Result")


def capture(work: Callable[[], Result], device: torch.device) -> tuple[Replay, Result]:
    """Does the work once as it is, so that libraries set themselves up, and once captured.

    Both on a stream of this device. Without one, `torch.cuda.graph` captures on a stream that it
    makes once for the process, on whatever GPU it was first used.

    Args:
        work: launches on the current stream of the device, and reads nothing on the host.

    Returns:
        What does it again, and what the captured work returned: its tensors are written anew by
        every replay.

    Raises:
        RuntimeError: the driver, or an operation, does not let it be captured.
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
