"""KernelChoice: selects the fastest correct kernel for packed weights on a device.

The first layer of each weight format decides for all of them: every kernel that supports it
multiplies with its real weight on its device. A kernel that raises or computes wrong products is
logged and not used. If none is left, `REFERENCE` is used.
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

# Numbers of tokens that a kernel is checked with: around the limit for a few tokens, and many.
CHECKED_TOKENS = (1, 2, GEMV_ROWS, GEMV_ROWS + 1, 65)
CHECKED_ROWS = 1024  # rows of the result that are compared, both at its start and at its end
REPETITIONS = 20  # measurements of a kernel, of which the fastest counts
LAUNCHES = 20  # products in one measurement on a GPU
# Maximum error, relative to the root mean square of the result. Rounding of the factors and of the
# result stays below it; a single wrong element exceeds it.
TOLERANCE = {torch.float16: 1 / 32, torch.bfloat16: 1 / 8, torch.float32: 1 / 1024}

Clock: TypeAlias = Callable[[Callable[[], object], torch.device], float]
"""Measures a call: takes the function and the device it runs on, and returns seconds."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Kernel:
    """A way to multiply with a packed weight.

    Attributes:
        name: for people.
        supports: whether it supports a weight with activations of a dtype.
        make: makes the layer; its bias has the dtype of the activations. It may raise anything.
    """

    name: str
    supports: Callable[[PackedWeight, torch.dtype], bool]
    make: Callable[[PackedWeight, Tensor | None, torch.dtype], LinearLayer]


REFERENCE = Kernel("unpacking", lambda weight, dtype: True, PackedLinear)


