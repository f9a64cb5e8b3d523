"""The most memory that was ever in use. Asks torch of its GPUs, and of the host the system."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from glmtui.engine.device import peak_resident


def peak_memory(devices: Iterable[torch.device]) -> int | None:
    """Bytes: what torch had at most on each GPU among these, together; without one, resident.

    Of several GPUs each has its peak at a moment of its own.
    """
    gpus = {device for device in devices if device.type == "cuda"}
    if not gpus:
        return peak_resident()
    return sum(int(torch.cuda.max_memory_allocated(gpu)) for gpu in gpus)
