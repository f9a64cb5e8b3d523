"""GGUF's blocks of 256 columns, kept at their size: as gguf's own `dequantize` reads them."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from gguf import GGMLQuantizationType as Kind
from gguf.quants import dequantize

from glmtui.engine.checkpoint.gguf.blocks import WIDTH, stored_kind, stored_parts
from support.checkpoints import unpacked

ROWS, BLOCKS = 7, 3
BYTES = {Kind.Q4_K: 144, Kind.Q6_K: 210}
FACTORS = {Kind.Q4_K: (0, 2), Kind.Q6_K: (208,)}  # where a block's float16 numbers are


def random_blocks(kind: Kind) -> npt.NDArray[np.uint8]:
    random = np.random.default_rng(kind.value)
    rows = random.integers(0, 256, (ROWS, BLOCKS, BYTES[kind]), dtype=np.uint8)
    for at in FACTORS[kind]:
        halves = random.uniform(1e-4, 1e-2, (ROWS, BLOCKS, 1)).astype("<f2")
        rows[:, :, at : at + 2] = halves.view(np.uint8)
    return rows.reshape(ROWS, -1)


@pytest.mark.parametrize(
    ("kind", "stored", "group"), [(Kind.Q4_K, "int4 g32", 32), (Kind.Q6_K, "int8 g16", 16)]
)
def test_they_mean_the_same_but_for_one_rounding(kind: Kind, stored: str, group: int) -> None:
    rows = random_blocks(kind)
    meant = dequantize(rows, kind)
    tensors: dict[str, npt.NDArray[Any]] = {
        "w" + p.suffix: p.take(rows) for p in stored_parts(kind)
    }
    for part in stored_parts(kind):
        taken = tensors["w" + part.suffix]
        assert taken.shape == (ROWS, 256 * BLOCKS // part.per)
        assert taken.itemsize == WIDTH[part.dtype]
    assert tensors["w.scale"].shape == (ROWS, 256 * BLOCKS // group)
    assert stored_kind(kind) == stored
    # scale and zero are each rounded to float16
    zero = np.repeat(np.abs(tensors.get("w.zero", np.zeros_like(tensors["w.scale"]))), group, 1)
    size = np.abs(meant) + 2 * zero
    off = np.abs(unpacked(tensors, "w").astype(np.float64) - meant)
    assert (off <= 2.0**-10 * size + 1e-6).all()
    assert off.any()
