"""Choice: which kernel multiplies with packed weights on a device; none is believed unproven.

The first layer of each kind decides for all of its kind: every kernel that takes it multiplies with
its real weight, on the very device, and is compared with the weight unpacked; of those that are
right the fastest is taken. One that raises or is wrong is left out and logged. Where none is left
the plain layer serves, so there always is an answer.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor
from torch.nn import functional as F

from glmtui.engine.nn.cuda_capture import capture
from glmtui.engine.nn.linear.reference import GEMV_ROWS, LinearLayer, PackedLinear
from glmtui.engine.nn.packed_weight import PackedWeight

PROOF_TOKENS = (1, 2, GEMV_ROWS, GEMV_ROWS + 1, 65)  # one, a few, a full few, and many for all
PROOF_ROWS = 1024  # of a weight that are compared: the first and the last of them
ROUNDS = 20  # times a product is timed
LAUNCHES = 20  # products that are timed together on a GPU
# of the typical size of the result: what rounding factors and result explains, and no wrong number
TOLERANCE = {torch.float16: 1 / 32, torch.bfloat16: 1 / 8, torch.float32: 1 / 1024}

Clock: TypeAlias = Callable[[Callable[[], object], torch.device], float]
"""Seconds that a call takes on the device it works on."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Kernel:
    """A way to multiply with a packed weight.

    Attributes:
        name: for people.
        supports: whether it is made for such a weight and activations of this dtype.
        make: the layer; its bias has the dtype of the activations. May raise anything.
    """

    name: str
    supports: Callable[[PackedWeight, torch.dtype], bool]
    make: Callable[[PackedWeight, Tensor | None, torch.dtype], LinearLayer]


REFERENCE = Kernel("unpacking", lambda weight, dtype: True, PackedLinear)


class KernelChoice:
    """The kernels of one model.

    Args:
        kernels: to be tried.
        preferred: taken before all others wherever it is right, though it were slower.
        clock: that kernels are timed by; `gpu_seconds` unless told otherwise.
        time_reference: whether the plain layer is taken too where it is the fastest.

    Attributes:
        selected: names of those chosen so far.
        rejected: what was tried and is not used, each with its reason.
    """

    def __init__(
        self,
        kernels: Sequence[Kernel],
        *,
        preferred: Kernel | None = None,
        clock: Clock | None = None,
        time_reference: bool = True,
    ) -> None:
        self._kernels = kernels
        self._preferred = preferred
        self._clock = clock or gpu_seconds
        self._time_plain = time_reference
        self._chosen: dict[tuple[object, ...], Kernel] = {}
        self._broken: set[str] = set()  # raised when asked whether they take a weight
        self.selected: set[str] = set()
        self.rejected: dict[str, str] = {}

    def make_layer(
        self, weight: PackedWeight, bias: Tensor | None, dtype: torch.dtype
    ) -> LinearLayer:
        """The layer for a weight without `order`, by the kernel that is best for its kind."""
        # layers of one packing may differ in whom their shape suits
        known = self._kernels if self._preferred is None else (self._preferred, *self._kernels)
        takers = tuple(kernel.name for kernel in known if self._supports(kernel, weight, dtype))
        kind = (weight.kind, weight.zero is None, dtype, weight.q.device, takers)
        if kind not in self._chosen:
            self._chosen[kind] = self._best(weight, bias, dtype)
        kernel = self._chosen[kind]
        self.selected.add(kernel.name)
        return kernel.make(weight, bias, dtype)

    def _best(self, weight: PackedWeight, bias: Tensor | None, dtype: torch.dtype) -> Kernel:
        if (
            self._preferred is not None
            and self._tried(self._preferred, weight, bias, dtype) is not None
        ):
            return self._preferred
        seconds = {}
        if self._time_plain:
            seconds[REFERENCE] = self._seconds(REFERENCE.make(weight, bias, dtype), weight, dtype)
        for kernel in self._kernels:
            taken = self._tried(kernel, weight, bias, dtype)
            if taken is not None:
                seconds[kernel] = taken
        best = min(seconds, key=lambda kernel: seconds[kernel], default=REFERENCE)
        measured = ", ".join(f"{each.name} {1e6 * s:.0f} us" for each, s in seconds.items())
        logger.info("%s in %s: %s of %s", weight.kind, dtype, best.name, measured)
        return best

    def _tried(
        self, kernel: Kernel, weight: PackedWeight, bias: Tensor | None, dtype: torch.dtype
    ) -> float | None:
        """Seconds that it takes for one token; None where it is not to be used."""
        if not self._supports(kernel, weight, dtype):
            return None
        try:
            layer = kernel.make(weight, bias, dtype)
            problem = find_mismatch(layer, weight, bias, dtype)
            if not problem:
                return self._seconds(layer, weight, dtype)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # a compiler, a driver, a library: whatever it raises
            problem = _told(error)
        self._refuse(kernel, weight, problem)
        return None

    def _supports(self, kernel: Kernel, weight: PackedWeight, dtype: torch.dtype) -> bool:
        """Whether it is made for such a weight; not if it raises, as an import that fails does."""
        if kernel.name in self._broken:
            return False
        try:
            return kernel.supports(weight, dtype)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            self._broken.add(kernel.name)
            self._refuse(kernel, weight, _told(error))
            return False

    def _refuse(self, kernel: Kernel, weight: PackedWeight, why: str) -> None:
        self.rejected[kernel.name] = why
        logger.warning("%s is not used for %s: %s", kernel.name, weight.kind, why)

    def _seconds(self, layer: LinearLayer, weight: PackedWeight, dtype: torch.dtype) -> float:
        """Of the product of one token."""
        x = torch.ones(1, weight.in_features, dtype=dtype, device=weight.q.device)
        with torch.inference_mode():
            return self._clock(lambda: layer(x), x.device)


