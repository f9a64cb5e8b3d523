"""Weights in 4 and 8 bits: how they are packed, unpacked, and made from whole ones.

`PackedWeight` is the one form every source is brought into (our prepared folders, GGUF blocks,
ChatGLM's own checkpoints, weights quantised while loading). What multiplies with them is in
`glmtui.engine.linear`. Knows nothing of models, files or modules.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from glmtui.errors import BadCheckpoint

DEQUANT_ROWS = 1024  # rows unpacked at a time, so that their float32 form stays small


@dataclass(frozen=True, slots=True)
class PackedWeight:
    """A [out, in] weight as small integers with a scale, and perhaps a zero, per group of inputs.

    Attributes:
        q: 4 bits: uint8 [out, in / 2], column 2j in the low and 2j + 1 in the high half of byte j,
            values 0..15. 8 bits: int8 [out, in].
        scale: [out, groups]; each group covers in / groups neighbouring columns.
        zero: [out, groups] or None for 0; weight = q * scale + zero.
    """

    q: Tensor
    scale: Tensor
    zero: Tensor | None = None

    def __post_init__(self) -> None:
        if self.in_features % self.scale.shape[1] or self.q.shape[0] != self.scale.shape[0]:
            raise BadCheckpoint(
                f"A quantised weight of shape {tuple(self.q.shape)} has scales of shape "
                f"{tuple(self.scale.shape)}, which do not fit together.",
                "The checkpoint is damaged or of an unknown packing; fetch it again.",
            )

    @property
    def bits(self) -> int:
        return 4 if self.q.dtype == torch.uint8 else 8

    @property
    def in_features(self) -> int:
        return self.q.shape[1] * (2 if self.bits == 4 else 1)

    @property
    def shape(self) -> torch.Size:
        """[out, in], as of the weight it stands for."""
        return torch.Size((self.q.shape[0], self.in_features))

    @property
    def group(self) -> int:
        """How many neighbouring columns share a scale."""
        return self.in_features // self.scale.shape[1]

    @property
    def kind(self) -> str:
        """In words: "int8", or "int4 g32" where columns share scales in groups."""
        whole = self.group == self.in_features
        return f"int{self.bits}" if whole else f"int{self.bits} g{self.group}"

    @property
    def nbytes(self) -> int:
        return sum(t.nbytes for t in (self.q, self.scale, self.zero) if t is not None)

    def __getitem__(self, rows: slice) -> PackedWeight:
        zero = None if self.zero is None else self.zero[rows]
        return PackedWeight(self.q[rows], self.scale[rows], zero)

    def regrouped(self, group: int) -> PackedWeight:
        """The same weight with scales for smaller groups, each repeated as often as it takes."""
        times = self.group // group
        zero = None if self.zero is None else self.zero.repeat_interleave(times, 1)
        return PackedWeight(self.q, self.scale.repeat_interleave(times, 1), zero)

    def unpacked(self) -> Tensor:
        """The integers, [out, in]: uint8 0..15 of 4 bits, int8 of 8."""
        if self.bits == 8:
            return self.q
        return torch.stack((self.q & 15, self.q >> 4), dim=-1).flatten(1)

    def dequantize(self, dtype: torch.dtype) -> Tensor:
        """The weight it stands for, [out, in], computed in float32 and then rounded to `dtype`."""
        weight = torch.empty(self.shape, dtype=dtype, device=self.q.device)
        for start in range(0, self.shape[0], DEQUANT_ROWS):
            rows = slice(start, start + DEQUANT_ROWS)
            part = self[rows]
            block = part.unpacked().view(*part.scale.shape, self.group).float()
            block *= part.scale.float().unsqueeze(-1)
            if part.zero is not None:
                block += part.zero.float().unsqueeze(-1)
            weight[rows] = block.flatten(1)
        return weight

    def to(self, device: torch.device) -> PackedWeight:
        zero = None if self.zero is None else self.zero.to(device)
        return PackedWeight(self.q.to(device), self.scale.to(device), zero)

    @staticmethod
    def cat(parts: Sequence[PackedWeight]) -> PackedWeight:
        """Rows below rows. All parts have the same bits, group and kind of zero."""
        zeros = [part.zero for part in parts if part.zero is not None]
        return PackedWeight(
            torch.cat([part.q for part in parts]),
            torch.cat([part.scale for part in parts]),
            torch.cat(zeros) if zeros else None,
        )


def quantize(weight: Tensor, bits: int, group: int | None = None) -> PackedWeight:
    """Round-to-nearest quantisation of a [out, in] weight.

    4 bits: asymmetric, from the least to the largest value of each group (so zero may shift).
    8 bits: symmetric, scaled by the largest magnitude.

    Args:
        group: columns that share a scale; None is the whole row.
    """
    rows, columns = weight.shape
    grouped = weight.float().view(rows, -1, group or columns)
    if bits == 8:
        scale = (grouped.abs().amax(-1) / 127).clamp_min(1e-8)
        q = (grouped / scale.unsqueeze(-1)).round().clamp(-127, 127).to(torch.int8)
        return PackedWeight(q.view(rows, columns), scale.half())
    low, high = grouped.amin(-1), grouped.amax(-1)
    # rounded to the stored precision first, so that q is the best choice for what will be read
    scale = ((high - low) / 15).clamp_min(1e-7).half()
    zero = low.half()
    q = (grouped - zero.float().unsqueeze(-1)) / scale.float().unsqueeze(-1)
    q = q.round().clamp(0, 15).to(torch.uint8).view(rows, columns)
    return PackedWeight(q[:, ::2] | q[:, 1::2] << 4, scale, zero)
