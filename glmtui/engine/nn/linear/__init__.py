"""Linear layers by how and where their weight lies: `make_linear` picks the one that is fastest.

The loader swaps them in for a family's `layers.Slot`, as gpt-fast does. Attributes are plain ones,
not parameters or buffers, which Python finds faster. `plain` works everywhere, `native` has our
kernels for CPUs and `cpu` torch's, `cuda` and `cpm` those of GPUs, and `choice` uses none that did
not prove itself.
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
    """The layer that multiplies with this weight fastest where it lies.

    Args:
        weight: [out, in], on the device that will hold it.
        bias: [out] or None.
        dtype: of the activations.
        choice: of kernels for packed weights; without one they are unpacked at every use.
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
    wanted: str, folder: Path, device: torch.device, dtype: torch.dtype
) -> KernelChoice:
    """What a model's packed weights are to be multiplied with.

    Args:
        wanted: a key of `known.KERNELS`.
        folder: of the model.
        dtype: of the activations.

    Raises:
        EngineError: what is wanted cannot be had here; the message has the reason.
    """
    kernel = cpm.load_cpm_kernel(folder, device, dtype) if wanted == cpm.NAME else None
    if device.type == "cpu":  # where unpacking for every token takes many times as long
        # ours is closer than torch's, and a whole step of it is one call (`native.kernels`)
        return KernelChoice(
            cpu_torch.KERNELS, preferred=NATIVE, clock=cpu_seconds, time_reference=False
        )
    return KernelChoice(cuda.kernels(), preferred=kernel)


def can_stay_packed(table: Tensor | PackedWeight, dtype: torch.dtype) -> bool:
    """Whether an embedding or head of 8 bits is read as it is stored, as fast as it is small."""
    return isinstance(table, PackedWeight) and table.bits == 8 and cpu_native.supports(table, dtype)


def make_head(table: Tensor | PackedWeight, dtype: torch.dtype) -> LinearLayer:
    """The module that turns activations of `dtype` into logits by a [vocab, hidden] table."""
    if isinstance(table, PackedWeight) or cpu_native.supports(table, dtype):
        return NativeLinear(table, None)
    if table.dtype == torch.float16 and dtype == torch.bfloat16:
        return CpuHalfLinear(table, None)
    return DenseLinear(table, None)
