"""Memory: what of each device is taken by whom, what the model will take yet, and how that looks.

Pure functions of what was measured and of what is known of the model, and the thread that
measures. Knows no session.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from threading import Event, Thread
from typing import TYPE_CHECKING

from textual.content import Content

from glmtui.engine.model_info import LoadedInfo
from glmtui.language import _
from glmtui.ui.widgets.meters import OTHERS, OURS, bar, gigabytes

if TYPE_CHECKING:
    from glmtui.engine.hardware.machine import Snapshot

SAMPLE_SECONDS = 2.0
STEP = 0.005
NEARLY_FULL = 0.95
PRESSING = 0.1  # of the memory is free
CACHE, TO_COME = "═", "┄"


@dataclass(frozen=True, slots=True)
class Held:
    """What a model in memory takes up, in bytes.

    Attributes:
        device: as torch names it.
        weights: what does not grow.
        cache: keys and values of what has been read so far.
        full: the same at the full context.
    """

    device: str
    weights: int
    cache: int
    full: int

    @property
    def to_come(self) -> int:
        """What the cache can still grow by."""
        return max(0, self.full - self.cache)


@dataclass(frozen=True, slots=True)
class Memory:
    """One device's memory, in bytes; None where unknown. `used` is by us and all others.

    Attributes:
        device: as torch names it.
        held: by the model, where this is its device.
    """

    name: str
    total: int | None
    used: int | None
    ours: int | None = None
    device: str = ""
    held: Held | None = None

    @property
    def share(self) -> float:
        """The fraction used; 0 where unknown."""
        return self.used / self.total if self.used is not None and self.total else 0.0

    @property
    def lacking(self) -> int:
        """Bytes by which the model's full context would not fit; 0 where it does."""
        if self.held is None or self.used is None or not self.total:
            return 0
        return max(0, self.used + self.held.to_come - self.total)

    @property
    def is_pressing(self) -> bool:
        """Whether it would not fit, and little is free already."""
        free = (self.total or 0) - (self.used or 0)
        return self.lacking > 0 and free < PRESSING * (self.total or 0)


def held(model: LoadedInfo | None, cached: int, limit: int | None) -> Held | None:
    """What a model takes up; None where it does not say, as a server.

    Args:
        cached: tokens in its KV cache.
        limit: tokens there may be.
    """
    if model is None or model.weight_bytes is None or model.kv_bytes_per_token is None:
        return None
    each = model.kv_bytes_per_token
    return Held(model.device, model.weight_bytes, cached * each, (limit or cached) * each)


def with_held(memories: Sequence[Memory], model: Held | None) -> tuple[Memory, ...]:
    """The devices, the model's own with what it takes up there."""
    return tuple(
        replace(memory, held=model if model and model.device == memory.device else None)
        for memory in memories
    )


def parts(memory: Memory) -> list[tuple[int, str, str]]:
    """Who takes what: bytes, glyph and colour, in the order in which they are drawn.

    Where the driver does not say what is ours, the model's own count stands for it.
    """
    used, ours, model = memory.used or 0, memory.ours, memory.held
    if model is None:
        if ours is None:
            return [(used, OURS, "$secondary")]
        return [(min(used, ours), OURS, "$accent"), (max(0, used - ours), OTHERS, "$warning")]
    ours = min(used, model.weights + model.cache if ours is None else ours)
    cache = min(model.cache, ours)
    colour = "$warning" if memory.lacking else "$secondary"
    return [
        (ours - cache, OURS, "$accent"),
        (cache, CACHE, "$primary"),
        (used - ours, OTHERS, "$warning"),
        (model.to_come, TO_COME, colour),
    ]


def memory_meter(memory: Memory, detail: int) -> Content:
    """One device: name and share used, a bar from `detail` 1 on, and the numbers with 3."""
    text = " n/a" if memory.used is None or not memory.total else f" {memory.share:.0%}"
    if detail >= 3 and memory.used is not None and memory.total:
        text = f" {gigabytes(memory.used)}/{gigabytes(memory.total)} GB"
    width = (0, 4, 6, 10)[detail]
    style = "$text-warning" if memory.share >= NEARLY_FULL or memory.lacking else "$text-muted"
    return Content.assemble(
        (memory.name + (" " if width else ""), "$text-muted"),
        memory_bar(memory, width),
        (text, style),
    )


def memory_meters(memories: Sequence[Memory], detail: int) -> Content:
    """All devices; below `detail` 0, where even that is too wide, the fullest of them."""
    if detail >= 0 or len(memories) < 2:
        return Content("  ").join(memory_meter(memory, max(0, detail)) for memory in memories)
    fullest = max(memories, key=lambda memory: memory.share)
    return memory_meter(
        replace(fullest, name=_("{count} GPUs, fullest").format(count=len(memories))), 0
    )


def memory_bar(memory: Memory, width: int) -> Content:
    """Who takes what of a device, in so many cells."""
    total = memory.total or 0
    known = parts(memory) if total and memory.used is not None else []
    return bar([(nbytes / total, glyph, colour) for nbytes, glyph, colour in known], width)


# ---- measuring


class MemoryWatch(Thread):
    """Measures memory every two seconds, off the UI's thread, and hands over what has changed."""

    def __init__(self, tell: Callable[[tuple[Memory, ...]], None]) -> None:
        super().__init__(name="glmtui-memory", daemon=True)
        self._tell = tell
        self._told: tuple[Memory, ...] = ()
        self._over = Event()

    def sample(self) -> None:
        """Measures once, on the thread that calls."""
        # imported here because NVML loads slowly, and the first paint should not wait for it
        from glmtui.engine.hardware import machine

        found = memories(machine.snapshot())
        if not much_the_same(found, self._told):
            self._told = found
            self._tell(found)

    def run(self) -> None:
        """Every two seconds until `stop`."""
        while not self._over.wait(SAMPLE_SECONDS):
            self.sample()

    def stop(self) -> None:
        """Ends the thread at its next wake-up."""
        self._over.set()


def memories(snapshot: Snapshot) -> tuple[Memory, ...]:
    """The meters for a snapshot: one for each GPU, or the host's where there is none."""
    host = snapshot.memory
    if not snapshot.gpus:
        both = host.total is not None and host.available is not None
        used = host.total - host.available if both else None  # type: ignore[operator]
        return (Memory(_("RAM"), host.total, used, host.used_by_us, "cpu"),)
    several = len(snapshot.gpus) > 1
    return tuple(
        Memory(
            f"GPU{gpu.index}" if several else "GPU",
            gpu.total,
            gpu.used,
            gpu.used_by_us,
            f"cuda:{gpu.index}",
        )
        for gpu in snapshot.gpus
    )


def much_the_same(found: Sequence[Memory], before: Sequence[Memory]) -> bool:
    """Whether no device's memory has moved by half a percent: an idle screen should lie still."""
    if [memory.name for memory in found] != [memory.name for memory in before]:
        return False
    pairs = [(new.share, old.share) for new, old in zip(found, before, strict=True)]
    known = [
        (new.used is None) == (old.used is None) for new, old in zip(found, before, strict=True)
    ]
    return all(known) and all(abs(new - old) < STEP for new, old in pairs)
