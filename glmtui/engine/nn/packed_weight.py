"""Weights in 4 and 8 bits: their format, packing, unpacking and quantization.

Every source is converted to `PackedWeight`: prepared folders, GGUF and GPTQ files, ChatGLM's own
checkpoints, and weights that are quantized while they are loaded. `glmtui.engine.nn.linear`
multiplies with them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from glmtui.engine.nn.native.quantize_kernel import can_quantize, quantize_into
from glmtui.errors import BadCheckpoint
from glmtui.language import _

# Number of weights that are converted to float32 at a time.
CPU_BLOCK = 2**20  # 4 MB, which fit into a CPU's cache
GPU_BLOCK = 2**22  # 16 MB: enough work for a GPU, little memory
SEARCH_BLOCK = 2**18  # the search for 4 bits reads several buffers of this size many times
LEAST_SCALE = 2.0**-24  # the smallest positive float16

# The search for 4 bits (`_search_scale_and_zero`).
RANGE_FACTORS = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75)  # parts of a group's range that are tried
# A group with a mean squared rounding error up to this, in steps, already is a grid of 16 values.
# Rounding of arbitrary values has a mean squared error of 1/12.
GRID_ERROR = 2.0**-10
LEAST_VARIANCE = 1e-6  # of q, in steps: prevents a division by zero
LEAST_IMPORTANCE = 1e-3  # of a column, in parts of its group's mean: no column is ignored


@dataclass(frozen=True, slots=True)
class PackedWeight:
    """A [out, in] weight as integers of 4 or 8 bits: weight = q * scale + zero.

    Attributes:
        q: 4 bits: uint8 [out, in / 2], column 2j in the low and 2j + 1 in the high half of byte j,
            values 0..15. 8 bits: int8 [out, in].
        scale: [out, groups], floating point. A group is in / groups adjacent columns.
        zero: [out, groups], or None for 0.
        order: int64 [in], or None. Column j of the tensors above is column order[j] of the weight,
            so that columns that are not adjacent can share a scale (GPTQ's act-order).

    Raises:
        BadCheckpoint: the shapes or dtypes do not match.
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
            scales = " and ".join(f"{str(t.dtype)[6:]} {tuple(t.shape)}" for t in tensors[1:])
            raise BadCheckpoint(
                _("The scales of a quantised weight do not match it: {weight}, {scales}.").format(
                    weight=f"{str(self.q.dtype)[6:]} {tuple(self.q.shape)}", scales=scales
                ),
                _(
                    "The checkpoint is damaged or uses an unknown quantisation format; download "
                    "it again."
                ),
            )

    @property
    def bits(self) -> int:
        return 4 if self.q.dtype == torch.uint8 else 8

    @property
    def in_features(self) -> int:
        return self.q.shape[1] * (2 if self.bits == 4 else 1)

    @property
    def shape(self) -> torch.Size:
        """[out, in]."""
        return torch.Size((self.q.shape[0], self.in_features))

    @property
    def group(self) -> int:
        """Number of adjacent columns that share a scale."""
        return self.in_features // self.scale.shape[1]

    @property
    def kind(self) -> str:
        """The format for people: "int8" with one scale per row, "int4 g32" with groups of 32."""
        per_row = self.group == self.in_features
        return f"int{self.bits}" if per_row else f"int{self.bits} g{self.group}"

    def has_same_format(self, other: PackedWeight) -> bool:
        """Whether the rows of both can be concatenated (`cat`)."""
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
        """The same weight with smaller groups, whose scales are repeated.

        Args:
            group: a divisor of the present one.
        """
        repeats = self.group // group
        zero = None if self.zero is None else self.zero.repeat_interleave(repeats, 1)
        return PackedWeight(self.q, self.scale.repeat_interleave(repeats, 1), zero, self.order)

    def integers(self) -> Tensor:
        """q unpacked, [out, in]: uint8 0..15 for 4 bits, int8 for 8 bits."""
        return self.q if self.bits == 8 else unpack_nibbles(self.q)

    def dequantize(self, dtype: torch.dtype) -> Tensor:
        """The weight, [out, in], computed in float32 and rounded once to `dtype`."""
        weight = torch.empty(self.shape, dtype=dtype, device=self.q.device)
        columns = None if self.order is None else self.order.argsort()
        block = CPU_BLOCK if self.q.device.type == "cpu" else GPU_BLOCK
        for rows in row_blocks(self.shape, block=block):
            part = self[rows]
            grouped = part.integers().view(*part.scale.shape, self.group).float()
            grouped *= part.scale.float().unsqueeze(-1)
            if part.zero is not None:
                grouped += part.zero.float().unsqueeze(-1)
            values = grouped.flatten(1)
            weight[rows] = values if columns is None else values[:, columns]
        return weight

    def to(self, device: torch.device) -> PackedWeight:
        zero, order = (t if t is None else t.to(device) for t in (self.zero, self.order))
        return PackedWeight(self.q.to(device), self.scale.to(device), zero, order)

    def contiguous(self) -> PackedWeight:
        zero = None if self.zero is None else self.zero.contiguous()
        return PackedWeight(self.q.contiguous(), self.scale.contiguous(), zero, self.order)

    @staticmethod
    def cat(parts: Sequence[PackedWeight]) -> PackedWeight:
        """Concatenates the rows of weights of the same format."""
        zeros = [part.zero for part in parts if part.zero is not None]
        return PackedWeight(
            torch.cat([part.q for part in parts]),
            torch.cat([part.scale for part in parts]),
            torch.cat(zeros) if zeros else None,
            parts[0].order,
        )


def pack_nibbles(numbers: Tensor) -> Tensor:
    """Packs uint8 [rows, n] of 0..15 into uint8 [rows, n / 2], even columns in the low halves."""
    return numbers[:, ::2] | numbers[:, 1::2] << 4


def unpack_nibbles(q: Tensor) -> Tensor:
    """The inverse of `pack_nibbles`."""
    return torch.stack((q & 15, q >> 4), dim=-1).flatten(1)


def row_blocks(
    shape: Sequence[int], multiple: int = 1, *, block: int = CPU_BLOCK
) -> Iterator[slice]:
    """Slices of the rows of a [rows, columns] matrix, of about `block` elements each.

    Args:
        multiple: the number of rows of each slice, except the last, is a multiple of this.
    """
    rows, columns = shape
    step = max(block // columns // multiple, 1) * multiple
    for start in range(0, rows, step):
        yield slice(start, min(start + step, rows))


def quantize(
    weight: Tensor, bits: int, group: int | None = None, importance: Tensor | None = None
) -> PackedWeight:
    """Quantizes a [out, in] weight, a block of rows at a time.

    4 bits: asymmetric, from the minimum to the maximum of each group. With `importance`, a search
    finds the scale and zero with the least weighted error; this takes about twenty times as long.
    8 bits: symmetric, scaled by the largest magnitude of each group.

    Args:
        group: columns that share a scale; reduced to a divisor of the row. None is the whole row.
        importance: float [in], the relative weight of an error in each column, such as the mean
            square of its activations. Ignored for 8 bits.
    """
    rows, columns = weight.shape
    group = math.gcd(group or 0, columns)
    empty = partial(torch.empty, device=weight.device)
    scale = empty(rows, columns // group, dtype=torch.float16)
    if bits == 8:
        packed = PackedWeight(empty(rows, columns, dtype=torch.int8), scale)
    else:
        packed = PackedWeight(empty(rows, columns // 2, dtype=torch.uint8), scale, scale.clone())
    error_weights = None
    if bits == 4 and importance is not None:
        error_weights = _error_weights(importance.float().view(-1, group))
    elif can_quantize(weight, group):
        quantize_into(packed.q, packed.scale, packed.zero, weight, LEAST_SCALE)
        return packed
    block = CPU_BLOCK if error_weights is None else SEARCH_BLOCK
    for block_rows in row_blocks(weight.shape, block=block):
        grouped = weight[block_rows].float().reshape(-1, columns // group, group)
        if bits == 8:
            _quantize_int8(packed[block_rows], grouped)
        else:
            _quantize_int4(packed[block_rows], grouped, error_weights)
    return packed


def _quantize_int8(packed: PackedWeight, grouped: Tensor) -> None:
    """Fills `packed` from float32 [rows, groups, group]."""
    # rounded to float16 before q is computed, so that q is the best choice for the stored scale
    packed.scale.copy_((grouped.abs().amax(-1) / 127).clamp_min_(LEAST_SCALE))
    q = grouped / packed.scale.float().unsqueeze(-1)
    packed.q.copy_(q.round_().clamp_(-127, 127).flatten(1))


def _quantize_int4(packed: PackedWeight, grouped: Tensor, error_weights: Tensor | None) -> None:
    """Fills `packed` from float32 [rows, groups, group]."""
    assert packed.zero is not None
    low, high = grouped.amin(-1, keepdim=True), grouped.amax(-1, keepdim=True)
    step = ((high - low) / 15).clamp_min_(LEAST_SCALE)
    if error_weights is not None:
        slope, offset = _search_scale_and_zero((grouped - low).div_(step), error_weights)
        low += offset * step
        step = (slope * step).clamp_min_(LEAST_SCALE)
    packed.scale.copy_(step.squeeze(-1))
    packed.zero.copy_(low.squeeze(-1))
    q = (grouped - packed.zero.float().unsqueeze(-1)).div_(packed.scale.float().unsqueeze(-1))
    packed.q.copy_(pack_nibbles(q.round_().clamp_(0, 15).to(torch.uint8).flatten(1)))


def _search_scale_and_zero(t: Tensor, error_weights: Tensor) -> tuple[Tensor, Tensor]:
    """Fits slope * q + offset to t, with integers q in 0..15 and the least weighted squared error.

    As `make_qkx2_quants` in llama.cpp: rounds t within several ranges, and fits a line to each
    result by weighted least squares. The error of the fit follows from the same sums. A group that
    already is a grid of 16 values gets slope 1 and offset 0.

    Args:
        t: float32 [rows, groups, group], scaled to 0..15 in each group.
        error_weights: [groups, group], which sum to 1 in each group.

    Returns:
        slope and offset, each [rows, groups, 1].
    """
    buffer, q = torch.empty_like(t), torch.empty_like(t)

    def mean(values: Tensor, factor: Tensor | None = None) -> Tensor:
        if factor is not None:
            values = torch.mul(values, factor, out=buffer)
        return torch.mul(values, error_weights, out=buffer).sum(-1, keepdim=True)

    mean_t = mean(t)
    variance_t = mean(t, t) - mean_t * mean_t
    torch.round(t, out=q).sub_(t)
    on_grid = mean(q, q) < GRID_ERROR
    slope = offset = error = torch.full_like(mean_t, torch.inf)
    for factor in RANGE_FACTORS:
        torch.mul(t, 1 / factor, out=q).add_(7.5 - 7.5 / factor).round_().clamp_(0, 15)
        mean_q = mean(q)
        variance_q = (mean(q, q) - mean_q * mean_q).clamp_min_(LEAST_VARIANCE)
        covariance = mean(q, t) - mean_q * mean_t
        new_slope = covariance / variance_q
        new_error = variance_t - new_slope * covariance
        better = new_error < error
        error = torch.where(better, new_error, error)
        slope = torch.where(better, new_slope, slope)
        offset = torch.where(better, mean_t - new_slope * mean_q, offset)
    return slope.masked_fill_(on_grid, 1), offset.masked_fill_(on_grid, 0)


def _error_weights(importance: Tensor) -> Tensor:
    """Normalizes an importance, [groups, group], to positive weights that sum to 1 per group."""
    mean = importance.mean(-1, keepdim=True)
    weights = importance + LEAST_IMPORTANCE * mean + torch.finfo(torch.float32).tiny
    return weights / weights.sum(-1, keepdim=True)


def requantize_per_row(weight: PackedWeight) -> PackedWeight:
    """An 8-bit weight with one scale per row instead of groups; quantized again, so not exact."""
    blocks = row_blocks(weight.shape)
    return PackedWeight.cat([quantize(weight[b].dequantize(torch.float32), 8) for b in blocks])


def to_dense(weight: Tensor | PackedWeight, dtype: torch.dtype) -> Tensor:
    """The weight as a plain tensor in `dtype`."""
    return weight.to(dtype) if isinstance(weight, Tensor) else weight.dequantize(dtype)


def concat_rows(
    parts: Sequence[Tensor | PackedWeight], dtype: torch.dtype
) -> Tensor | PackedWeight:
    """Concatenates rows; packed parts of different formats are all unpacked to `dtype`."""
    if len(parts) == 1:
        return parts[0]
    packed = [part for part in parts if isinstance(part, PackedWeight)]
    if len(packed) == len(parts) and all(part.has_same_format(packed[0]) for part in packed):
        return PackedWeight.cat(packed)
    if not packed:
        return torch.cat([part for part in parts if isinstance(part, Tensor)])
    return torch.cat([to_dense(part, dtype) for part in parts])
