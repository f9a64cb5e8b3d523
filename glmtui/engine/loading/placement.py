"""Decides which device holds which part of a model, before anything is read.

Byte counts in; device names out, or an error that suggests settings that would fit. No torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from glmtui.engine.hardware.machine import Snapshot
from glmtui.errors import OutOfMemory
from glmtui.language import _

# Bytes on each GPU that torch does not count: CUDA's context with torch's kernels takes 0.3 to
# 0.5 GB; the rest is for cuBLAS workspaces and the allocator's rounding.
GPU_CONTEXT = 550_000_000
# A model must fit with a prompt and KV cache of this many tokens; longer contexts may not fit.
FIRST_TOKENS = 2048
# Bytes needed while one weight is unpacked in blocks of `packed_weight.GPU_BLOCK`.
UNPACK_BYTES = 40_000_000
# Bytes per id of the vocabulary: the logits in float32, and the sorted copies that sampling makes.
SAMPLING_BYTES_PER_ID = 32
SEARCH_STEPS = 30  # bisection steps in `split_parts`; 2**-30 of a GPU is less than a kilobyte


@dataclass(frozen=True, slots=True)
class MemoryEstimate:
    """The memory that a model needs, in bytes.

    Attributes:
        first: the embedding, which includes the head if the two are tied.
        layers: each decoder layer with its share of the KV cache.
        last: the final norm, and the head if it has a weight of its own.
        scratch: temporary memory of a forward pass, on each GPU.
    """

    first: int
    layers: tuple[int, ...]
    last: int
    scratch: int = 0

    @property
    def parts(self) -> tuple[int, ...]:
        """In the order of the forward pass."""
        return (self.first, *self.layers, self.last)

    @property
    def total(self) -> int:
        return sum(self.parts)

    @property
    def gpu_overhead(self) -> int:
        """What each GPU needs in addition to the parts on it."""
        return GPU_CONTEXT + self.scratch


def scratch_bytes(
    linear: Iterable[Sequence[int]],
    vocabulary: int,
    itemsize: int,
    *,
    packed: bool,
    tokens: int = FIRST_TOKENS,
) -> int:
    """Peak temporary memory of a forward pass, without weights and KV cache.

    Args:
        linear: shapes (out, in) of the linear layers, without the head.
        itemsize: bytes of a number in the activations.
        packed: whether weights are packed, and so unpacked to multiply many tokens.
        tokens: in one forward pass.
    """
    shapes = list(linear)
    widest = max((out for out, _ in shapes), default=0)
    hidden = min((min(shape) for shape in shapes), default=0)
    # the widest activation before and after its nonlinearity, the residual stream, and the mask
    elements = tokens * (2 * widest + 4 * hidden + tokens)
    if packed:
        elements += max((out * columns for out, columns in shapes), default=0)
    unpack = UNPACK_BYTES if packed else 0
    return elements * itemsize + SAMPLING_BYTES_PER_ID * vocabulary + unpack


Estimator = Callable[[str | None], MemoryEstimate]
"""The model's memory for a key of `QUANTS`; None for the quantisation that was asked for."""


def split_parts(parts: Sequence[int], capacities: Sequence[int]) -> tuple[range, ...] | None:
    """Assigns consecutive parts to devices so that all devices are about equally full.

    Finds the smallest fraction to which every device has to be filled.

    Args:
        parts: bytes of each part.
        capacities: free bytes of each device.

    Returns:
        The parts on each device, perhaps none; None if they do not fit.
    """
    best = _fill_devices(parts, capacities, 1.0)
    low, high = 0.0, 1.0
    for _step in range(SEARCH_STEPS if best else 0):
        fraction = (low + high) / 2
        found = _fill_devices(parts, capacities, fraction)
        if found is None:
            low = fraction
        else:
            best, high = found, fraction
    return best


def _fill_devices(
    parts: Sequence[int], capacities: Sequence[int], fraction: float
) -> tuple[range, ...] | None:
    """Fills the devices in order, each up to `fraction` of its capacity; None if parts are left."""
    ranges, start = [], 0
    for capacity in capacities:
        end, free = start, capacity * fraction
        while end < len(parts) and parts[end] <= free:
            free -= parts[end]
            end += 1
        ranges.append(range(start, end))
        start = end
    return tuple(ranges) if start == len(parts) else None


