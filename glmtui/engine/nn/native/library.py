"""The compiled library as ctypes sees it: signatures of its functions, and its structures.

The structures must match those in linear.h and decoder_step.c.
"""

from __future__ import annotations

import ctypes
import functools
from ctypes import c_float, c_int, c_int32, c_int64, c_long, c_void_p

from torch import Tensor

from glmtui.engine.nn.native.build import build_kernels

INVALID_SIZES = -2  # return value, see linear.h


@functools.cache
def available() -> bool:
    """Whether this machine has the kernels. The first call compiles them if necessary."""
    return build_kernels().library is not None


@functools.cache
def library() -> ctypes.CDLL:
    """The library with its signatures declared. Call it only if `available()`."""
    loaded = build_kernels().library
    assert loaded is not None, "call available() first"
    loaded.linear.argtypes = [c_void_p, c_void_p, c_void_p, c_long, c_int]
    loaded.unpack.argtypes = [c_void_p, c_void_p, c_long, c_long, c_int, c_int]
    loaded.quantize.argtypes = [c_void_p, c_void_p, c_float, c_int, c_int]
    loaded.decoder_step.argtypes = [*[c_void_p] * 6, c_int]
    loaded.use_isa.argtypes = [c_int]
    return loaded


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
        *((name, c_int64) for name in ("depth", "hidden", "inner")),
        *((name, c_int64) for name in ("heads", "kv_heads", "head_size")),
        ("eps", c_float),
        ("rotate_halves", c_int32),
    )


class CStep(ctypes.Structure):
    _fields_ = (
        *((name, c_void_p) for name in ("cos", "sin")),
        *((name, c_int64) for name in ("tokens", "allocated", "offset")),
        ("threads", c_int32),
    )


def pointer(tensor: Tensor | None) -> int | None:
    """The address of a tensor's first element; NULL for None."""
    return None if tensor is None else tensor.data_ptr()


def check_status(status: int) -> None:
    """Checks the return value of a kernel.

    Raises:
        MemoryError: the kernel could not allocate memory.
        ValueError: sizes or ids were out of range; nothing was computed.
    """
    if status == INVALID_SIZES:
        raise ValueError("the compiled kernels do not support these sizes")
    if status:
        raise MemoryError
