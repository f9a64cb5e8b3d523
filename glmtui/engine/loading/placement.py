"""Placement: which device holds which part of a model, decided before anything is read.

Sizes and free bytes in, devices out, or the error that says what would fit. Pure: knows no torch
and asks no device.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from glmtui.engine.hardware.machine import Snapshot
from glmtui.errors import OutOfMemory
from glmtui.language import _

# bytes on each GPU that torch does not count: CUDA's context with torch's kernels takes 0.3 to
# 0.5 GB, workspaces of cuBLAS and what the allocator rounds up the rest
GPU_CONTEXT = 550_000_000
FIRST_TOKENS = 2048  # room of the KV cache, and length of a prompt, that there has to be memory for
UNPACK_BYTES = (
    40_000_000  # bytes beside a weight while it is unpacked in blocks (`quant.GPU_BLOCK`)
)
SAMPLING_BYTES_PER_ID = 32  # bytes to each id of the vocabulary: logits, and the sorts of sampling
STEPS = 30  # halvings in the search for the fullest share


@dataclass(frozen=True, slots=True)
class Sizes:
    """What a model takes, in bytes.

    Attributes:
        first: the embedding, with the head where both are one.
        layers: each decoder layer, with its share of the KV cache.
        last: the norm, with the head where it has a table of its own.
        scratch: what is held beside these on each GPU while it computes.
    """

    first: int
    layers: tuple[int, ...]
    last: int
    scratch: int = 0

    @property
    def parts(self) -> tuple[int, ...]:
        """In the order in which a token passes them."""
        return (self.first, *self.layers, self.last)

    @property
    def total(self) -> int:
        return sum(self.parts)

    @property
    def beside(self) -> int:
        """What each GPU takes beside its parts."""
        return GPU_CONTEXT + self.scratch


def scratch_bytes(
    linear: Iterable[Sequence[int]],
    vocabulary: int,
    itemsize: int,
    *,
    packed: bool,
    tokens: int = FIRST_TOKENS,
) -> int:
    """Most bytes that a forward pass holds beside weights and cache.

    Args:
        linear: shapes of the linear layers, each (out, in); not of the head.
        itemsize: bytes of a number in the activations.
        packed: whether weights are unpacked when many tokens are multiplied.
        tokens: read at once.
    """
    shapes = list(linear)
    widest = max((out for out, _ in shapes), default=0)
    hidden = min((min(shape) for shape in shapes), default=0)
    # the widest activation before and after its nonlinearity, the residual around it, the mask
    elements = tokens * (2 * widest + 4 * hidden + tokens)
    if packed:
        elements += max((out * columns for out, columns in shapes), default=0)
    return (
        elements * itemsize + SAMPLING_BYTES_PER_ID * vocabulary + (UNPACK_BYTES if packed else 0)
    )


SizesOf = Callable[[str | None], Sizes]
"""What the model takes, held as a key of `known.QUANTS`; None is as it was asked for."""


def split_parts(parts: Sequence[int], rooms: Sequence[int]) -> tuple[range, ...] | None:
    """Neighbouring parts to rooms in order, so that the fullest room has the most of it left.

    Args:
        parts: bytes of each.
        rooms: free bytes of each.

    Returns:
        For each room the parts in it, perhaps none; None where they do not fit.
    """
    best = _filled(parts, rooms, 1.0)
    low, high = 0.0, 1.0
    for _step in range(STEPS if best else 0):
        share = (low + high) / 2
        found = _filled(parts, rooms, share)
        if found is None:
            low = share
        else:
            best, high = found, share
    return best


def _filled(parts: Sequence[int], rooms: Sequence[int], share: float) -> tuple[range, ...] | None:
    """`split_parts` with each room filled to this share of it before the next is begun."""
    ranges, start = [], 0
    for room in rooms:
        end, left = start, room * share
        while end < len(parts) and parts[end] <= left:
            left -= parts[end]
            end += 1
        ranges.append(range(start, end))
        start = end
    return tuple(ranges) if start == len(parts) else None


def plan_placement(name: str, sizes_of: SizesOf, machine: Snapshot) -> tuple[str, ...]:
    """The device of each part of a model (`Sizes.parts`).

    Args:
        name: "auto" (the GPU with the most free memory, several where one is not enough, the CPU
            where there is none), "balanced" (all GPUs), "cpu", "cuda" or "cuda:N".
        machine: what is free. What it does not know is not held against a device.

    Raises:
        OutOfMemory: the model does not fit; the hint has a setting with which it would.
    """
    found = _fitting(name, sizes_of(None), machine)
    if found is not None:
        return found
    raise OutOfMemory(
        _("The model needs {size} with its first tokens; {free}.").format(
            size=_gb(_needed(name, sizes_of(None), machine)), free=_free(name, machine)
        ),
        _way_out(name, sizes_of, machine),
    )


def _fitting(name: str, sizes: Sizes, machine: Snapshot) -> tuple[str, ...] | None:
    """The device of each part, or None where they do not fit."""
    everywhere = len(sizes.parts)
    if name == "auto" and machine.gpus:
        most = max(machine.gpus, key=lambda gpu: gpu.free or 0)
        alone = _fitting(f"cuda:{most.index}", sizes, machine)
        if alone or len(machine.gpus) == 1:
            return alone
        name = "balanced"
    if name == "balanced":
        rooms = [max((gpu.free or 0) - sizes.beside, 0) for gpu in machine.gpus]
        ranges = split_parts(sizes.parts, rooms)
        if ranges is None:
            return None
        pairs = zip(machine.gpus, ranges, strict=True)
        return tuple(f"cuda:{gpu.index}" for gpu, held in pairs for _part in held)
    if name in ("cpu", "auto"):
        free = machine.memory.available
        return ("cpu",) * everywhere if free is None or sizes.total <= free else None
    index = int(name.partition(":")[2] or 0)
    free = next((gpu.free for gpu in machine.gpus if gpu.index == index), None)
    fits = free is None or sizes.total + sizes.beside <= free
    return (f"cuda:{index}",) * everywhere if fits else None


def _way_out(name: str, sizes_of: SizesOf, machine: Snapshot) -> str:
    """The first settings with which it would fit, the least change first."""
    for device, quant in _changes(name, machine):
        if _fitting(device, sizes_of(quant), machine) is not None:
            settings = [f'load.device = "{device}"'] if device != name else []
            settings += [f'load.quant = "{quant}"'] if quant else []
            return _("It fits with: {settings}.").format(settings=", ".join(settings))
    return _("Free memory that other programs hold, or take a smaller model: glmtui models.")


def _changes(name: str, machine: Snapshot) -> Iterator[tuple[str, str | None]]:
    devices = [name]
    if machine.gpus:
        devices += ["auto"] if name != "auto" else []
        devices += ["cpu"] if name != "cpu" else []
    for quant in (None, "int8", "int4"):
        for device in devices if quant else devices[1:]:
            if device != "cpu" or name == "cpu":
                yield device, quant
    if name != "cpu":
        for quant in (None, "int8", "int4"):
            yield "cpu", quant


def _needed(name: str, sizes: Sizes, machine: Snapshot) -> int:
    gpus = {"balanced": len(machine.gpus), "cpu": 0}.get(name, 1 if machine.gpus else 0)
    return sizes.total + gpus * sizes.beside


def _free(name: str, machine: Snapshot) -> str:
    """What is free where it was to go."""
    index = name.partition(":")[2]
    gpus = [
        _("GPU {index} has {size} free").format(index=gpu.index, size=_gb(gpu.free))
        for gpu in machine.gpus
        if gpu.free is not None and (not index or gpu.index == int(index))
    ]
    if gpus and name != "cpu":
        return ", ".join(gpus if name in ("auto", "balanced") else gpus[:1])
    available = machine.memory.available
    if available is None:
        return _("no more is free")
    return _("{size} of memory are free").format(size=_gb(available))


def _gb(nbytes: int | None) -> str:
    return "n/a" if nbytes is None else f"{nbytes / 1e9:.1f} GB"
