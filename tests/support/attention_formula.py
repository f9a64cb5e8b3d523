"""Attention as its formula says, for comparison."""

from __future__ import annotations

import torch
from torch import Tensor


def by_the_formula(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Causal attention with each key head repeated for its group, in float32."""
    times = q.shape[1] // k.shape[1]
    k, v = (x.float().repeat_interleave(times, 1) for x in (k, v))
    scores = q.float() @ k.transpose(2, 3) / 4
    hidden = torch.ones(scores.shape[-2:]).triu(k.shape[2] - q.shape[2] + 1).bool()
    weights = scores.masked_fill(hidden, -torch.inf).softmax(-1)
    return (weights @ v).transpose(1, 2).flatten(2)
