"""Linear layers for each weight format and device; `make_linear` makes the fastest one.

The loader replaces every `layers.LinearPlaceholder` with one of them. Their tensors are plain
attributes, not parameters or buffers, because attribute access is faster. `kernel_selection` checks
and times kernels on the device; `reference` works on every device.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from glmtui.engine.nn.cpu_dtype import product_dtype
from glmtui.engine.nn.linear import cpm, cpu_native, cpu_torch, cuda
from glmtui.engine.nn.linear.cpu_native import NATIVE, NativeEmbedding, NativeLinear
from glmtui.engine.nn.linear.cpu_torch import (
    CpuHalfLinear,
    CpuInt4Linear,
    CpuInt8Linear,
    packed_block,
)
from glmtui.engine.nn.linear.kernel_selection import KernelChoice, cpu_seconds
from glmtui.engine.nn.linear.reference import (
    GEMV_ROWS,
    DenseLinear,
    LinearLayer,
    PackedLinear,
    ReorderedLinear,
)
from glmtui.engine.nn.packed_weight import PackedWeight

__all__ = [
    "GEMV_ROWS",
    "CpuHalfLinear",
    "CpuInt4Linear",
    "CpuInt8Linear",
    "DenseLinear",
    "KernelChoice",
    "LinearLayer",
    "NativeEmbedding",
    "NativeLinear",
    "PackedLinear",
    "ReorderedLinear",
    "kernel_choice",
    "make_head",
    "make_linear",
    "may_stay_packed",
    "packed_block",
]


def make_linear(
    weight: Tensor | PackedWeight,
    bias: Tensor | None,
    dtype: torch.dtype,
    choice: KernelChoice | None = None,
) -> LinearLayer:
    """Makes the layer that is fastest for this weight on its device.

    Args:
        weight: [out, in], already on its device.
        bias: [out] or None.
        dtype: of the activations.
        choice: selects kernels for packed weights; without it, every call unpacks the weight.
    """
    if bias is not None:
        bias = bias.to(dtype)
    if isinstance(weight, Tensor):
        weight = weight.to(dtype)
        if cpu_native.supports(weight, dtype):
            return NativeLinear(weight, bias)
        slow = weight.device.type == "cpu" and dtype == torch.bfloat16 != product_dtype()
        return CpuHalfLinear(weight, bias) if slow else DenseLinear(weight, bias)
    if weight.order is not None:
        inner = make_linear(replace(weight, order=None), bias, dtype, choice)
        return ReorderedLinear(inner, weight.order)
    if choice is not None:
        return choice.make_layer(weight, bias, dtype)
    return PackedLinear(weight, bias, dtype)


def make_kernel_choice(
    name: str, folder: Path, device: torch.device, dtype: torch.dtype
) -> KernelChoice:
    """The kernels that are tried for a model's packed weights on this device.

    Args:
        name: the setting quant.kernel, a key of `quants.KERNELS`.
        folder: of the model.
        dtype: of the activations.

    Raises:
        EngineError: the kernel of this name cannot be used here; the message has the reason.
    """
    kernel = cpm.load_cpm_kernel(folder, device, dtype) if name == cpm.NAME else None
    if device.type == "cpu":
        # NATIVE is preferred because it is more precise, and a whole step can be one call.
        # The reference is not timed, because it is many times slower.
        return KernelChoice(
            cpu_torch.KERNELS, preferred=NATIVE, clock=cpu_seconds, time_reference=False
        )
    return KernelChoice(cuda.kernels(), preferred=kernel)


def can_stay_packed(table: Tensor | PackedWeight, dtype: torch.dtype) -> bool:
    """Whether an embedding or head of 8 bits can be used without unpacking it."""
    return isinstance(table, PackedWeight) and table.bits == 8 and cpu_native.supports(table, dtype)


def make_head(table: Tensor | PackedWeight, dtype: torch.dtype) -> LinearLayer:
    """Makes the layer that maps activations in `dtype` to logits with a [vocab, hidden] table."""
    if isinstance(table, PackedWeight) or cpu_native.supports(table, dtype):
        return NativeLinear(table, None)
    if table.dtype == torch.float16 and dtype == torch.bfloat16:
        return CpuHalfLinear(table, None)
    return DenseLinear(table, None)
