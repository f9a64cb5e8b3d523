"""Weights drawn at random, whole and packed."""

from __future__ import annotations

import torch
from torch import Tensor

from glmtui.engine.nn.packed_weight import PackedWeight


def normal(rows: int, columns: int, seed: int = 0) -> Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


def int4(rows: int, columns: int, group: int, *, zero: bool = True) -> PackedWeight:
    """Random 4-bit numbers with random scales."""
    random = torch.Generator().manual_seed(1)
    q = torch.randint(0, 256, (rows, columns // 2), generator=random, dtype=torch.uint8)
    scale = torch.rand(rows, columns // group, generator=random).half()
    return PackedWeight(q, scale, -7.5 * scale if zero else None)
