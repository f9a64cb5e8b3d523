"""The compiled library as ctypes sees it: functions with their arguments, and their structures.

Structures are those of linear.h and prenorm.c. Knows addresses, and of tensors only theirs.
"""

from __future__ import annotations

import ctypes
import functools
from ctypes import c_float, c_int, c_int32, c_int64, c_long, c_void_p

from torch import Tensor

from glmtui.engine.nn.native.build import build_kernels

REFUSED = -2  # see linear.h


@functools.cache
def available() -> bool:
    """Whether there are kernels on this machine; they are compiled if need be."""
    return build_kernels().library is not None


@functools.cache
def library() -> ctypes.CDLL:
    """Only where `available`."""
    found = build_kernels().library
    assert found is not None, "available() was not asked"
    found.linear.argtypes = [c_void_p, c_void_p, c_void_p, c_long, c_int]
    found.unpack.argtypes = [c_void_p, c_void_p, c_long, c_long, c_int, c_int]
    found.quantize.argtypes = [c_void_p, c_void_p, c_float, c_int, c_int]
    found.prenorm_step.argtypes = [*[c_void_p] * 6, c_int]
    found.use_isa.argtypes = [c_int]
    return found


class CLinear(ctypes.Structure):
    _fields_ = (
        *((name, c_void_p) for name in ("q", "scale", "zero", "bias")),
        *((name, c_int64) for name in ("rows", "columns", "group")),
        *((name, c_int32) for name in ("bits", "is_bf16")),
    )


class CLayer(ctypes.Structure):
    _fields_ = (
        *((name, c_void_p) for name in ("attention_norm", "mlp_norm")),
        *((name, CLinear) for name in ("qkv", "out", "gate_up", "down")),
    )


class CDecoder(ctypes.Structure):
    _fields_ = (
        *((name, c_void_p) for name in ("layers", "norm")),
        *((name, CLinear) for name in ("embedding", "head")),
        *((name, c_int64) for name in ("depth", "hidden", "inner", "heads", "kv_heads", "size")),
        ("eps", c_float),
        ("halves", c_int32),
    )


class CStep(ctypes.Structure):
    _fields_ = (
        *((name, c_void_p) for name in ("cos", "sin")),
        *((name, c_int64) for name in ("tokens", "room", "offset")),
        ("threads", c_int32),
    )


def pointer(tensor: Tensor | None) -> int | None:
    """Where a tensor's numbers begin; None is no pointer."""
    return None if tensor is None else tensor.data_ptr()


def check_status(result: int) -> None:
    """Looks at what a kernel returned.

    Raises:
        MemoryError: it could not allocate.
        ValueError: sizes that it does not take, or ids beyond the vocabulary; nothing was computed.
    """
    if result == REFUSED:
        raise ValueError("the compiled kernels do not take these sizes")
    if result:
        raise MemoryError
