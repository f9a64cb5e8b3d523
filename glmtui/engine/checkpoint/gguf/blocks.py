"""How the blocks of a GGUF tensor become tensors of a prepared folder, bit by bit.

A packed weight NAME is
    int4  NAME uint8 [out, in / 2], even column in the low nibble, q in 0..15; w = q * scale + zero
    int8  NAME int8 [out, in]; w = q * scale
with NAME.scale and NAME.zero float16 [out, in / group]. Of Q4_0, Q4_1 and Q8_0 these are GGUF's own
numbers, so nothing is lost; of Q4_K and Q6_K they are products of two of its numbers, rounded once.
F32, F16 and BF16 stay as they are; any other kind of block is unpacked to float16. Knows no model
and writes no file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import numpy.typing as npt
from gguf.constants import GGML_QUANT_SIZES
from gguf.constants import GGMLQuantizationType as Kind
from gguf.quants import dequantize

from glmtui.engine.checkpoint.gguf.file import Bytes

Array = npt.NDArray[Any]

GROUP = 32  # columns that share a scale, in Q4_0, Q4_1, Q8_0 and Q4_K
SMALL_GROUP = 16  # in Q6_K
Q4_K_BYTES, Q6_K_BYTES = 144, 210  # of a block of 256 columns


@dataclass(frozen=True, slots=True)
class StoredPart:
    """One stored tensor made from a GGUF tensor.

    Attributes:
        suffix: what its name has after the weight's.
        dtype: as safetensors spells it.
        per: columns of the weight that one column of this part covers.
        take: uint8 [rows, bytes] of the file -> [rows, columns / per] of `dtype`.
    """

    suffix: str
    dtype: str
    per: int
    take: Callable[[Bytes], Array]


WIDTH = {
    "F32": 4,
    "F16": 2,
    "BF16": 2,
    "U8": 1,
    "I8": 1,
}  # bytes of each dtype a StoredPart can have


def _half(rows: Bytes, block_bytes: int, at: int) -> Array:
    """The float16 at byte `at` of each block."""
    blocks = rows.reshape(len(rows), -1, block_bytes)
    return cast(Array, blocks[:, :, at : at + 2].copy().view("<f2")[:, :, 0])


def _nibbles(rows: Bytes, block_bytes: int) -> Array:
    """The 4-bit numbers that end each block, neighbours paired.

    GGUF keeps columns 0-15 of a block in the low nibbles of its 16 bytes and 16-31 in the high.
    """
    packed = rows.reshape(len(rows), -1, block_bytes)[:, :, -GROUP // 2 :]
    return _paired(np.concatenate([packed & 15, packed >> 4], axis=-1))


def _paired(columns: Array) -> Array:
    """4-bit numbers [rows, ..., n] as bytes [rows, all / 2], the even column in the low half."""
    packed = columns[..., 0::2] | columns[..., 1::2] << 4
    return cast(Array, packed.reshape(len(packed), -1))


def _bytes(rows: Bytes, block_bytes: int) -> Array:
    blocks = rows.reshape(len(rows), -1, block_bytes)
    return blocks[:, :, -GROUP:].reshape(len(rows), -1).view(np.int8)


# ---- the blocks of 256 columns, as `dequantize_blocks` of gguf.quants reads them


def _blocks(rows: Bytes, block_bytes: int) -> Array:
    return cast(Array, rows.reshape(len(rows), -1, block_bytes))


def _float(blocks: Array, at: int) -> Array:
    """The float16 at byte `at` of each block: float32 [rows, blocks, 1]."""
    return cast(Array, blocks[:, :, at : at + 2].copy().view("<f2").astype(np.float32))


def _q4_k_sixes(blocks: Array, at: int) -> Array:
    """Eight 6-bit numbers of each block: the factors of the scales (at 0) or of the minima (at 4).

    Of twelve bytes the first four hold four factors of scales and in their highest bits the rest
    of the other four; the next four do the same for minima; the last hold what those lack.
    """
    own = blocks[:, :, 4 + at : 8 + at]
    shared = blocks[:, :, 12:16]
    others = (shared >> 4 if at else shared & 15) | (own >> 2 & 0x30)
    return np.concatenate([own & 0x3F, others], axis=-1).astype(np.float32)


def _q4_k_numbers(rows: Bytes) -> Array:
    """Runs of 32 bytes hold two groups of columns, one in the low halves, one in the high."""
    runs = _blocks(rows, Q4_K_BYTES)[:, :, 16:].reshape(len(rows), -1, 1, GROUP)
    return _paired(np.concatenate([runs & 15, runs >> 4], axis=2))


def _q4_k_scales(rows: Bytes) -> Array:
    blocks = _blocks(rows, Q4_K_BYTES)
    return (_float(blocks, 0) * _q4_k_sixes(blocks, 0)).reshape(len(rows), -1)


def _q4_k_zeros(rows: Bytes) -> Array:
    blocks = _blocks(rows, Q4_K_BYTES)
    return (-_float(blocks, 2) * _q4_k_sixes(blocks, 4)).reshape(len(rows), -1)


def _q6_k_numbers(rows: Bytes) -> Array:
    """Four low bits from 128 bytes, two high ones from 64, less 32."""
    blocks = _blocks(rows, Q6_K_BYTES)
    low = blocks[:, :, :128].reshape(len(rows), -1, 2, 1, 64)
    low = np.concatenate([low & 15, low >> 4], axis=3).reshape(len(rows), -1, 2, 4, 32)
    high = blocks[:, :, 128:192].reshape(len(rows), -1, 2, 1, 32)
    high = np.concatenate([high >> shift & 3 for shift in (0, 2, 4, 6)], axis=3)
    numbers = (low | high << 4).view(np.int8) - np.int8(32)
    return cast(Array, numbers.reshape(len(rows), -1))


def _q6_k_scales(rows: Bytes) -> Array:
    blocks = _blocks(rows, Q6_K_BYTES)
    factors = blocks[:, :, 192:208].view(np.int8).astype(np.float32)
    return (_float(blocks, 208) * factors).reshape(len(rows), -1)


# Q4_0 is (q - 8) * d; its zero -8d is d with another exponent, so float16 holds it exactly.
LAYOUTS: Mapping[Kind, tuple[StoredPart, ...]] = {
    Kind.F32: (StoredPart("", "F32", 1, lambda rows: rows.view("<f4")),),
    Kind.F16: (StoredPart("", "F16", 1, lambda rows: rows.view("<f2")),),
    Kind.BF16: (StoredPart("", "BF16", 1, lambda rows: rows.view("<u2")),),
    Kind.Q4_0: (
        StoredPart("", "U8", 2, lambda rows: _nibbles(rows, 18)),
        StoredPart(".scale", "F16", GROUP, lambda rows: _half(rows, 18, 0)),
        StoredPart(".zero", "F16", GROUP, lambda rows: _half(rows, 18, 0) * np.float16(-8)),
    ),
    Kind.Q4_1: (
        StoredPart("", "U8", 2, lambda rows: _nibbles(rows, 20)),
        StoredPart(".scale", "F16", GROUP, lambda rows: _half(rows, 20, 0)),
        StoredPart(".zero", "F16", GROUP, lambda rows: _half(rows, 20, 2)),
    ),
    Kind.Q8_0: (
        StoredPart("", "I8", 1, lambda rows: _bytes(rows, 34)),
        StoredPart(".scale", "F16", GROUP, lambda rows: _half(rows, 34, 0)),
    ),
    Kind.Q4_K: (
        StoredPart("", "U8", 2, _q4_k_numbers),
        StoredPart(".scale", "F16", GROUP, lambda rows: _q4_k_scales(rows).astype("<f2")),
        StoredPart(".zero", "F16", GROUP, lambda rows: _q4_k_zeros(rows).astype("<f2")),
    ),
    Kind.Q6_K: (
        StoredPart("", "I8", 1, _q6_k_numbers),
        StoredPart(".scale", "F16", SMALL_GROUP, lambda rows: _q6_k_scales(rows).astype("<f2")),
    ),
}
STORED: Mapping[Kind, str] = {
    Kind.F32: "float32",
    Kind.F16: "float16",
    Kind.BF16: "bfloat16",
    Kind.Q4_0: f"int4 g{GROUP}",
    Kind.Q4_1: f"int4 g{GROUP}",
    Kind.Q8_0: f"int8 g{GROUP}",
    Kind.Q4_K: f"int4 g{GROUP}",
    Kind.Q6_K: f"int8 g{SMALL_GROUP}",
}


def stored_parts(kind: Kind) -> tuple[StoredPart, ...]:
    """The parts a tensor of this kind is kept in. Raises NotImplementedError: none can hold it."""
    if kind in LAYOUTS:
        return LAYOUTS[kind]
    dequantize(np.zeros((1, GGML_QUANT_SIZES[kind][1]), np.uint8), kind)  # can it be unpacked?
    return (StoredPart("", "F16", 1, lambda rows: dequantize(rows, kind).astype("<f2")),)


def stored_kind(kind: Kind) -> str:
    """What a person reads about it: "int4 g32", "float16 (from Q5_1)"."""
    return STORED.get(kind, f"float16 (from {kind.name})")
