"""Weights in 4 and 8 bits: how they are packed, unpacked, and made from whole ones.

`PackedWeight` is the one form every source is brought into (our prepared folders, GGUF blocks,
ChatGLM's own checkpoints, weights quantised while loading). What multiplies with them is in
`glmtui.engine.nn.linear`. Knows nothing of models, files or modules.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from glmtui.engine.nn.native.rounding import can_quantize, quantize_into
from glmtui.errors import BadCheckpoint
from glmtui.language import _

# weights handled in float32 at a time: 4 MB stay in a processor's cache; a GPU wants more to do,
# in little memory
CPU_BLOCK, GPU_BLOCK = 2**20, 2**22
SEARCH_BLOCK = 2**18  # where a handful of buffers are gone over many times
LEAST_SCALE = 2.0**-24  # of float16

# The search for 4 bits: parts of a group's range that are tried; the mean square, in steps, up to
# which a group is on a grid of its own (rounding to the nearest leaves 1/12); guards against none.
RANGES = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75)
ON_GRID = 2.0**-10
LEAST_SPREAD, LEAST_SHARE = 1e-6, 1e-3


@dataclass(frozen=True, slots=True)
class PackedWeight:
    """A [out, in] weight as small integers with a scale, and perhaps a zero, per group of inputs.

    Attributes:
        q: 4 bits: uint8 [out, in / 2], column 2j in the low and 2j + 1 in the high half of byte j,
            values 0..15. 8 bits: int8 [out, in].
        scale: [out, groups]; each group covers in / groups neighbouring columns.
        zero: [out, groups] or None for 0; weight = q * scale + zero.
        order: int64 [in] or None; column j of all this is column order[j] of the weight it stands
            for. (What has to share a scale need not be neighbours.)
    """

    q: Tensor
    scale: Tensor
    zero: Tensor | None = None
    order: Tensor | None = None

    def __post_init__(self) -> None:
        tensors = [t for t in (self.q, self.scale, self.zero) if t is not None]
        matrices = all(t.ndim == 2 and t.shape[0] == self.q.shape[0] > 0 for t in tensors)
        if (
            not matrices
            or self.q.dtype not in (torch.uint8, torch.int8)
            or any(t.shape != self.scale.shape or not t.is_floating_point() for t in tensors[1:])
            or not self.scale.shape[1]
            or self.in_features % self.scale.shape[1]
            or (self.order is not None and self.order.shape != (self.in_features,))
        ):
            said = " and ".join(f"{str(t.dtype)[6:]} {tuple(t.shape)}" for t in tensors[1:])
            raise BadCheckpoint(
                _("A quantised weight, {weight}, has scales that do not fit it: {scales}.").format(
                    weight=f"{str(self.q.dtype)[6:]} {tuple(self.q.shape)}", scales=said
                ),
                _("The checkpoint is damaged or of an unknown packing; fetch it again."),
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

    def has_same_format(self, other: PackedWeight) -> bool:
        """Whether rows of both can lie in one."""
        if self.order is None or other.order is None:
            same_order = self.order is other.order
        else:
            same_order = torch.equal(self.order, other.order)
        return (
            same_order
            and (self.bits, self.group) == (other.bits, other.group)
            and (self.zero is None) == (other.zero is None)
        )

    @property
    def nbytes(self) -> int:
        tensors = (self.q, self.scale, self.zero, self.order)
        return sum(t.nbytes for t in tensors if t is not None)

    def __getitem__(self, rows: slice | Tensor) -> PackedWeight:
        zero = None if self.zero is None else self.zero[rows]
        return PackedWeight(self.q[rows], self.scale[rows], zero, self.order)

    def regroup(self, group: int) -> PackedWeight:
        """The same weight with scales for smaller groups, each repeated as often as it takes."""
        times = self.group // group
        zero = None if self.zero is None else self.zero.repeat_interleave(times, 1)
        return PackedWeight(self.q, self.scale.repeat_interleave(times, 1), zero, self.order)

    def integers(self) -> Tensor:
        """The integers, [out, in]: uint8 0..15 of 4 bits, int8 of 8."""
        return self.q if self.bits == 8 else unpack_nibbles(self.q)

    def dequantize(self, dtype: torch.dtype) -> Tensor:
        """The weight it stands for, [out, in], computed in float32 and then rounded to `dtype`."""
        weight = torch.empty(self.shape, dtype=dtype, device=self.q.device)
        back = None if self.order is None else self.order.argsort()
        block = CPU_BLOCK if self.q.device.type == "cpu" else GPU_BLOCK
        for rows in row_blocks(self.shape, block=block):
            part = self[rows]
            grouped = part.integers().view(*part.scale.shape, self.group).float()
            grouped *= part.scale.float().unsqueeze(-1)
            if part.zero is not None:
                grouped += part.zero.float().unsqueeze(-1)
            whole = grouped.flatten(1)
            weight[rows] = whole if back is None else whole[:, back]
        return weight

    def to(self, device: torch.device) -> PackedWeight:
        zero, order = (t if t is None else t.to(device) for t in (self.zero, self.order))
        return PackedWeight(self.q.to(device), self.scale.to(device), zero, order)

    def contiguous(self) -> PackedWeight:
        """The same, each tensor's rows one behind the other in memory."""
        zero = None if self.zero is None else self.zero.contiguous()
        return PackedWeight(self.q.contiguous(), self.scale.contiguous(), zero, self.order)

    @staticmethod
    def cat(parts: Sequence[PackedWeight]) -> PackedWeight:
        """Rows below rows, of parts that are alike."""
        zeros = [part.zero for part in parts if part.zero is not None]
        return PackedWeight(
            torch.cat([part.q for part in parts]),
            torch.cat([part.scale for part in parts]),
            torch.cat(zeros) if zeros else None,
            parts[0].order,
        )


