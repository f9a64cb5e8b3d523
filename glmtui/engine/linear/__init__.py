"""Linear layers by how and where their weight lies: `make_linear` picks the one that is fastest.

The loader swaps them in for a family's `layers.Slot`, as gpt-fast does. Attributes are plain ones,
not parameters or buffers, which Python finds faster. `plain` works everywhere, `cpu` has torch's
packed kernels, `cuda` and `cpm` those of GPUs, and `choice` uses none that did not prove itself.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from glmtui.engine.linear import cpm, cuda
from glmtui.engine.linear.choice import Choice
from glmtui.engine.linear.cpu import (
    INT4_GROUPS,
    CpuHalfLinear,
    CpuInt4Linear,
    CpuInt8Linear,
    packed_block,
)
from glmtui.engine.linear.plain import (
    GEMV_ROWS,
    Linear,
    LinearLayer,
    PackedLinear,
    ReorderedLinear,
)
from glmtui.engine.processor import product_dtype
from glmtui.engine.quant import PackedWeight, per_row

__all__ = [
    "GEMV_ROWS",
    "Choice",
    "CpuHalfLinear",
    "CpuInt4Linear",
    "CpuInt8Linear",
    "Linear",
    "LinearLayer",
    "PackedLinear",
    "ReorderedLinear",
    "kernel_choice",
    "make_head",
    "make_linear",
    "packed_block",
]


def make_linear(
    weight: Tensor | PackedWeight,
    bias: Tensor | None,
    dtype: torch.dtype,
    choice: Choice | None = None,
) -> LinearLayer:
    """The layer that multiplies with this weight fastest where it lies.

    Args:
        weight: [out, in], on the device that will hold it.
        bias: [out] or None.
        dtype: of the activations.
        choice: of kernels for packed weights on a GPU; without one they are unpacked at every use.
    """
    if bias is not None:
        bias = bias.to(dtype)
    if isinstance(weight, Tensor):
        weight = weight.to(dtype)
        slow = weight.device.type == "cpu" and dtype == torch.bfloat16 != product_dtype()
        return CpuHalfLinear(weight, bias) if slow else Linear(weight, bias)
    if weight.order is not None:
        inner = make_linear(replace(weight, order=None), bias, dtype, choice)
        return ReorderedLinear(inner, weight.order)
    if weight.q.device.type == "cpu" and dtype == torch.bfloat16:
        group = next((g for g in INT4_GROUPS if weight.group % g == 0), None)
        if weight.bits == 4 and group and packed_block():
            return CpuInt4Linear(weight.regrouped(group), bias)
        if weight.bits == 8:
            # torch's kernel knows no groups, and unpacking them for every token takes many times
            # as long; int8 loses next to nothing by a scale per row
            one_scale = weight.group == weight.in_features and weight.zero is None
            return CpuInt8Linear(weight if one_scale else per_row(weight), bias)
    if choice is not None and weight.q.device.type == "cuda":
        return choice.linear(weight, bias, dtype)
    return PackedLinear(weight, bias, dtype)


def kernel_choice(wanted: str, folder: Path, device: torch.device, dtype: torch.dtype) -> Choice:
    """What a model's packed weights are to be multiplied with on a GPU.

    Args:
        wanted: a key of `known.KERNELS`.
        folder: of the model.
        dtype: of the activations.

    Raises:
        EngineError: what is wanted cannot be had here; the message has the reason.
    """
    kernel = cpm.cpm_kernel(folder, device, dtype) if wanted == cpm.NAME else None
    return Choice(cuda.kernels(), wanted=kernel)


def make_head(table: Tensor, dtype: torch.dtype) -> Linear:
    """The module that turns activations of `dtype` into logits by a [vocab, hidden] table."""
    if table.dtype == torch.float16 and dtype == torch.bfloat16:
        return CpuHalfLinear(table, None)
    return Linear(table, None)