class KernelChoice:
    """Selects kernels for the packed weights of one model.

    Args:
        kernels: the candidates.
        preferred: used wherever it is correct, even if others are faster.
        clock: measures kernels; default `gpu_seconds`.
        time_reference: whether `REFERENCE` is a candidate too, and not only the last resort.

    Attributes:
        selected: names of the kernels in use.
        rejected: reasons why kernels are not used, by name.
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
        self._time_reference = time_reference
        self._by_format: dict[tuple[object, ...], Kernel] = {}
        self._broken: set[str] = set()  # kernels whose `supports` raised
        self.selected: set[str] = set()
        self.rejected: dict[str, str] = {}

    def make_layer(
        self, weight: PackedWeight, bias: Tensor | None, dtype: torch.dtype
    ) -> LinearLayer:
        """Makes a layer with the best kernel for a weight, which must not have an `order`."""
        # part of the key, because kernels may support only some of the shapes of one format
        candidates = self._kernels if self._preferred is None else (self._preferred, *self._kernels)
        supporting = tuple(k.name for k in candidates if self._supports(k, weight, dtype))
        format_key = (weight.kind, weight.zero is None, dtype, weight.q.device, supporting)
        if format_key not in self._by_format:
            self._by_format[format_key] = self._select(weight, bias, dtype)
        kernel = self._by_format[format_key]
        self.selected.add(kernel.name)
        return kernel.make(weight, bias, dtype)

    def _select(self, weight: PackedWeight, bias: Tensor | None, dtype: torch.dtype) -> Kernel:
        preferred = self._preferred
        if preferred is not None and self._measure(preferred, weight, bias, dtype) is not None:
            return preferred
        seconds = {}
        if self._time_reference:
            layer = REFERENCE.make(weight, bias, dtype)
            seconds[REFERENCE] = self._layer_seconds(layer, weight, dtype)
        for kernel in self._kernels:
            measured = self._measure(kernel, weight, bias, dtype)
            if measured is not None:
                seconds[kernel] = measured
        fastest = min(seconds, key=lambda kernel: seconds[kernel], default=REFERENCE)
        times = ", ".join(f"{kernel.name} {1e6 * s:.0f} us" for kernel, s in seconds.items())
        logger.info("%s in %s: %s of %s", weight.kind, dtype, fastest.name, times)
        return fastest

    def _measure(
        self, kernel: Kernel, weight: PackedWeight, bias: Tensor | None, dtype: torch.dtype
    ) -> float | None:
        """Checks a kernel; returns the seconds for one token, or None if it cannot be used."""
        if not self._supports(kernel, weight, dtype):
            return None
        try:
            layer = kernel.make(weight, bias, dtype)
            problem = find_mismatch(layer, weight, bias, dtype)
            if not problem:
                return self._layer_seconds(layer, weight, dtype)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # compilers, drivers and libraries may raise anything
            problem = _first_line(error)
        self._reject(kernel, weight, problem)
        return None

    def _supports(self, kernel: Kernel, weight: PackedWeight, dtype: torch.dtype) -> bool:
        """`kernel.supports`; False from the first time that it raises, as a failed import does."""
        if kernel.name in self._broken:
            return False
        try:
            return kernel.supports(weight, dtype)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            self._broken.add(kernel.name)
            self._reject(kernel, weight, _first_line(error))
            return False

    def _reject(self, kernel: Kernel, weight: PackedWeight, reason: str) -> None:
        self.rejected[kernel.name] = reason
        logger.warning("%s is not used for %s: %s", kernel.name, weight.kind, reason)

    def _layer_seconds(self, layer: LinearLayer, weight: PackedWeight, dtype: torch.dtype) -> float:
        """Seconds of the product with one token."""
        x = torch.ones(1, weight.in_features, dtype=dtype, device=weight.q.device)
        with torch.inference_mode():
            return self._clock(lambda: layer(x), x.device)


@torch.inference_mode()
def find_mismatch(
    layer: LinearLayer, weight: PackedWeight, bias: Tensor | None, dtype: torch.dtype
) -> str:
    """Compares the products of a layer with those of the unpacked weight.

    Returns:
        A description of the first difference; empty if there is none.
    """
    rows = weight.shape[0]
    slices = [slice(0, min(rows, CHECKED_ROWS))]
    if rows > CHECKED_ROWS:
        slices.append(slice(max(CHECKED_ROWS, rows - CHECKED_ROWS), rows))
    unpacked = [weight[part].dequantize(torch.float32) for part in slices]
    generator = torch.Generator().manual_seed(0)
    device = weight.q.device
    for tokens in CHECKED_TOKENS:
        x = torch.randn(tokens, weight.in_features, generator=generator).to(device, dtype)
        y = layer(x)
        if y.shape != (tokens, rows) or y.dtype != dtype:
            return f"{tokens} tokens give {tuple(y.shape)} of {y.dtype}"
        for part, weight_part in zip(slices, unpacked, strict=True):
            bias_part = None if bias is None else bias[part].float()
            exact = F.linear(x.float(), weight_part, bias_part)
            size = exact.square().mean().sqrt().clamp_min(1e-6)
            error = float((y[:, part].float() - exact).abs().max() / size)
            if not error <= TOLERANCE[dtype]:  # also true for NaN
                return f"its product of {tokens} tokens is off by {error:.2g} of its size"
    return ""


def gpu_seconds(call: Callable[[], object], device: torch.device) -> float:
    """Seconds of one call on a GPU, the minimum of several measurements.

    Calls are replayed from a CUDA graph, as decoding does, so that the time Python needs to launch
    kernels is not included. It is included if the call cannot be captured.
    """

    def calls() -> None:
        for _ in range(LAUNCHES):
            call()

    with torch.cuda.device(device):
        call()
        try:
            work, _result = capture(calls, device)
        except RuntimeError as error:
            logger.info("timed without a CUDA graph: %s", _first_line(error))
            work = calls
        return min(_event_seconds(work, device) for _ in range(REPETITIONS)) / LAUNCHES


def _event_seconds(work: Callable[[], object], device: torch.device) -> float:
    """Seconds of `work` between two events on the device's current stream."""
    stream = torch.cuda.current_stream(device)
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    start.record(stream)
    work()
    end.record(stream)
    end.synchronize()
    milliseconds: float = start.elapsed_time(end)
    return milliseconds / 1000


def cpu_seconds(call: Callable[[], object], device: torch.device) -> float:
    """Seconds of one call on a CPU, the minimum of several measurements.

    Measured with one thread, because other programs disturb several threads more.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        call()
        return min(_call_seconds(call) for _ in range(REPETITIONS))
    finally:
        torch.set_num_threads(threads)


def _call_seconds(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]