def pack_nibbles(numbers: Tensor) -> Tensor:
    """uint8 [rows, n] of 0..15 as uint8 [rows, n / 2], the even column in the low half."""
    return numbers[:, ::2] | numbers[:, 1::2] << 4


def unpack_nibbles(q: Tensor) -> Tensor:
    """What `pack_nibbles` packed."""
    return torch.stack((q & 15, q >> 4), dim=-1).flatten(1)


def row_blocks(
    shape: Sequence[int], multiple: int = 1, *, block: int = CPU_BLOCK
) -> Iterator[slice]:
    """Slices of the rows of [rows, columns] that hold about `block` weights each.

    Args:
        multiple: each slice but the last has a number of rows divisible by it.
    """
    rows, columns = shape
    step = max(block // columns // multiple, 1) * multiple
    for start in range(0, rows, step):
        yield slice(start, min(start + step, rows))


def quantize(
    weight: Tensor, bits: int, group: int | None = None, importance: Tensor | None = None
) -> PackedWeight:
    """Quantisation of a [out, in] weight, some rows at a time.

    4 bits: asymmetric, from the least to the largest value of each group (so zero may shift); with
    an importance, where a short search finds the least error, unless the group lies on that grid
    as it is. The search takes some twenty times as long.
    8 bits: symmetric, scaled by the largest magnitude.

    Args:
        group: columns that share a scale, or fewer where they do not divide a row; None is the
            whole row.
        importance: float [in], how much an error in each column matters beside the others, such as
            the mean square of what it is multiplied with. Only 4 bits heed it.
    """
    rows, columns = weight.shape
    group = math.gcd(group or 0, columns)
    new = partial(torch.empty, device=weight.device)
    scale = new(rows, columns // group, dtype=torch.float16)
    if bits == 8:
        packed = PackedWeight(new(rows, columns, dtype=torch.int8), scale)
    else:
        packed = PackedWeight(new(rows, columns // 2, dtype=torch.uint8), scale, scale.clone())
    shares = None
    if bits == 4 and importance is not None:
        shares = _shares(importance.float().view(-1, group))
    elif can_quantize(weight, group):
        quantize_into(packed.q, packed.scale, packed.zero, weight, LEAST_SCALE)
        return packed
    for some in row_blocks(weight.shape, block=CPU_BLOCK if shares is None else SEARCH_BLOCK):
        grouped = weight[some].float().reshape(-1, columns // group, group)
        if bits == 8:
            _fill_eight_bits(packed[some], grouped)
        else:
            _fill_four_bits(packed[some], grouped, shares)
    return packed


def _fill_eight_bits(packed: PackedWeight, grouped: Tensor) -> None:
    """From float32 [rows, groups, group]."""
    # rounded to the stored precision first, so that q is the best choice for what will be read
    packed.scale.copy_((grouped.abs().amax(-1) / 127).clamp_min_(LEAST_SCALE))
    q = grouped / packed.scale.float().unsqueeze(-1)
    packed.q.copy_(q.round_().clamp_(-127, 127).flatten(1))


def _fill_four_bits(packed: PackedWeight, grouped: Tensor, shares: Tensor | None) -> None:
    """From float32 [rows, groups, group]."""
    assert packed.zero is not None
    low, high = grouped.amin(-1, keepdim=True), grouped.amax(-1, keepdim=True)
    step = ((high - low) / 15).clamp_min_(LEAST_SCALE)
    if shares is not None:
        slope, offset = _best_line((grouped - low).div_(step), shares)
        low += offset * step
        step = (slope * step).clamp_min_(LEAST_SCALE)
    packed.scale.copy_(step.squeeze(-1))
    packed.zero.copy_(low.squeeze(-1))
    q = (grouped - packed.zero.float().unsqueeze(-1)).div_(packed.scale.float().unsqueeze(-1))
    packed.q.copy_(pack_nibbles(q.round_().clamp_(0, 15).to(torch.uint8).flatten(1)))


def _best_line(t: Tensor, shares: Tensor) -> tuple[Tensor, Tensor]:
    """The line slope * q + offset that is nearest to t, q being integers 0..15.

    As llama.cpp's `make_qkx2_quants`: t is rounded in each of a few ranges, then the line of least
    squares is laid through what it was rounded to, whose error follows from the same sums.

    Args:
        t: float32 [rows, groups, group], 0..15 from the least to the largest of each group.
        shares: [groups, group], what each column's error counts, 1 in sum.

    Returns:
        Each [rows, groups, 1].
    """
    spare, q = torch.empty_like(t), torch.empty_like(t)

    def mean(values: Tensor, times: Tensor | None = None) -> Tensor:
        if times is not None:
            values = torch.mul(values, times, out=spare)
        return torch.mul(values, shares, out=spare).sum(-1, keepdim=True)

    mean_t = mean(t)
    spread_t = mean(t, t) - mean_t * mean_t
    torch.round(t, out=q).sub_(t)
    on_grid = mean(q, q) < ON_GRID
    slope = offset = error = torch.full_like(mean_t, torch.inf)
    for part in RANGES:
        torch.mul(t, 1 / part, out=q).add_(7.5 - 7.5 / part).round_().clamp_(0, 15)
        mean_q = mean(q)
        spread_q = (mean(q, q) - mean_q * mean_q).clamp_min_(LEAST_SPREAD)
        both = mean(q, t) - mean_q * mean_t
        candidate = both / spread_q
        left = spread_t - candidate * both
        better = left < error
        error = torch.where(better, left, error)
        slope = torch.where(better, candidate, slope)
        offset = torch.where(better, mean_t - candidate * mean_q, offset)
    return slope.masked_fill_(on_grid, 1), offset.masked_fill_(on_grid, 0)


def _shares(importance: Tensor) -> Tensor:
    """Parts of 1 for each group of [groups, group]; none so small that it is given up."""
    mean = importance.mean(-1, keepdim=True)
    shares = importance + LEAST_SHARE * mean + torch.finfo(torch.float32).tiny
    return shares / shares.sum(-1, keepdim=True)


def requantize_per_row(weight: PackedWeight) -> PackedWeight:
    """8 bits in groups with one scale per row instead: rounded anew, so nearly the same weight."""
    blocks = row_blocks(weight.shape)
    return PackedWeight.cat([quantize(weight[b].dequantize(torch.float32), 8) for b in blocks])


def to_dense(weight: Tensor | PackedWeight, dtype: torch.dtype) -> Tensor:
    """The weight unpacked, in `dtype`."""
    return weight.to(dtype) if isinstance(weight, Tensor) else weight.dequantize(dtype)


def concat_rows(
    parts: Sequence[Tensor | PackedWeight], dtype: torch.dtype
) -> Tensor | PackedWeight:
    """Rows below rows; if some are packed and not all alike, all in `dtype`."""
    if len(parts) == 1:
        return parts[0]
    packed = [part for part in parts if isinstance(part, PackedWeight)]
    if len(packed) == len(parts) and all(part.has_same_format(packed[0]) for part in packed):
        return PackedWeight.cat(packed)
    if not packed:
        return torch.cat([part for part in parts if isinstance(part, Tensor)])
    return torch.cat([to_dense(part, dtype) for part in parts])
