"""Random weights, plain and packed."""

from __future__ import annotations

import torch
from torch import Tensor

from glmtui.engine.nn.packed_weight import PackedWeight


def random_weight(rows: int, columns: int, seed: int = 0) -> Tensor:
    """float32 [rows, columns] of the normal distribution."""
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


def random_int4(rows: int, columns: int, group: int, *, zero: bool = True) -> PackedWeight:
    """Random numbers of 4 bits with random scales; `zero`: centred around 0."""
    generator = torch.Generator().manual_seed(1)
    q = torch.randint(0, 256, (rows, columns // 2), generator=generator, dtype=torch.uint8)
    scale = torch.rand(rows, columns // group, generator=generator).half()
    return PackedWeight(q, scale, -7.5 * scale if zero else None)
