"""Attention of many queries on a GPU, in forms that torch's fused kernels support.

torch has three kernels for `scaled_dot_product_attention` on CUDA. Flash attention supports grouped
heads (several query heads per key head), but no mask. Memory-efficient attention supports a mask,
but no grouped heads. The "math" kernel stores all scores in float32: [heads, S, T] is 0.5 GB for 32
heads and 2,048 tokens. It silently handles every call that the others reject, so the form of a call
determines its memory. The rules are the `check_*` functions in
ATen/native/transformers/cuda/sdp_utils.cpp and sdp_utils_cpp.h.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.backends import cuda
from torch.nn import functional as F

SCORE_BYTES = 1 << 27  # memory for the scores of one block of queries without a fused kernel
SCORE_COPIES = 3  # the math kernel holds scores, masked scores and their softmax at once
HEAD_SIZE_MULTIPLE = 8  # elements; the fused kernels need head sizes divisible by this
LOWER_RIGHT = 2  # CausalFromBottomRight in mem_eff_attention/kernel_forward.h


def causal_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(d)) v, where each query sees the keys up to its own position.

    Args:
        q: [batch, heads, S, d], the last S of the T positions.
        k, v: [batch, kv heads, T, d]; query head h uses key head h // (heads / kv heads).

    Returns:
        [batch, S, heads * d].
    """
    grouped = q.shape[1] != k.shape[1]
    square = q.shape[2] == k.shape[2]
    if q.shape[3] % HEAD_SIZE_MULTIPLE == 0:
        if kernel_supports(cuda.can_use_flash_attention, q, k, v, grouped=grouped):
            y = _square(q, k, v, grouped) if square else _lower_right_flash(q, k, v)
            return _merge_heads(y)
        rows, keys, values = share_heads(q, k, v)
        if kernel_supports(cuda.can_use_efficient_attention, rows, keys, values):
            attend = _square if square else _lower_right_efficient
            return _merge_heads(attend(rows, keys, values).reshape(q.shape))
    return _merge_heads(_attend_in_blocks(q, k, v))


def masked_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(d) + mask) v; q, k and v as for `causal_attention`.

    Args:
        mask: [batch or 1, 1, S or 1, T], or [S, T]; either bool, True where a query sees a key, or
            of q's dtype and added to the scores.

    Returns:
        [batch, S, heads * d].
    """
    keys, values = k, v
    if q.shape[1] != k.shape[1]:
        # copies, not views: with a mask, the memory-efficient kernel may be wrong for keys with
        # stride 0 (https://github.com/pytorch/pytorch/issues/191937)
        repeats = q.shape[1] // k.shape[1]
        keys, values = (x.repeat_interleave(repeats, dim=1) for x in (k, v))
    if kernel_supports(cuda.can_use_efficient_attention, q, keys, values, mask):
        return _merge_heads(F.scaled_dot_product_attention(q, keys, values, attn_mask=mask))
    return _merge_heads(_attend_in_blocks(q, k, v, mask))


def _square(q: Tensor, k: Tensor, v: Tensor, grouped: bool = False) -> Tensor:
    """Causal attention of all positions: S = T."""
    return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=grouped)


def _lower_right_flash(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Causal attention of the last S of T positions.

    The same call as in `torch.nn.attention.bias.CausalBias`, which imports torch's compiler and
    allocates two masks on the host.
    """
    y: Tensor = torch.ops.aten._scaled_dot_product_flash_attention(q, k, v, 0.0, is_causal=True)[0]
    return y


def _lower_right_efficient(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """`_lower_right_flash` with the memory-efficient kernel."""
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
    """Whether a fused kernel supports a call, on q's GPU and in this build of torch.

    Args:
        kernel: `cuda.can_use_flash_attention` or `cuda.can_use_efficient_attention`.
        grouped: whether q has more heads than k.
    """
    params = cuda.SDPAParams(q, k, v, mask, 0.0, False, grouped)
    if q.device.type != "cuda":
        return kernel(params)
    if not cuda.is_built():  # type: ignore[no-untyped-call]
        return False
    with torch.cuda.device(q.device):  # torch checks the capability of the current GPU
        return kernel(params)


def share_heads(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Reshapes grouped heads to a batch of groups, in which all heads have the same keys.

    Returns:
        q as [batch * kv heads, heads per group, S, d]; k and v as [batch * kv heads, heads per
        group, T, d], views with stride 0 over the heads.
    """
    batch, heads, length, size = q.shape
    groups, total = k.shape[1:3]
    rows = q.reshape(batch * groups, -1, length, size)
    single = (x.reshape(batch * groups, 1, total, size) for x in (k, v))
    keys, values = (x.expand(-1, heads // groups, -1, -1) for x in single)
    return rows, keys, values


def _attend_in_blocks(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """Attention of a block of queries at a time, so that the scores fit into `SCORE_BYTES`.

    Causal without a mask. The queries of a group become rows of one product, so the kernel need not
    support grouped heads.

    Args:
        q, k, v, mask: as for `masked_attention`.

    Returns:
        [batch, heads, S, d].
    """
    batch, heads, length, size = q.shape
    groups, total = k.shape[1:3]
    group_size = heads // groups
    step = max(SCORE_BYTES // (batch * heads * total * SCORE_COPIES * 4), 1)
    parts = []
    for start in range(0, length, step):
        end = min(start + step, length)
        visible = total if mask is not None else total - length + end
        if mask is None:
            ones = torch.ones(end - start, visible, dtype=torch.bool, device=q.device)
            block_mask = ones.tril_(visible - (end - start))
        else:
            block_mask = mask if mask.shape[-2] == 1 else mask[..., start:end, :]
        if block_mask.shape[-2] > 1:
            block_mask = torch.cat([block_mask] * group_size, dim=-2)
        rows = q[:, :, start:end].reshape(batch, groups, -1, size)
        keys, values = k[:, :, :visible], v[:, :, :visible]
        y = F.scaled_dot_product_attention(rows, keys, values, attn_mask=block_mask)
        parts.append(y.reshape(batch, heads, end - start, size))
    return torch.cat(parts, dim=2)


def _merge_heads(y: Tensor) -> Tensor:
    """[batch, heads, S, d] to [batch, S, heads * d]."""
    return y.transpose(1, 2).flatten(2)