@torch.inference_mode()
def find_mismatch(
    layer: LinearLayer, weight: PackedWeight, bias: Tensor | None, dtype: torch.dtype
) -> str:
    """What is wrong with the products of a layer, in words; empty if they are right."""
    rows = weight.shape[0]
    cuts = [slice(0, min(rows, PROOF_ROWS))]
    if rows > PROOF_ROWS:
        cuts.append(slice(max(PROOF_ROWS, rows - PROOF_ROWS), rows))
    whole = [weight[cut].dequantize(torch.float32) for cut in cuts]
    random = torch.Generator().manual_seed(0)
    device = weight.q.device
    for tokens in PROOF_TOKENS:
        x = torch.randn(tokens, weight.in_features, generator=random).to(device, dtype)
        y = layer(x)
        if y.shape != (tokens, rows) or y.dtype != dtype:
            return f"{tokens} tokens give {tuple(y.shape)} of {y.dtype}"
        for cut, meant in zip(cuts, whole, strict=True):
            part = None if bias is None else bias[cut].float()
            exact = F.linear(x.float(), meant, part)
            typical = exact.square().mean().sqrt().clamp_min(1e-6)
            off = float((y[:, cut].float() - exact).abs().max() / typical)
            if not off <= TOLERANCE[dtype]:  # NaN is wrong too
                return f"its product of {tokens} tokens is off by {off:.2g} of its size"
    return ""


def gpu_seconds(call: Callable[[], object], device: torch.device) -> float:
    """Seconds of one call on a GPU, the least of some.

    Of calls in a CUDA graph, as decoding makes them: what Python takes to launch a kernel counts
    for nothing there. Of a call that cannot be captured, its launches are timed too.
    """

    def calls() -> None:
        for _ in range(LAUNCHES):
            call()

    with torch.cuda.device(device):
        call()
        try:
            work, _result = capture(calls, device)
        except RuntimeError as error:
            logger.info("timed without a CUDA graph: %s", _told(error))
            work = calls
        return min(_event_seconds(work, device) for _ in range(ROUNDS)) / LAUNCHES


def _event_seconds(work: Callable[[], object], device: torch.device) -> float:
    """Seconds between two events on the device's current stream, the work between them."""
    stream = torch.cuda.current_stream(device)
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    start.record(stream)
    work()
    end.record(stream)
    end.synchronize()
    milliseconds: float = start.elapsed_time(end)
    return milliseconds / 1000


def cpu_seconds(call: Callable[[], object], device: torch.device) -> float:
    """Seconds of one call by one thread, the least of some: other programs hold up several."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        call()
        return min(_seconds(call) for _ in range(ROUNDS))
    finally:
        torch.set_num_threads(threads)


def _seconds(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def _told(error: Exception) -> str:
    """The first line of an error."""
    return f"{type(error).__name__}: {error}".splitlines()[0]
