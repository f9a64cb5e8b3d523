"""The machine at one moment: its GPUs and main memory, and whether a model fits."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field

from glmtui.engine.hardware.gpu import Gpu, list_gpus
from glmtui.engine.hardware.host_memory import HostMemory, host_memory


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The machine at one moment. `gpus` are those that CUDA shows to this process."""

    gpus: tuple[Gpu, ...] = ()
    memory: HostMemory = field(default_factory=HostMemory)


@dataclass(frozen=True, slots=True)
class Fit:
    """Whether and where something fits.

    Attributes:
        fits: None if the free memory is not known.
        device: "cuda:0" or "cpu"; empty if it fits nowhere.
        text: for messages: "fits GPU 0", "fits memory", or what is missing.
    """

    fits: bool | None
    device: str
    text: str


def snapshot(environ: Mapping[str, str] = os.environ) -> Snapshot:
    """The machine now. Takes milliseconds, except for the first call, which loads NVML."""
    return Snapshot(tuple(list_gpus(environ)), host_memory())


def fits(nbytes: int, machine: Snapshot) -> Fit:
    """Where `nbytes` fit: on the first GPU with enough free memory, else in main memory."""
    places = [
        (f"cuda:{gpu.index}", f"GPU {gpu.index}", gpu.free, gpu.total) for gpu in machine.gpus
    ]
    places.append(("cpu", "memory", machine.memory.available, machine.memory.total))
    for device, name, free, _ in places:
        if free is not None and nbytes <= free:
            return Fit(True, device, f"fits {name}")
    known = [
        f"{name} has {_gb(free)} free" + (f" of {_gb(total)}" if total is not None else "")
        for _, name, free, total in places
        if free is not None
    ]
    text = f"needs {_gb(nbytes)}; {', '.join(known) or 'free memory is unknown'}"
    return Fit(False if len(known) == len(places) else None, "", text)


def _gb(nbytes: int) -> str:
    return f"{nbytes / 1e9:.1f} GB"
