"""Quantization of weights by the compiled kernel, in one pass over the memory."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from glmtui.engine.nn.native.library import CLinear, available, check_status, library, pointer

DTYPE_CODES = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}  # Dtype in quantize.c


def can_quantize(weight: Tensor, group: int) -> bool:
    """Whether `quantize_into` supports a weight, [out, in], with groups of this many columns."""
    on_cpu = weight.device.type == "cpu" and weight.is_contiguous()
    return on_cpu and weight.dtype in DTYPE_CODES and group % 8 == 0 and available()


def quantize_into(
    q: Tensor, scale: Tensor, zero: Tensor | None, weight: Tensor, least_scale: float
) -> None:
    """Fills the tensors of a `PackedWeight`, as `packed_weight.quantize` does without importance.

    Args:
        q: uint8 [out, in / 2] with `zero`, or int8 [out, in] without.
        scale, zero: float16 [out, groups].
        least_scale: lower limit of the scales.
    """
    rows, columns = weight.shape
    bits = 8 if zero is None else 4
    group = columns // scale.shape[1]
    packed = CLinear(pointer(q), pointer(scale), pointer(zero), None, rows, columns, group, bits)
    dtype, threads = DTYPE_CODES[weight.dtype], torch.get_num_threads()
    check_status(
        library().quantize(ctypes.byref(packed), weight.data_ptr(), least_scale, dtype, threads)
    )
