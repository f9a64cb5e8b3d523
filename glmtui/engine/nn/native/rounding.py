"""Rounding of whole weights by the compiled kernel, in one sweep. Knows bare tensors."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from glmtui.engine.nn.native.library import CLinear, available, check_status, library, pointer

KINDS = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}


def can_quantize(weight: Tensor, group: int) -> bool:
    """Whether `quantize_into` takes a weight, [out, in], in such groups of columns."""
    here = weight.device.type == "cpu" and weight.is_contiguous()
    return here and weight.dtype in KINDS and group % 8 == 0 and available()


def quantize_into(
    q: Tensor, scale: Tensor, zero: Tensor | None, weight: Tensor, least_scale: float
) -> None:
    """Fills what `quant.PackedWeight` is made of, as `quant.quantize` describes.

    Args:
        q: uint8 [out, in / 2], two numbers to a byte, with zeros; or int8 [out, in] without.
        scale, zero: float16 [out, groups].
        least_scale: what no scale goes below.
    """
    rows, columns = weight.shape
    bits = 8 if zero is None else 4
    to = CLinear(
        pointer(q),
        pointer(scale),
        pointer(zero),
        None,
        rows,
        columns,
        columns // scale.shape[1],
        bits,
    )
    kind, threads = KINDS[weight.dtype], torch.get_num_threads()
    check_status(
        library().quantize(ctypes.byref(to), weight.data_ptr(), least_scale, kind, threads)
    )
