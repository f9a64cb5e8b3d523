"""Memory of the devices: who uses it, how much more the model will need, and meters for it.

Pure functions of measurements and of what the model says of itself, and the measuring thread.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from threading import Event, Thread
from typing import TYPE_CHECKING

from textual.content import Content

from glmtui.engine.model_info import LoadedInfo
from glmtui.language import _
from glmtui.ui.widgets.meters import OTHERS_GLYPH, OWN_GLYPH, bar, format_gigabytes

if TYPE_CHECKING:
    from glmtui.engine.hardware.machine import Snapshot

SAMPLE_SECONDS = 2.0
"""Time between two measurements."""
MIN_CHANGE = 0.005
"""Fraction of a device's memory by which it must change to be reported."""
NEARLY_FULL = 0.95
"""Fraction used from which the meter shows a warning."""
LOW_FRACTION = 0.1
"""Fraction free below which the user is warned, if the full context will not fit."""

# The parts of a bar that are specific to memory.
CACHE_GLYPH, GROWTH_GLYPH = "═", "┄"


@dataclass(frozen=True, slots=True)
class ModelMemory:
    """The memory of a loaded model, in bytes.

    Attributes:
        device: torch's name of the device.
        weights: constant.
        cache: KV cache now.
        full: KV cache at full context.
    """

    device: str
    weights: int
    cache: int
    full: int

    @property
    def growth(self) -> int:
        """How much the cache can still grow."""
        return max(0, self.full - self.cache)


@dataclass(frozen=True, slots=True)
class DeviceMemory:
    """The memory of one device, in bytes; None where unknown.

    Attributes:
        name: as shown: "RAM", "GPU", "GPU1".
        used: by all programs.
        ours: by this program.
        device: torch's name of the device.
        model: set if the model is on this device.
    """

    name: str
    total: int | None
    used: int | None
    ours: int | None = None
    device: str = ""
    model: ModelMemory | None = None

    @property
    def share(self) -> float:
        """The fraction used; 0 if unknown."""
        return self.used / self.total if self.used is not None and self.total else 0.0

    @property
    def shortfall(self) -> int:
        """Bytes that are missing for the model's full context; 0 if it fits."""
        if self.model is None or self.used is None or not self.total:
            return 0
        return max(0, self.used + self.model.growth - self.total)

    @property
    def is_low(self) -> bool:
        """Whether the full context will not fit, and little is free already."""
        free = (self.total or 0) - (self.used or 0)
        return self.shortfall > 0 and free < LOW_FRACTION * (self.total or 0)


def model_memory(model: LoadedInfo | None, cached: int, limit: int | None) -> ModelMemory | None:
    """The memory of a model; None if it is unknown, as for a model on a server.

    Args:
        cached: number of tokens in the KV cache.
        limit: number of tokens at full context.
    """
    if model is None or model.weight_bytes is None or model.kv_bytes_per_token is None:
        return None
    each = model.kv_bytes_per_token
    return ModelMemory(model.device, model.weight_bytes, cached * each, (limit or cached) * each)


def with_model_memory(
    memories: Sequence[DeviceMemory], model: ModelMemory | None
) -> tuple[DeviceMemory, ...]:
    """Sets `DeviceMemory.model` for the device of the model."""
    return tuple(
        replace(memory, model=model if model and model.device == memory.device else None)
        for memory in memories
    )


def memory_parts(memory: DeviceMemory) -> list[tuple[int, str, str]]:
    """The parts of a memory bar from the left: bytes, glyph and colour.

    If the driver does not report what this program uses, the model's own count is used.
    """
    used, ours, model = memory.used or 0, memory.ours, memory.model
    if model is None:
        if ours is None:
            return [(used, OWN_GLYPH, "$secondary")]
        return [
            (min(used, ours), OWN_GLYPH, "$accent"),
            (max(0, used - ours), OTHERS_GLYPH, "$warning"),
        ]
    ours = min(used, model.weights + model.cache if ours is None else ours)
    cache = min(model.cache, ours)
    colour = "$warning" if memory.shortfall else "$secondary"
    return [
        (ours - cache, OWN_GLYPH, "$accent"),
        (cache, CACHE_GLYPH, "$primary"),
        (used - ours, OTHERS_GLYPH, "$warning"),
        (model.growth, GROWTH_GLYPH, colour),
    ]


