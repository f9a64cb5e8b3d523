"""Blocks of 256 columns stay packed, and give the same weights as gguf's own `dequantize`."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from gguf import GGMLQuantizationType as Kind
from gguf.quants import dequantize

from glmtui.engine.checkpoint.gguf.blocks import ITEM_BYTES, stored_kind, stored_parts
from support.tiny_llama import dequantize_stored

ROWS, BLOCKS = 7, 3
BYTES = {Kind.Q4_K: 144, Kind.Q6_K: 210}
FLOAT16_OFFSETS = {Kind.Q4_K: (0, 2), Kind.Q6_K: (208,)}  # in a block, in bytes


def random_blocks(kind: Kind) -> npt.NDArray[np.uint8]:
    random = np.random.default_rng(kind.value)
    rows = random.integers(0, 256, (ROWS, BLOCKS, BYTES[kind]), dtype=np.uint8)
    for at in FLOAT16_OFFSETS[kind]:
        halves = random.uniform(1e-4, 1e-2, (ROWS, BLOCKS, 1)).astype("<f2")
        rows[:, :, at : at + 2] = halves.view(np.uint8)
    return rows.reshape(ROWS, -1)


@pytest.mark.parametrize(
    ("kind", "stored", "group"), [(Kind.Q4_K, "int4 g32", 32), (Kind.Q6_K, "int8 g16", 16)]
)
def test_weights_differ_by_one_rounding_only(kind: Kind, stored: str, group: int) -> None:
    rows = random_blocks(kind)
    expected = dequantize(rows, kind)
    tensors: dict[str, npt.NDArray[Any]] = {
        "w" + p.suffix: p.convert(rows) for p in stored_parts(kind)
    }
    for part in stored_parts(kind):
        stored_tensor = tensors["w" + part.suffix]
        assert stored_tensor.shape == (ROWS, 256 * BLOCKS // part.columns_per_item)
        assert stored_tensor.itemsize == ITEM_BYTES[part.dtype]
    assert tensors["w.scale"].shape == (ROWS, 256 * BLOCKS // group)
    assert stored_kind(kind) == stored
    # scale and zero are each rounded to float16
    zero = np.repeat(np.abs(tensors.get("w.zero", np.zeros_like(tensors["w.scale"]))), group, 1)
    size = np.abs(expected) + 2 * zero
    error = np.abs(dequantize_stored(tensors, "w").astype(np.float64) - expected)
    assert (error <= 2.0**-10 * size + 1e-6).all()
    assert error.any()