def plan_placement(device: str, estimate: Estimator, machine: Snapshot) -> tuple[str, ...]:
    """Chooses the device of each part of a model, in the order of `MemoryEstimate.parts`.

    Args:
        device: "auto" (the GPU with the most free memory; all GPUs if one is too small; the CPU
            without a GPU), "balanced" (all GPUs), "cpu", "cuda" or "cuda:N".
        machine: the free memory. A device whose free memory is unknown counts as large enough.

    Raises:
        OutOfMemory: the model does not fit; the hint names settings with which it would.
    """
    needed = estimate(None)
    found = _find_devices(device, needed, machine)
    if found is not None:
        return found
    raise OutOfMemory(
        _("The model needs {size} for weights and KV cache; {free}.").format(
            size=_gigabytes(_needed_bytes(device, needed, machine)),
            free=_describe_free_memory(device, machine),
        ),
        _suggest_settings(device, estimate, machine),
    )


def _find_devices(device: str, needed: MemoryEstimate, machine: Snapshot) -> tuple[str, ...] | None:
    """The device of each part; None if the model does not fit."""
    count = len(needed.parts)
    if device == "auto" and machine.gpus:
        largest = max(machine.gpus, key=lambda gpu: gpu.free or 0)
        on_one = _find_devices(f"cuda:{largest.index}", needed, machine)
        if on_one or len(machine.gpus) == 1:
            return on_one
        device = "balanced"
    if device == "balanced":
        capacities = [max((gpu.free or 0) - needed.gpu_overhead, 0) for gpu in machine.gpus]
        ranges = split_parts(needed.parts, capacities)
        if ranges is None:
            return None
        pairs = zip(machine.gpus, ranges, strict=True)
        return tuple(f"cuda:{gpu.index}" for gpu, parts in pairs for _part in parts)
    if device in ("cpu", "auto"):
        free = machine.memory.available
        return ("cpu",) * count if free is None or needed.total <= free else None
    index = int(device.partition(":")[2] or 0)
    free = next((gpu.free for gpu in machine.gpus if gpu.index == index), None)
    fits = free is None or needed.total + needed.gpu_overhead <= free
    return (f"cuda:{index}",) * count if fits else None


def _suggest_settings(device: str, estimate: Estimator, machine: Snapshot) -> str:
    """A hint with the first alternative settings that fit."""
    for other, quant in _alternatives(device, machine):
        if _find_devices(other, estimate(quant), machine) is not None:
            settings = [f'load.device = "{other}"'] if other != device else []
            settings += [f'load.quant = "{quant}"'] if quant else []
            return _("It would fit with: {settings}.").format(settings=", ".join(settings))
    return _("Close other programs, or choose a smaller model: glmtui models.")


def _alternatives(device: str, machine: Snapshot) -> Iterator[tuple[str, str | None]]:
    """Pairs of device and quantisation to try, the smallest change first and the CPU last."""
    devices = [device]
    if machine.gpus and device != "auto":
        devices.append("auto")
    for quant in (None, "int8", "int4"):
        for other in devices if quant else devices[1:]:
            yield other, quant
    if device != "cpu":
        for quant in (None, "int8", "int4"):
            yield "cpu", quant


def _needed_bytes(device: str, needed: MemoryEstimate, machine: Snapshot) -> int:
    one_gpu = 1 if machine.gpus else 0
    gpus = {"balanced": len(machine.gpus), "cpu": 0}.get(device, one_gpu)
    return needed.total + gpus * needed.gpu_overhead


def _describe_free_memory(device: str, machine: Snapshot) -> str:
    index = device.partition(":")[2]
    gpus = [
        _("GPU {index} has {size} free").format(index=gpu.index, size=_gigabytes(gpu.free))
        for gpu in machine.gpus
        if gpu.free is not None and (not index or gpu.index == int(index))
    ]
    if gpus and device != "cpu":
        return ", ".join(gpus if device in ("auto", "balanced") else gpus[:1])
    available = machine.memory.available
    if available is None:
        return _("too little memory is free")
    return _("{size} of memory are free").format(size=_gigabytes(available))


def _gigabytes(nbytes: int | None) -> str:
    return "n/a" if nbytes is None else f"{nbytes / 1e9:.1f} GB"