def memory_meter(memory: DeviceMemory, detail: int) -> Content:
    """Name and percentage used. With `detail` 1 or more also a bar, with 3 also the numbers."""
    text = " n/a" if memory.used is None or not memory.total else f" {memory.share:.0%}"
    if detail >= 3 and memory.used is not None and memory.total:
        text = f" {format_gigabytes(memory.used)}/{format_gigabytes(memory.total)} GB"
    width = (0, 4, 6, 10)[detail]
    style = "$text-warning" if memory.share >= NEARLY_FULL or memory.shortfall else "$text-muted"
    return Content.assemble(
        (memory.name + (" " if width else ""), "$text-muted"),
        memory_bar(memory, width),
        (text, style),
    )


def memory_meters(memories: Sequence[DeviceMemory], detail: int) -> Content:
    """The meters of all devices. With `detail` -1 only the fullest one, for narrow windows."""
    if detail >= 0 or len(memories) < 2:
        return Content("  ").join(memory_meter(memory, max(0, detail)) for memory in memories)
    fullest = max(memories, key=lambda memory: memory.share)
    return memory_meter(
        replace(fullest, name=_("{count} GPUs, fullest").format(count=len(memories))), 0
    )


def memory_bar(memory: DeviceMemory, width: int) -> Content:
    """A bar of `width` cells; see `memory_parts`."""
    total = memory.total or 0
    known = memory_parts(memory) if total and memory.used is not None else []
    return bar([(nbytes / total, glyph, colour) for nbytes, glyph, colour in known], width)


# ---- measuring


class MemoryMonitor(Thread):
    """Measures memory on a thread of its own.

    Args:
        on_change: called on this thread with all devices when one of them has changed.
    """

    def __init__(self, on_change: Callable[[tuple[DeviceMemory, ...]], None]) -> None:
        super().__init__(name="glmtui-memory", daemon=True)
        self._on_change = on_change
        self._last: tuple[DeviceMemory, ...] = ()
        self._stopped = Event()

    def sample(self) -> None:
        """Measures once, on the calling thread."""
        # Imported late: it loads NVML, for which the first paint should not wait.
        from glmtui.engine.hardware import machine

        memories = measured_memories(machine.snapshot())
        if not nearly_equal(memories, self._last):
            self._last = memories
            self._on_change(memories)

    def run(self) -> None:
        while not self._stopped.wait(SAMPLE_SECONDS):
            self.sample()

    def stop(self) -> None:
        self._stopped.set()


def measured_memories(snapshot: Snapshot) -> tuple[DeviceMemory, ...]:
    """The memory of each GPU in a snapshot, or of the host if there is no GPU."""
    host = snapshot.memory
    if not snapshot.gpus:
        both = host.total is not None and host.available is not None
        used = host.total - host.available if both else None  # type: ignore[operator]
        return (DeviceMemory(_("RAM"), host.total, used, host.used_by_us, "cpu"),)
    several = len(snapshot.gpus) > 1
    return tuple(
        DeviceMemory(
            f"GPU{gpu.index}" if several else "GPU",
            gpu.total,
            gpu.used,
            gpu.used_by_us,
            f"cuda:{gpu.index}",
        )
        for gpu in snapshot.gpus
    )


def nearly_equal(memories: Sequence[DeviceMemory], before: Sequence[DeviceMemory]) -> bool:
    """Whether all devices are the same and changed by less than MIN_CHANGE.

    Nothing is redrawn then, so an idle program sends nothing to the terminal.
    """
    if [memory.name for memory in memories] != [memory.name for memory in before]:
        return False
    return all(
        (new.used is None) == (old.used is None) and abs(new.share - old.share) < MIN_CHANGE
        for new, old in zip(memories, before, strict=True)
    )
