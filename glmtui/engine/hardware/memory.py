"""Memory of a torch device: its peak use, and the error when it is full."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from glmtui.engine.hardware.gpu import other_processes
from glmtui.engine.hardware.host_memory import peak_resident
from glmtui.errors import OutOfMemory
from glmtui.language import _


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation on a GPU or the host failed."""
    # torch has no exception class of its own for the host
    on_host = isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    return on_host or isinstance(error, torch.OutOfMemoryError | MemoryError)


def out_of_memory(device: torch.device | str) -> OutOfMemory:
    """The error for a full device; its hint names the largest other process on a GPU."""
    hint = _(
        "Shorten the conversation, lower load.context_length, or load the model as int8 or int4."
    )
    for largest in other_processes(str(device))[:1]:
        hint += " " + _("Or stop process {process}, which uses {size} GB of it.").format(
            process=largest.label, size=f"{largest.nbytes / 1e9:.1f}"
        )
    return OutOfMemory(_("No memory left on {device}.").format(device=device), hint)


def peak_memory(devices: Iterable[torch.device]) -> int | None:
    """Peak memory use in bytes: torch's on the GPUs among `devices`, else this process's.

    For several GPUs it is the sum of their peaks, which may be at different moments.
    """
    gpus = {device for device in devices if device.type == "cuda"}
    if not gpus:
        return peak_resident()
    return sum(int(torch.cuda.max_memory_allocated(gpu)) for gpu in gpus)
