"""GPTQ's packing of 4 and 8 bits (arXiv:2210.17323; tensors of AutoGPTQ and GPTQModel) in our form.

Nothing is lost on the way. A linear layer of [out, in] is stored, n = 32 / bits, as

    qweight  int32 [in / n, out]      n inputs to a number, the first in its lowest bits
    qzeros   int32 [groups, out / n]  n outputs to a number
    scales   float16 [groups, out]
    g_idx    int32 [in]               the group of each input; mixed where activation order
                                      ("desc_act") decided, else neighbours share one

with weight = (q - zero) * scale. Knows tensors and what a config says, no files.
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

# The first format stores zero points less one, and subtracts that from whole numbers of several, so
# it is added to whole numbers too.
ONES = {4: 0x11111111, 8: 0x01010101}
FORMATS = ("gptq", "gptq_v2")


@dataclass(frozen=True, slots=True)
class GptqFormat:
    """How a checkpoint is packed.

    Attributes:
        bits: of a weight, 4 or 8.
        offset: to be added to qzeros.
    """

    bits: int
    offset: int


def read_gptq_format(config: Mapping[str, Any]) -> GptqFormat:
    """How the weights are packed, by a ``quantization_config`` or a quantize_config.json.

    Raises:
        UnsupportedModel: the weights are quantised in a way that is not read.
    """
    method = config.get("quant_method", "gptq")  # AutoGPTQ's first files do not say
    kind = config.get("checkpoint_format") or config.get("format") or "gptq"
    bits = config.get("bits")
    if method != "gptq" or kind not in FORMATS or bits not in ONES:
        named = f"{method} ({kind})" if method == "gptq" else str(method)
        raise UnsupportedModel(
            _(
                "The weights are quantised by {named} with {bits} bits, which is not read here."
            ).format(named=named, bits=bits),
            _(
                "Of quantised checkpoints GPTQ of 4 and 8 bits is read, and ChatGLM's own; or take "
                "the model's own weights, of 16 bits, and load them as int8 or int4."
            ),
        )
    return GptqFormat(bits, ONES[bits] if kind == "gptq" else 0)


def unpack_gptq(
    qweight: Tensor, qzeros: Tensor, scales: Tensor, g_idx: Tensor | None, packing: GptqFormat
) -> PackedWeight:
    """A GPTQ layer's weight; its columns are sorted by group where they were not.

    Raises:
        BadCheckpoint: the tensors do not fit together.
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
                "A GPTQ weight {shape} has scales {scales} and zero points {zeros}, "
                "which do not fit it."
            ).format(
                shape=tuple(qweight.shape), scales=tuple(scales.shape), zeros=tuple(qzeros.shape)
            ),
            _("The checkpoint is damaged; fetch it again."),
        )
    group_of = _groups(g_idx, columns, groups)
    # the lowest first: eight numbers of 4 bits, or four of 8, are four of our bytes
    q = qweight.t().contiguous().view(torch.uint8)
    points = (qzeros + packing.offset).view(torch.uint8)
    order = group_of.argsort(stable=True)
    in_order = bool((group_of.diff() >= 0).all())
    if not in_order:
        for some in row_blocks((rows, columns)):
            q[some] = _columns(q[some], order, packing.bits)
    symmetric = False
    if packing.bits == 4:
        points = unpack_nibbles(points)[:, :rows].float()
    else:  # ours have a sign: weights and zero points are 128 less
        q = q.bitwise_xor_(128).view(torch.int8)
        points = points[:, :rows].float() - 128
        symmetric = not points.any()
    # the last group may be smaller; then all are cut to what divides every one
    sizes = group_of.bincount(minlength=groups)
    step = math.gcd(*sizes.tolist())
    times = sizes // step
    return PackedWeight(
        q,
        scales.t().repeat_interleave(times, 1),
        None if symmetric else (-points * scales.float()).t().repeat_interleave(times, 1),
        None if in_order else order,
    )


def _columns(q: Tensor, order: Tensor, bits: int) -> Tensor:
    """Packed rows with their columns in another order."""
    return pack_nibbles(unpack_nibbles(q)[:, order]) if bits == 4 else q[:, order]


def _groups(g_idx: Tensor | None, columns: int, groups: int) -> Tensor:
    """The group of each input, int64 [in]."""
    # some tools write zeros where neighbours share a group
    if g_idx is None or (groups > 1 and not g_idx.any()):
        return torch.arange(columns) // math.ceil(columns / groups)
    if g_idx.shape != (columns,) or not 0 <= int(g_idx.min()) <= int(g_idx.max()) < groups:
        raise BadCheckpoint(
            _(
                "A GPTQ weight of {columns} inputs in {groups} groups has a g_idx "
                "that does not fit."
            ).format(columns=columns, groups=groups),
            _("The checkpoint is damaged; fetch it again."),
        )
    return g_idx.long()
