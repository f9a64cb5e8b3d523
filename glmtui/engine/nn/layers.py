"""Layers of a decoder: embedding, norms, rotary positions, masks, attention.

A family declares its linear layers as `LinearPlaceholder`. The loader replaces each one with the
layer that `glmtui.engine.nn.linear.make_linear` makes for its weight.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from glmtui.engine.nn import gpu_attention
from glmtui.engine.nn.cpu_dtype import product_dtype

QUERY_BLOCK = 64  # queries that a CPU computes at a time
FEW_QUERIES = 4  # up to this many, a CPU computes each query on its own


class LinearPlaceholder(nn.Module):
    """A linear layer without weights, which the loader replaces with a `linear.LinearLayer`.

    Args:
        in_features, out_features: the weight is [out, in].
        bias: whether the checkpoint has a bias.
    """

    def __init__(self, in_features: int, out_features: int, *, bias: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out_features, in_features), requires_grad=False)
        self.bias = nn.Parameter(torch.empty(out_features), requires_grad=False) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)


class Embedding(nn.Module):
    """A [vocab, hidden] table, of which each id selects a row.

    nn.Embedding is not used because it initializes random weights even on the meta device, which
    imports torch's compiler.
    """

    def __init__(self, vocab: int, hidden: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(vocab, hidden), requires_grad=False)

    def forward(self, ids: Tensor) -> Tensor:
        return F.embedding(ids, self.weight)


class RMSNorm(nn.Module):
    """x / rms(x) * weight over the last dimension (Zhang & Sennrich 2019, arXiv:1910.07467).

    Computed in float32 and rounded once to the dtype of x. On a CPU the weight is float32, and the
    operations are written out, because torch's rms_norm needs twice as many.
    """

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(size), requires_grad=False)
        self.eps = eps
        # a tensor, because torch would convert a Python float at every call; on the CPU even if
        # the model is built on the meta device
        self._eps = torch.tensor(eps, device="cpu")

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type != "cpu":
            return F.rms_norm(x, self.weight.shape, self.weight, self.eps)
        wide = x.float()
        norm = torch.linalg.vector_norm(wide, dim=-1, keepdim=True)
        inverse = torch.addcmul(self._eps, norm, norm, value=1 / x.shape[-1]).rsqrt_()
        normed: Tensor = (wide * inverse).mul_(self.weight).to(x.dtype)
        return normed


class RotaryTable:
    """Cosines and sines of rotary positions, [length, r / 2] (Su et al. 2021, arXiv:2104.09864).

    Args:
        inv_freq: float32 [r / 2], the angle per position of each pair.
        length: number of positions.
        dtype: of the tables; angles are computed in float32.
    """

    def __init__(
        self, inv_freq: Tensor, length: int, *, dtype: torch.dtype, device: torch.device
    ) -> None:
        angles = torch.outer(torch.arange(length, dtype=torch.float32), inv_freq.float().cpu())
        self.cos = angles.cos().to(device=device, dtype=dtype)
        self.sin = angles.sin().to(device=device, dtype=dtype)


def rotate_halves(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotates pairs (x[i], x[i + r / 2]), the layout of Llama in transformers.

    Args:
        x: [..., r].
        cos: [..., r], the cosines twice, one copy after the other.
        sin: [..., r], the sines twice, the first copy negated.
    """
    return torch.addcmul(x * cos, torch.roll(x, x.shape[-1] // 2, -1), sin)


def rotate_pairs(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotates pairs (x[2i], x[2i + 1]), the layout of ChatGLM2 and its successors.

    Args:
        x: [..., r].
        cos: [..., r], each cosine twice in succession.
        sin: [..., r], each sine twice in succession, the first one negated.
    """
    swapped = x.view(*x.shape[:-1], -1, 2).flip(-1).flatten(-2)
    return torch.addcmul(x * cos, swapped, sin)


def inverse_frequencies(size: int, base: float) -> Tensor:
    """base ** (-2i / size) for i < size / 2; float32 [size / 2]."""
    return 1.0 / base ** (torch.arange(0, size, 2, dtype=torch.float32) / size)


def causal_mask(
    queries: int, offset: int, *, dtype: torch.dtype, device: torch.device
) -> Tensor | None:
    """The mask that is added to the scores, so that no query sees later positions.

    Query i is at position offset + i and sees positions up to its own.

    Returns:
        [queries, offset + queries] of 0 and -inf; None for a single query, which needs no mask.
    """
    if queries == 1:
        return None
    mask = torch.full((queries, offset + queries), -torch.inf, dtype=dtype, device=device)
    return mask.triu_(offset + 1)


def chunk_mask(
    queries: int, offset: int, *, dtype: torch.dtype, device: torch.device
) -> Tensor | None:
    """`causal_mask` on a CPU; None on a GPU, where the kernels of `causal_attention` need none."""
    if device.type != "cpu":
        return None
    return causal_mask(queries, offset, dtype=dtype, device=device)


def attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """softmax(q k^T / sqrt(d)) v, with several query heads per key head.

    Args:
        q: [batch, heads, S, d].
        k, v: [batch, kv heads, T, d]; query head h uses key head h // (heads / kv heads).
        mask: broadcast to [batch, heads, S, T]; either bool, True where a query sees a key, or of
            q's dtype and added to the scores.

    Returns:
        [batch, S, heads * d].
    """
    batch, heads, length, head_dim = q.shape
    if length == 1 and heads != k.shape[1]:
        # the queries of a group become rows of one product, so that each key is read only once
        grouped = q.view(batch, k.shape[1], -1, head_dim)
        return F.scaled_dot_product_attention(grouped, k, v, attn_mask=mask).reshape(batch, 1, -1)
    if q.device.type == "cpu" and q.dtype == torch.bfloat16 != product_dtype():
        mask = mask.float() if mask is not None and mask.is_floating_point() else mask
        return attention(q.float(), k.float(), v.float(), mask).to(q.dtype)
    if q.device.type != "cpu" and mask is not None:
        return gpu_attention.masked_attention(q, k, v, mask)
    y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True)
    return y.transpose(1, 2).flatten(2)


def causal_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """`attention` of the last S of T positions, where each query sees keys up to its own position.

    On a CPU without products in bfloat16, torch's fused attention is slow in that dtype, and also
    computes the half of the scores that the mask hides. Blocks of queries in float32 that skip the
    hidden keys take half the time. Elsewhere the fused attention is the fastest and most precise.
    Up to FEW_QUERIES queries get bit-identical results to single steps, so that prompt lookup does
    not change a reply.

    Args:
        mask: the result of `chunk_mask` for S queries at the end of T keys.
    """
    batch, heads, length, head_dim = q.shape
    if length > 1 and q.device.type != "cpu":
        return gpu_attention.causal_attention(q, k, v)
    if length == 1 or mask is None:
        return attention(q, k, v, mask)
    kv_heads, before = k.shape[1], k.shape[2] - length
    if length <= FEW_QUERIES:
        single_steps = [
            attention(q[:, :, i : i + 1], k[:, :, : before + i + 1], v[:, :, : before + i + 1])
            for i in range(length)
        ]
        return torch.cat(single_steps, dim=1)
    if q.dtype != torch.bfloat16 or product_dtype() == torch.bfloat16:
        return attention(q, k, v, mask)
    q, k, v, mask = (t.float() for t in (q, k, v, mask))
    parts = []
    for start in range(0, length, QUERY_BLOCK):
        end = min(start + QUERY_BLOCK, length)
        visible = before + end
        # the queries of a group become rows of one product
        block = (q[:, :, start:end] * head_dim**-0.5).reshape(batch, kv_heads, -1, head_dim)
        scores = block @ k[:, :, :visible].transpose(2, 3)
        scores.unflatten(2, (-1, end - start)).add_(mask[start:end, :visible])
        part = scores.softmax(-1) @ v[:, :, :visible]
        parts.append(part.view(batch, heads, -1, head_dim))
    return torch.cat(parts, dim=2).transpose(1, 2).flatten(2).to(torch.bfloat16)


def swiglu(gate_and_up: Tensor) -> Tensor:
    """silu(first half) * second half, of the last dimension (Shazeer 2020, arXiv:2002.05202)."""
    gate, up = gate_and_up.chunk(2, dim=-1)
    return F.silu(gate) * up
