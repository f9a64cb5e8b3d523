"""Attention computed directly by its formula, for comparison."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def reference_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Causal attention in float32 of the last S of T positions.

    Args:
        q: [batch, heads, S, d].
        k, v: [batch, kv heads, T, d]; they are repeated for each group of heads.

    Returns:
        [batch, S, heads * d].
    """
    repeats = q.shape[1] // k.shape[1]
    k, v = (x.float().repeat_interleave(repeats, 1) for x in (k, v))
    scores = q.float() @ k.transpose(2, 3) / math.sqrt(q.shape[-1])
    hidden = torch.ones(scores.shape[-2:], device=q.device).triu(k.shape[2] - q.shape[2] + 1)
    weights = scores.masked_fill(hidden.bool(), -torch.inf).softmax(-1)
    return (weights @ v).transpose(1, 2).flatten(2)
