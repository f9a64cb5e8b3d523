"""What this CPU is good at. Knows no model."""

from __future__ import annotations

import functools

import torch

from glmtui.engine.hardware.cpu import isa_limit


@functools.cache
def product_dtype() -> torch.dtype:
    """The dtype in which torch multiplies matrices of many rows fastest.

    bfloat16 where oneDNN has kernels for it (AVX-512, AMX, SVE). Elsewhere, as on every CPU with
    AVX2 and no more, bfloat16 and float16 take a path without vectors, six times slower than
    float32.
    """
    if isa_limit() in ("none", "avx2"):
        return torch.float32
    try:
        fast = torch.ops.mkldnn._is_mkldnn_bf16_supported()
    except (AttributeError, RuntimeError):  # a build without oneDNN
        fast = False
    return torch.bfloat16 if fast else torch.float32
