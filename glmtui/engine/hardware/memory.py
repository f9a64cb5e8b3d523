"""Memory of devices as torch sees it: peak use, and the error when none is left."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from glmtui.engine.hardware.machine import holders, peak_resident
from glmtui.errors import OutOfMemory
from glmtui.language import _


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a GPU or the host had no room; of the host torch says so in words alone."""
    in_words = isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    return in_words or isinstance(error, torch.OutOfMemoryError | MemoryError)


def out_of_memory(device: torch.device | str) -> OutOfMemory:
    """The error for a device with no room left, and who else is on it."""
    ways = _(
        "Shorten the conversation, lower load.context_length, or load the model as int8 or int4."
    )
    for largest in holders(str(device))[:1]:
        ways += " " + _("Or close {process} of it.").format(process=largest.text)
    return OutOfMemory(_("No memory left on {device}.").format(device=device), ways)


def peak_memory(devices: Iterable[torch.device]) -> int | None:
    """Bytes: what torch had at most on each GPU among these, together; without one, resident.

    Of several GPUs each has its peak at a moment of its own.
    """
    gpus = {device for device in devices if device.type == "cuda"}
    if not gpus:
        return peak_resident()
    return sum(int(torch.cuda.max_memory_allocated(gpu)) for gpu in gpus)
