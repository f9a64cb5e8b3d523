"""Triton kernels for packed weights, which are unpacked in registers.

`multiply` is for a few tokens and is limited by memory bandwidth. `unpack` writes the whole weight,
for a matrix product with many tokens. Triton comes with CUDA builds of torch; only `cuda` imports
this module. TRITON_INTERPRET=1 runs it on a CPU.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from glmtui.engine.nn.packed_weight import PackedWeight

ROWS = 4  # rows of the weight per program
STEP_BYTES = 512  # bytes of each row that a program reads at a time: 16 for each of its 128 threads
MIN_STRIP, MAX_STRIP = 16, 64  # columns
# Triton's defaults. Triton 3.9 warns on stderr if the second one is not given.
OPTIONS = {"num_warps": 4, "enable_fp_fusion": True}
# Limits of registers per thread, by number of tokens. A multiprocessor has 65,536 registers: 6, 4
# and 3 blocks of 128 threads fit. Without a limit, the assembler spills registers on sm_90 to fit
# a fifth block for 2 tokens.
REGISTERS = {1: 80, 2: 128, 4: 168}


def strip_size(weight: PackedWeight) -> int:
    """Columns per strip, a power of 2. The adjacent columns of a strip share one scale."""
    return math.gcd(weight.group, MAX_STRIP)


def strips_per_step(weight: PackedWeight) -> int:
    """Number of strips in STEP_BYTES of a row."""
    return STEP_BYTES * 8 // (weight.bits * strip_size(weight))


def supports(weight: PackedWeight) -> bool:
    return weight.order is None and strip_size(weight) >= MIN_STRIP


def multiply(x: Tensor, weight: PackedWeight, bias: Tensor | None) -> Tensor:
    """x @ W.T + bias, summed in float32.

    Args:
        x: [tokens, in], contiguous. Every token needs registers: use it for a few tokens only.
        weight: contiguous, on x's device.

    Returns:
        [tokens, out] in x's dtype.
    """
    rows, columns = weight.shape
    y = x.new_empty(x.shape[0], rows)
    tokens = triton.next_power_of_2(x.shape[0])
    _multiply[(triton.cdiv(rows, ROWS),)](
        x,
        weight.q,
        weight.scale,
        weight.scale if weight.zero is None else weight.zero,
        y if bias is None else bias,
        y,
        rows,
        columns,
        x.shape[0],
        BITS=weight.bits,
        GROUP=weight.group,
        STRIP=strip_size(weight),
        STRIPS=strips_per_step(weight),
        ROWS=ROWS,
        TOKENS=tokens,
        ZERO=weight.zero is not None,
        BIAS=bias is not None,
        maxnreg=REGISTERS.get(tokens),
        **OPTIONS,
    )
    return y


def unpack(weight: PackedWeight, dtype: torch.dtype) -> Tensor:
    """The weight, [out, in], computed in float32 and rounded once to `dtype`."""
    rows, columns = weight.shape
    unpacked = torch.empty(rows, columns, dtype=dtype, device=weight.q.device)
    steps = triton.cdiv(columns // strip_size(weight), strips_per_step(weight))
    _unpack[(triton.cdiv(rows, ROWS), steps)](
        weight.q,
        weight.scale,
        weight.scale if weight.zero is None else weight.zero,
        unpacked,
        rows,
        columns,
        BITS=weight.bits,
        GROUP=weight.group,
        STRIP=strip_size(weight),
        STRIPS=strips_per_step(weight),
        ROWS=ROWS,
        ZERO=weight.zero is not None,
        **OPTIONS,
    )
    return unpacked


@triton.jit
def _scales(
    scale,
    zero,
    row,
    strip,
    rows,
    columns,
    GROUP: tl.constexpr,
    STRIP: tl.constexpr,
    ZERO: tl.constexpr,
):
    """Scale and zero of each strip: float32 [ROWS, STRIPS]."""
    mask = (row < rows) & (strip * STRIP < columns)
    offset = row * (columns // GROUP) + (strip * STRIP) // GROUP
    s = tl.load(scale + offset, mask=mask, other=0).to(tl.float32)
    z = tl.zeros_like(s)
    if ZERO:
        z = tl.load(zero + offset, mask=mask, other=0).to(tl.float32)
    return s, z


@triton.jit
def _multiply(
    x,
    q,
    scale,
    zero,
    bias,
    y,
    rows,
    columns,
    tokens,
    BITS: tl.constexpr,
    GROUP: tl.constexpr,
    STRIP: tl.constexpr,
    STRIPS: tl.constexpr,
    ROWS: tl.constexpr,
    TOKENS: tl.constexpr,
    ZERO: tl.constexpr,
    BIAS: tl.constexpr,
):
    """Computes ROWS elements of y for every token.

    There is a separate sum for each byte of a step until the whole row has been read, so that sums
    are reduced across threads only once.
    """
    WIDTH: tl.constexpr = STRIP * BITS // 8  # bytes per strip
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)[:, None]
    token = tl.arange(0, TOKENS)[:, None, None, None]
    byte = tl.arange(0, WIDTH)
    row_start = row.to(tl.int64) * (columns * BITS // 8)
    total = tl.zeros((TOKENS, ROWS, STRIPS, WIDTH), dtype=tl.float32)
    for start in range(0, columns // STRIP, STRIPS):
        strip = start + tl.arange(0, STRIPS)[None, :]
        s, z = _scales(scale, zero, row, strip, rows, columns, GROUP, STRIP, ZERO)
        s, z = s[:, :, None], z[:, :, None]
        mask = ((row < rows) & (strip * STRIP < columns))[:, :, None]
        offset = (row_start + strip * WIDTH)[:, :, None] + byte
        packed = tl.load(q + offset, mask=mask, other=0)
        x_mask = (token < tokens) & (strip * STRIP < columns)[None, :, :, None]
        if BITS == 8:
            column = (strip * STRIP)[None, :, :, None] + byte
            activation = tl.load(x + token * columns + column, mask=x_mask, other=0).to(tl.float32)
            total += activation * (packed.to(tl.float32) * s + z)[None]
        else:
            column = (strip * STRIP)[None, :, :, None] + 2 * byte
            even = tl.load(x + token * columns + column, mask=x_mask, other=0).to(tl.float32)
            odd = tl.load(x + token * columns + column + 1, mask=x_mask, other=0).to(tl.float32)
            total += even * ((packed & 15).to(tl.float32) * s + z)[None]
            total += odd * ((packed >> 4).to(tl.float32) * s + z)[None]
    result = tl.sum(tl.sum(total, axis=3), axis=2)  # [TOKENS, ROWS]
    y_column = tl.program_id(0) * ROWS + tl.arange(0, ROWS)[None, :]
    if BIAS:
        result += tl.load(bias + y_column, mask=y_column < rows, other=0).to(tl.float32)
    token_row = tl.arange(0, TOKENS)[:, None]
    tl.store(
        y + token_row * rows + y_column,
        result.to(y.dtype.element_ty),
        mask=(token_row < tokens) & (y_column < rows),
    )


@triton.jit
def _unpack(
    q,
    scale,
    zero,
    unpacked,
    rows,
    columns,
    BITS: tl.constexpr,
    GROUP: tl.constexpr,
    STRIP: tl.constexpr,
    STRIPS: tl.constexpr,
    ROWS: tl.constexpr,
    ZERO: tl.constexpr,
):
    """Unpacks ROWS x STRIPS strips of the weight."""
    WIDTH: tl.constexpr = STRIP * BITS // 8
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)[:, None]
    strip = tl.program_id(1) * STRIPS + tl.arange(0, STRIPS)[None, :]
    byte = tl.arange(0, WIDTH)
    s, z = _scales(scale, zero, row, strip, rows, columns, GROUP, STRIP, ZERO)
    s, z = s[:, :, None], z[:, :, None]
    mask = ((row < rows) & (strip * STRIP < columns))[:, :, None]
    offset = (row.to(tl.int64) * (columns * BITS // 8) + strip * WIDTH)[:, :, None] + byte
    packed = tl.load(q + offset, mask=mask, other=0)
    if BITS == 8:
        number = packed.to(tl.float32) * s + z
    else:
        low = (packed & 15).to(tl.float32) * s + z
        number = tl.interleave(low, (packed >> 4).to(tl.float32) * s + z)
    offset = (row.to(tl.int64) * columns + strip * STRIP)[:, :, None] + tl.arange(0, STRIP)
    tl.store(unpacked + offset, number.to(unpacked.dtype.element_ty), mask=mask)
