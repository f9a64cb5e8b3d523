"""The dtype in which this CPU multiplies matrices fastest."""

from __future__ import annotations

import functools

import torch

from glmtui.engine.hardware.cpu import isa_limit


@functools.cache
def product_dtype() -> torch.dtype:
    """The dtype in which torch is fastest at products of matrices with many rows.

    bfloat16 if oneDNN has kernels for it (AVX-512, AMX, SVE). On CPUs without them, such as those
    with only AVX2, products in bfloat16 and float16 are not vectorized and take six times as long
    as in float32.
    """
    if isa_limit() in ("none", "avx2"):
        return torch.float32
    try:
        has_bf16_kernels = torch.ops.mkldnn._is_mkldnn_bf16_supported()
    except (AttributeError, RuntimeError):  # torch was built without oneDNN
        has_bf16_kernels = False
    return torch.bfloat16 if has_bf16_kernels else torch.float32
