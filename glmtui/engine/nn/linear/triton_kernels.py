"""Products with packed weights in Triton, which reads them small and unpacks them in registers.

`multiply` is for a few rows of activations and is bound by reading the weight; `unpack` writes the
weight out whole, for a matrix product of many rows. Both take what `packs` says. Triton comes with
torch for CUDA and compiles at the first use; nothing else imports this file. `TRITON_INTERPRET=1`
runs it on a CPU, slowly.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from glmtui.engine.nn.packed_weight import PackedWeight

ROWS = 4  # of the weight, to a program
STEP = 512  # bytes of each row that a program reads at once: 16 for each of its 128 threads
LEAST_STRIP, MOST_STRIP = 16, 64  # columns
# the defaults of Triton so far; unsaid, Triton 3.9 warns on stderr that the second will change
OPTIONS = {"num_warps": 4, "enable_fp_fusion": True}
# Most registers of a thread, by tokens. A multiprocessor has 65,536 for its blocks of 128 threads:
# these let it hold 6, 4 and 3. Unsaid, the assembler spills on sm_90 to fit a fifth for 2 tokens.
REGISTERS = {1: 80, 2: 128, 4: 168}


def strip(weight: PackedWeight) -> int:
    """How many neighbouring columns, a power of 2, are read with one scale."""
    return math.gcd(weight.group, MOST_STRIP)


def strips(weight: PackedWeight) -> int:
    """How many strips of a row make a STEP."""
    return STEP * 8 // (weight.bits * strip(weight))


def packs(weight: PackedWeight) -> bool:
    """Whether the kernels here can read this weight."""
    return weight.order is None and strip(weight) >= LEAST_STRIP


def multiply(x: Tensor, weight: PackedWeight, bias: Tensor | None) -> Tensor:
    """x @ W.T + bias, summed in float32.

    Args:
        x: [tokens, in], contiguous; each row costs registers, so these are few.
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
        STRIP=strip(weight),
        STRIPS=strips(weight),
        ROWS=ROWS,
        TOKENS=tokens,
        ZERO=weight.zero is not None,
        BIAS=bias is not None,
        maxnreg=REGISTERS.get(tokens),
        **OPTIONS,
    )
    return y


def unpack(weight: PackedWeight, dtype: torch.dtype) -> Tensor:
    """The weight it stands for, [out, in]; computed in float32 and rounded once."""
    rows, columns = weight.shape
    whole = torch.empty(rows, columns, dtype=dtype, device=weight.q.device)
    steps = triton.cdiv(columns // strip(weight), strips(weight))
    _unpack[(triton.cdiv(rows, ROWS), steps)](
        weight.q,
        weight.scale,
        weight.scale if weight.zero is None else weight.zero,
        whole,
        rows,
        columns,
        BITS=weight.bits,
        GROUP=weight.group,
        STRIP=strip(weight),
        STRIPS=strips(weight),
        ROWS=ROWS,
        ZERO=weight.zero is not None,
        **OPTIONS,
    )
    return whole


@triton.jit
def _scales(
    scale,
    zero,
    row,
    at,
    rows,
    columns,
    GROUP: tl.constexpr,
    STRIP: tl.constexpr,
    ZERO: tl.constexpr,
):
    """Scale and zero of each strip: float32 [ROWS, STRIPS]."""
    inside = (row < rows) & (at * STRIP < columns)
    place = row * (columns // GROUP) + (at * STRIP) // GROUP
    s = tl.load(scale + place, mask=inside, other=0).to(tl.float32)
    z = tl.zeros_like(s)
    if ZERO:
        z = tl.load(zero + place, mask=inside, other=0).to(tl.float32)
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
    """ROWS numbers of y for every token.

    The sums stay apart, one to each byte of the weight, until the row is read: adding up across
    threads happens once.
    """
    WIDTH: tl.constexpr = STRIP * BITS // 8  # bytes of a strip
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)[:, None]
    token = tl.arange(0, TOKENS)[:, None, None, None]
    byte = tl.arange(0, WIDTH)
    first = row.to(tl.int64) * (columns * BITS // 8)
    total = tl.zeros((TOKENS, ROWS, STRIPS, WIDTH), dtype=tl.float32)
    for start in range(0, columns // STRIP, STRIPS):
        at = start + tl.arange(0, STRIPS)[None, :]
        s, z = _scales(scale, zero, row, at, rows, columns, GROUP, STRIP, ZERO)
        s, z = s[:, :, None], z[:, :, None]
        inside = ((row < rows) & (at * STRIP < columns))[:, :, None]
        place = (first + at * WIDTH)[:, :, None] + byte
        packed = tl.load(q + place, mask=inside, other=0)
        there = (token < tokens) & (at * STRIP < columns)[None, :, :, None]
        if BITS == 8:
            column = (at * STRIP)[None, :, :, None] + byte
            some = tl.load(x + token * columns + column, mask=there, other=0).to(tl.float32)
            total += some * (packed.to(tl.float32) * s + z)[None]
        else:
            column = (at * STRIP)[None, :, :, None] + 2 * byte
            even = tl.load(x + token * columns + column, mask=there, other=0).to(tl.float32)
            odd = tl.load(x + token * columns + column + 1, mask=there, other=0).to(tl.float32)
            total += even * ((packed & 15).to(tl.float32) * s + z)[None]
            total += odd * ((packed >> 4).to(tl.float32) * s + z)[None]
    numbers = tl.sum(tl.sum(total, axis=3), axis=2)  # [TOKENS, ROWS]
    out = tl.program_id(0) * ROWS + tl.arange(0, ROWS)[None, :]
    if BIAS:
        numbers += tl.load(bias + out, mask=out < rows, other=0).to(tl.float32)
    of = tl.arange(0, TOKENS)[:, None]
    tl.store(y + of * rows + out, numbers.to(y.dtype.element_ty), mask=(of < tokens) & (out < rows))


@triton.jit
def _unpack(
    q,
    scale,
    zero,
    whole,
    rows,
    columns,
    BITS: tl.constexpr,
    GROUP: tl.constexpr,
    STRIP: tl.constexpr,
    STRIPS: tl.constexpr,
    ROWS: tl.constexpr,
    ZERO: tl.constexpr,
):
    """ROWS x STRIPS strips of the whole weight."""
    WIDTH: tl.constexpr = STRIP * BITS // 8
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)[:, None]
    at = tl.program_id(1) * STRIPS + tl.arange(0, STRIPS)[None, :]
    byte = tl.arange(0, WIDTH)
    s, z = _scales(scale, zero, row, at, rows, columns, GROUP, STRIP, ZERO)
    s, z = s[:, :, None], z[:, :, None]
    inside = ((row < rows) & (at * STRIP < columns))[:, :, None]
    place = (row.to(tl.int64) * (columns * BITS // 8) + at * WIDTH)[:, :, None] + byte
    packed = tl.load(q + place, mask=inside, other=0)
    if BITS == 8:
        number = packed.to(tl.float32) * s + z
    else:
        low = (packed & 15).to(tl.float32) * s + z
        number = tl.interleave(low, (packed >> 4).to(tl.float32) * s + z)
    place = (row.to(tl.int64) * columns + at * STRIP)[:, :, None] + tl.arange(0, STRIP)
    tl.store(whole + place, number.to(whole.dtype.element_ty), mask=inside)
