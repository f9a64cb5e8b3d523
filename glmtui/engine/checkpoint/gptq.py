"""Converts weights that GPTQ packed in 4 or 8 bits (arXiv:2210.17323), without loss.

AutoGPTQ and GPTQModel store a linear layer [out, in] as follows, with n = 32 / bits:

    qweight  int32 [in / n, out]      n inputs in each number, the first in the lowest bits
    qzeros   int32 [groups, out / n]  n outputs in each number
    scales   float16 [groups, out]
    g_idx    int32 [in]               the group of each input: consecutive inputs share one, unless
                                      "desc_act" ordered them by activation

and weight = (q - zero) * scale.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from glmtui.engine.nn.packed_weight import PackedWeight, pack_nibbles, row_blocks, unpack_nibbles
from glmtui.errors import BadCheckpoint, UnsupportedModel
from glmtui.language import _

# The format "gptq" stores each zero point minus one. Tools subtract it from whole int32 numbers,
# with borrows between the zero points in one, so it must be added to whole int32 numbers too.
ZERO_POINT_OFFSETS = {4: 0x11111111, 8: 0x01010101}
FORMATS = ("gptq", "gptq_v2")


@dataclass(frozen=True, slots=True)
class GptqFormat:
    """How a checkpoint is packed.

    Attributes:
        bits: 4 or 8.
        offset: to add to each number of qzeros.
    """

    bits: int
    offset: int


def read_gptq_format(config: Mapping[str, Any]) -> GptqFormat:
    """The format that a ``quantization_config`` or a quantize_config.json describes.

    Raises:
        UnsupportedModel: the weights are quantised by another method, or with other bits.
    """
    method = config.get("quant_method", "gptq")  # the first versions of AutoGPTQ leave it out
    kind = config.get("checkpoint_format") or config.get("format") or "gptq"
    bits = config.get("bits")
    if method != "gptq" or kind not in FORMATS or bits not in ZERO_POINT_OFFSETS:
        named = f"{method} ({kind})" if method == "gptq" else str(method)
        raise UnsupportedModel(
            _("Weights quantised by {named} with {bits} bits are not supported.").format(
                named=named, bits=bits
            ),
            _(
                "Supported are GPTQ with 4 or 8 bits and ChatGLM's own quantisation. Or use the "
                "model's 16-bit weights, and load them as int8 or int4."
            ),
        )
    return GptqFormat(bits, ZERO_POINT_OFFSETS[bits] if kind == "gptq" else 0)


def unpack_gptq(
    qweight: Tensor, qzeros: Tensor, scales: Tensor, g_idx: Tensor | None, packing: GptqFormat
) -> PackedWeight:
    """Converts the tensors of one layer.

    A `PackedWeight` needs the columns of a group next to each other, so the columns are sorted by
    group if they are not sorted already.

    Raises:
        BadCheckpoint: the shapes or dtypes of the tensors do not match.
    """
    per_word = 32 // packing.bits
    columns, rows = per_word * qweight.shape[0], qweight.shape[-1]
    groups = scales.shape[0]
    if (
        (qweight.dtype, qzeros.dtype, qweight.ndim) != (torch.int32, torch.int32, 2)
        or scales.shape != (groups, rows)
        or qzeros.shape != (groups, math.ceil(rows / per_word))
    ):
        raise BadCheckpoint(
            _(
                "A GPTQ weight of shape {shape} has scales {scales} and zero points {zeros}, "
                "which do not match."
            ).format(
                shape=tuple(qweight.shape), scales=tuple(scales.shape), zeros=tuple(qzeros.shape)
            ),
            _("The checkpoint is damaged. Fetch the model again."),
        )
    group_of = _group_of_columns(g_idx, columns, groups)
    # both formats store the first column in the lowest bits, so the bytes can stay as they are
    q = qweight.t().contiguous().view(torch.uint8)
    zero_points = (qzeros + packing.offset).view(torch.uint8)
    order = group_of.argsort(stable=True)
    is_sorted = bool((group_of.diff() >= 0).all())
    if not is_sorted:
        for block in row_blocks((rows, columns)):
            q[block] = _reorder_columns(q[block], order, packing.bits)
    symmetric = False
    if packing.bits == 4:
        zero_points = unpack_nibbles(zero_points)[:, :rows].float()
    else:  # a PackedWeight has signed numbers: subtract 128 from weights and zero points
        q = q.bitwise_xor_(128).view(torch.int8)
        zero_points = zero_points[:, :rows].float() - 128
        symmetric = not zero_points.any()
    # A PackedWeight has groups of one size. If the last group is smaller, all groups are split
    # into groups of the greatest common divisor, each with a copy of the scale.
    sizes = group_of.bincount(minlength=groups)
    repeats = sizes // math.gcd(*sizes.tolist())
    zeros = None if symmetric else (-zero_points * scales.float()).t()
    return PackedWeight(
        q,
        scales.t().repeat_interleave(repeats, 1),
        None if zeros is None else zeros.repeat_interleave(repeats, 1),
        None if is_sorted else order,
    )


def _reorder_columns(q: Tensor, order: Tensor, bits: int) -> Tensor:
    return pack_nibbles(unpack_nibbles(q)[:, order]) if bits == 4 else q[:, order]


def _group_of_columns(g_idx: Tensor | None, columns: int, groups: int) -> Tensor:
    """The group of each column, int64 [in]."""
    # some tools write zeros if consecutive columns share a group
    if g_idx is None or (groups > 1 and not g_idx.any()):
        return torch.arange(columns) // math.ceil(columns / groups)
    if g_idx.shape != (columns,) or not 0 <= int(g_idx.min()) <= int(g_idx.max()) < groups:
        raise BadCheckpoint(
            _(
                "A GPTQ weight with {columns} columns in {groups} groups has a g_idx "
                "that does not match."
            ).format(columns=columns, groups=groups),
            _("The checkpoint is damaged. Fetch the model again."),
        )
    return g_idx.long()
