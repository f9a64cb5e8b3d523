"""Attention of many queries on a GPU, in forms that torch's fused kernels take.

torch has three kinds of kernels for `scaled_dot_product_attention` on CUDA. Flash attention takes
key heads that several query heads share, but no mask. Memory-efficient attention takes a mask, but
no shared heads. The rest ("math") multiplies matrices and holds all scores at once, in float32:
[heads, S, T] are 0.5 GB for 32 heads and 2,048 tokens. It takes whatever the others refuse, without
a word, so the form of a call decides about its memory. The rules are the `check_*` functions of
ATen/native/transformers/cuda/sdp_utils.cpp and sdp_utils_cpp.h.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.backends import cuda
from torch.nn import functional as F

SCORE_BYTES = 1 << 27  # of the scores of one block, where no fused kernel takes a call
ALIGNED = 8  # numbers: the fused kernels read heads in multiples of them
LOWER_RIGHT = 2  # CausalFromBottomRight in mem_eff_attention/kernel_forward.h
SCORE_COPIES = 3  # that plain products hold at once: scores, masked scores, their softmax


def causal_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(d)) v where each query sees the keys up to its own.

    Args:
        q: [batch, heads, S, d], the last S of the T positions.
        k, v: [batch, kv heads, T, d]; query head h uses key head h // (heads / kv heads).

    Returns:
        [batch, S, heads * d].
    """
    grouped = q.shape[1] != k.shape[1]
    whole = q.shape[2] == k.shape[2]
    if q.shape[3] % ALIGNED == 0:
        if kernel_supports(cuda.can_use_flash_attention, q, k, v, grouped=grouped):
            y = _square(q, k, v, grouped) if whole else _lower_right_flash(q, k, v)
            return _merged(y)
        rows, keys, values = share_heads(q, k, v)
        if kernel_supports(cuda.can_use_efficient_attention, rows, keys, values):
            y = _square(rows, keys, values) if whole else _lower_right_efficient(rows, keys, values)
            return _merged(y.reshape(q.shape))
    return _merged(_by_blocks(q, k, v))


def masked_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(d) + mask) v; q, k and v as for `causal_attention`.

    Args:
        mask: [batch or 1, 1, S or 1, T], or [S, T]; bool, True where a query may look, or of q's
            dtype, added to the scores.

    Returns:
        [batch, S, heads * d].
    """
    keys, values = k, v
    if q.shape[1] != k.shape[1]:
        # copies: with a mask, the memory-efficient kernel is not trusted with shared memory
        # (https://github.com/pytorch/pytorch/issues/191937)
        times = q.shape[1] // k.shape[1]
        keys, values = (x.repeat_interleave(times, dim=1) for x in (k, v))
    if kernel_supports(cuda.can_use_efficient_attention, q, keys, values, mask):
        return _merged(F.scaled_dot_product_attention(q, keys, values, attn_mask=mask))
    return _merged(_by_blocks(q, k, v, mask))


def _square(q: Tensor, k: Tensor, v: Tensor, grouped: bool = False) -> Tensor:
    """Causal attention of all positions: S = T."""
    return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=grouped)


def _lower_right_flash(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Causal attention of the last S of T positions.

    As in `torch.nn.attention.bias.CausalBias`, which would import torch's compiler, and allocate
    room for two masks on the host.
    """
    y: Tensor = torch.ops.aten._scaled_dot_product_flash_attention(q, k, v, 0.0, is_causal=True)[0]
    return y


def _lower_right_efficient(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The same, by the memory-efficient kernel."""
    y: Tensor = torch.ops.aten._efficient_attention_forward(
        *(x.transpose(1, 2) for x in (q, k, v)),
        bias=None,
        cu_seqlens_q=None,
        cu_seqlens_k=None,
        max_seqlen_q=None,
        max_seqlen_k=None,
        dropout_p=0.0,
        custom_mask_type=LOWER_RIGHT,
    )[0]
    return y.transpose(1, 2)


def kernel_supports(
    kernel: Callable[[cuda.SDPAParams], bool],
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None = None,
    *,
    grouped: bool = False,
) -> bool:
    """Whether a kind of fused kernels takes a call, on q's GPU and with this torch."""
    params = cuda.SDPAParams(q, k, v, mask, 0.0, False, grouped)
    if q.device.type != "cuda":
        return kernel(params)
    if not cuda.is_built():  # type: ignore[no-untyped-call]
        return False
    with torch.cuda.device(q.device):  # torch asks what the current one can do
        return kernel(params)


def share_heads(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Grouped heads as a batch of groups whose heads have the same keys, without a copy of them.

    Returns:
        q [batch * kv heads, heads per group, S, d]; k and v of that many heads, which are views of
        one (their stride is 0).
    """
    batch, heads, length, size = q.shape
    groups, total = k.shape[1:3]
    rows = q.reshape(batch * groups, -1, length, size)
    alone = (x.reshape(batch * groups, 1, total, size) for x in (k, v))
    keys, values = (x.expand(-1, heads // groups, -1, -1) for x in alone)
    return rows, keys, values


def _by_blocks(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """Attention of as many queries at a time as `SCORE_BYTES` allow; without a mask it is causal.

    The queries of a group are rows of one product: no kernel needs to know of groups.

    Args:
        q, k, v, mask: as for `masked_attention`.

    Returns:
        [batch, heads, S, d].
    """
    batch, heads, length, size = q.shape
    groups, total = k.shape[1:3]
    each = heads // groups
    step = max(SCORE_BYTES // (batch * heads * total * SCORE_COPIES * 4), 1)
    parts = []
    for start in range(0, length, step):
        end = min(start + step, length)
        seen = total if mask is not None else total - length + end
        if mask is None:
            allowed = torch.ones(end - start, seen, dtype=torch.bool, device=q.device)
            some = allowed.tril_(seen - (end - start))
        else:
            some = mask if mask.shape[-2] == 1 else mask[..., start:end, :]
        if some.shape[-2] > 1:
            some = torch.cat([some] * each, dim=-2)
        rows = q[:, :, start:end].reshape(batch, groups, -1, size)
        y = F.scaled_dot_product_attention(rows, k[:, :, :seen], v[:, :, :seen], attn_mask=some)
        parts.append(y.reshape(batch, heads, end - start, size))
    return torch.cat(parts, dim=2)


def _merged(y: Tensor) -> Tensor:
    """[batch, heads, S, d] as [batch, S, heads * d]."""
    return y.transpose(1, 2).flatten(2)
