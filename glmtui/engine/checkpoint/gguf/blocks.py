"""Converts GGUF's tensors to those of a prepared folder, as far as possible without loss.

A packed weight NAME is stored as

    int4  NAME uint8 [out, in / 2], even column in the low nibble, q in 0..15; w = q * scale + zero
    int8  NAME int8 [out, in]; w = q * scale

with NAME.scale and NAME.zero float16 [out, in / group]. For Q4_0, Q4_1 and Q8_0 these are exactly
the numbers in the file; for Q4_K and Q6_K scale and zero are products of two numbers in the file,
rounded once. F32, F16 and BF16 stay as they are; other block types are unpacked to float16.
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

GROUP = 32  # columns that share a scale in Q4_0, Q4_1, Q8_0 and Q4_K
SMALL_GROUP = 16  # the same in Q6_K
Q4_0_BYTES, Q4_1_BYTES, Q8_0_BYTES = 18, 20, 34  # of a block of 32 columns
Q4_K_BYTES, Q6_K_BYTES = 144, 210  # of a block of 256 columns


@dataclass(frozen=True, slots=True)
class StoredPart:
    """One stored tensor that is made from a GGUF tensor.

    Attributes:
        suffix: appended to the weight's name.
        dtype: as safetensors spells it.
        columns_per_item: columns of the weight for each column of this tensor.
        convert: uint8 [rows, bytes] of the file -> [rows, columns / columns_per_item] of `dtype`.
    """

    suffix: str
    dtype: str
    columns_per_item: int
    convert: Callable[[Bytes], Array]


ITEM_BYTES = {"F32": 4, "F16": 2, "BF16": 2, "U8": 1, "I8": 1}  # by `StoredPart.dtype`


def _blocks(rows: Bytes, block_bytes: int) -> Array:
    return cast(Array, rows.reshape(len(rows), -1, block_bytes))


def _read_float16(rows: Bytes, block_bytes: int, at: int) -> Array:
    """The float16 at byte `at` of each block: [rows, blocks]."""
    return cast(Array, _blocks(rows, block_bytes)[:, :, at : at + 2].copy().view("<f2")[:, :, 0])


def _pack_nibbles(columns: Array) -> Array:
    """4-bit numbers [rows, ..., n] as bytes [rows, all / 2], the even column in the low nibble."""
    packed = columns[..., 0::2] | columns[..., 1::2] << 4
    return cast(Array, packed.reshape(len(packed), -1))


def _q4_weights(rows: Bytes, block_bytes: int) -> Array:
    """The weights of Q4_0 and Q4_1, which are the last 16 bytes of a block.

    Their low nibbles are columns 0 to 15 and their high nibbles columns 16 to 31.
    """
    packed = _blocks(rows, block_bytes)[:, :, -GROUP // 2 :]
    return _pack_nibbles(np.concatenate([packed & 15, packed >> 4], axis=-1))


def _q8_0_weights(rows: Bytes) -> Array:
    return _blocks(rows, Q8_0_BYTES)[:, :, -GROUP:].reshape(len(rows), -1).view(np.int8)


# ---- blocks of 256 columns; the layouts are those of `dequantize_blocks` in gguf.quants


def _q4_k_factors(rows: Bytes, *, of_minima: bool) -> Array:
    """The 6-bit factors of the scales or of the minima: float32 [rows, blocks, 8].

    They are packed in 12 bytes. Bytes 0 to 3 hold four factors of scales, bytes 4 to 7 four of
    minima, in 6 bits each; the two bits that are left are the high bits of the other four factors,
    whose low nibbles (scales) and high nibbles (minima) are in bytes 8 to 11.
    """
    blocks = _blocks(rows, Q4_K_BYTES)
    start = 8 if of_minima else 4
    first = blocks[:, :, start : start + 4]
    low_bits = blocks[:, :, 12:16] >> 4 if of_minima else blocks[:, :, 12:16] & 15
    others = low_bits | (first >> 2 & 0x30)
    return np.concatenate([first & 0x3F, others], axis=-1).astype(np.float32)


def _q4_k_weights(rows: Bytes) -> Array:
    """Each run of 32 bytes holds two groups of columns: in the low nibbles and in the high ones."""
    runs = _blocks(rows, Q4_K_BYTES)[:, :, 16:].reshape(len(rows), -1, 1, GROUP)
    return _pack_nibbles(np.concatenate([runs & 15, runs >> 4], axis=2))


def _q4_k_scales(rows: Bytes) -> Array:
    scale = _read_float16(rows, Q4_K_BYTES, 0).astype(np.float32)[..., None]
    factors = _q4_k_factors(rows, of_minima=False)
    return (scale * factors).reshape(len(rows), -1).astype("<f2")


def _q4_k_zeros(rows: Bytes) -> Array:
    minimum = _read_float16(rows, Q4_K_BYTES, 2).astype(np.float32)[..., None]
    factors = _q4_k_factors(rows, of_minima=True)
    return (-minimum * factors).reshape(len(rows), -1).astype("<f2")


def _q6_k_weights(rows: Bytes) -> Array:
    """Low 4 bits from 128 bytes, high 2 bits from 64 bytes; 32 is subtracted."""
    blocks = _blocks(rows, Q6_K_BYTES)
    low = blocks[:, :, :128].reshape(len(rows), -1, 2, 1, 64)
    low = np.concatenate([low & 15, low >> 4], axis=3).reshape(len(rows), -1, 2, 4, 32)
    high = blocks[:, :, 128:192].reshape(len(rows), -1, 2, 1, 32)
    high = np.concatenate([high >> shift & 3 for shift in (0, 2, 4, 6)], axis=3)
    numbers = (low | high << 4).view(np.int8) - np.int8(32)
    return cast(Array, numbers.reshape(len(rows), -1))


def _q6_k_scales(rows: Bytes) -> Array:
    scale = _read_float16(rows, Q6_K_BYTES, 208).astype(np.float32)[..., None]
    factors = _blocks(rows, Q6_K_BYTES)[:, :, 192:208].view(np.int8).astype(np.float32)
    return (scale * factors).reshape(len(rows), -1).astype("<f2")


# Q4_0 means (q - 8) * d. Its zero, -8 * d, only has another exponent, so float16 is exact.
LAYOUTS: Mapping[Kind, tuple[StoredPart, ...]] = {
    Kind.F32: (StoredPart("", "F32", 1, lambda rows: rows.view("<f4")),),
    Kind.F16: (StoredPart("", "F16", 1, lambda rows: rows.view("<f2")),),
    Kind.BF16: (StoredPart("", "BF16", 1, lambda rows: rows.view("<u2")),),
    Kind.Q4_0: (
        StoredPart("", "U8", 2, lambda rows: _q4_weights(rows, Q4_0_BYTES)),
        StoredPart(".scale", "F16", GROUP, lambda rows: _read_float16(rows, Q4_0_BYTES, 0)),
        StoredPart(
            ".zero", "F16", GROUP, lambda rows: _read_float16(rows, Q4_0_BYTES, 0) * np.float16(-8)
        ),
    ),
    Kind.Q4_1: (
        StoredPart("", "U8", 2, lambda rows: _q4_weights(rows, Q4_1_BYTES)),
        StoredPart(".scale", "F16", GROUP, lambda rows: _read_float16(rows, Q4_1_BYTES, 0)),
        StoredPart(".zero", "F16", GROUP, lambda rows: _read_float16(rows, Q4_1_BYTES, 2)),
    ),
    Kind.Q8_0: (
        StoredPart("", "I8", 1, _q8_0_weights),
        StoredPart(".scale", "F16", GROUP, lambda rows: _read_float16(rows, Q8_0_BYTES, 0)),
    ),
    Kind.Q4_K: (
        StoredPart("", "U8", 2, _q4_k_weights),
        StoredPart(".scale", "F16", GROUP, _q4_k_scales),
        StoredPart(".zero", "F16", GROUP, _q4_k_zeros),
    ),
    Kind.Q6_K: (
        StoredPart("", "I8", 1, _q6_k_weights),
        StoredPart(".scale", "F16", SMALL_GROUP, _q6_k_scales),
    ),
}
KIND_NAMES: Mapping[Kind, str] = {
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
    """The tensors to store for a GGUF tensor of this kind.

    Raises:
        NotImplementedError: the kind cannot be unpacked.
    """
    if kind in LAYOUTS:
        return LAYOUTS[kind]
    dequantize(np.zeros((1, GGML_QUANT_SIZES[kind][1]), np.uint8), kind)  # raises if unsupported
    return (StoredPart("", "F16", 1, lambda rows: dequantize(rows, kind).astype("<f2")),)


def stored_kind(kind: Kind) -> str:
    """How it is stored, for display: "int4 g32", "float16 (from Q5_1)"."""
    return KIND_NAMES.get(kind, f"float16 (from {kind.name})")
