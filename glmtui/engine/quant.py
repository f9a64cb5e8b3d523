"""Weights in 4 and 8 bits: how they are packed, unpacked, and multiplied with.

`PackedWeight` is the one form every source is brought into (our prepared folders, GGUF blocks,
ChatGLM's own checkpoints, weights quantised while loading). A Linear swap in the manner of
gpt-fast turns it into a module for the device at hand. Knows nothing of models or files.

On a CPU one token at a time goes through torch's packed kernels, which read the weights once at
their small size and are fast in bfloat16 only; more tokens at once unpack the weight and use a
plain matrix product, which is faster than the packed kernels from about 8 tokens on.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from glmtui.errors import BadCheckpoint

GEMV_ROWS = 4  # up to this many tokens at once the packed kernels win
INT4_GROUPS = (32, 64, 128, 256)  # what torch's int4 kernels take


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

    def unpacked(self) -> Tensor:
        """The integers, [out, in]: uint8 0..15 of 4 bits, int8 of 8."""
        if self.bits == 8:
            return self.q
        return torch.stack((self.q & 15, self.q >> 4), dim=-1).flatten(1)

    def dequantize(self, dtype: torch.dtype) -> Tensor:
        """The weight it stands for, [out, in], computed in float32 and then rounded to `dtype`."""
        q = self.unpacked().view(self.shape[0], -1, self.group).float()
        weight = q * self.scale.float().unsqueeze(-1)
        if self.zero is not None:
            weight += self.zero.float().unsqueeze(-1)
        return weight.view(self.shape).to(dtype)

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


class PackedLinear(nn.Module):
    """x @ W.T + bias with W kept packed and unpacked anew at every call: any device, any dtype."""

    bias: Tensor | None

    def __init__(self, weight: PackedWeight, bias: Tensor | None, dtype: torch.dtype) -> None:
        super().__init__()
        self.weight = weight
        self.dtype = dtype
        self.register_buffer("bias", bias)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight.dequantize(self.dtype), self.bias)

    @property
    def nbytes(self) -> int:
        return self.weight.nbytes


class CpuInt4Linear(nn.Module):
    """x @ W.T + bias on a CPU, W in torch's own int4 packing, x in bfloat16.

    The packed weight is the only copy: products with many rows unpack it on the fly.
    """

    scales_and_zeros: Tensor
    packed: Tensor
    bias: Tensor | None

    def __init__(self, weight: PackedWeight, bias: Tensor | None) -> None:
        super().__init__()
        rows, self.columns = weight.shape
        self.group = weight.group
        self.rows = rows
        padded = -rows % _packed_block()
        q = F.pad(weight.unpacked(), (0, 0, 0, padded)).int()
        scale = F.pad(weight.scale.float(), (0, 0, 0, padded))
        zero = torch.zeros_like(scale)
        if weight.zero is not None:
            zero = F.pad(weight.zero.float(), (0, 0, 0, padded))
        # the kernel computes (q - 8) * scale + zero
        both = torch.stack((scale, zero + 8 * scale), dim=-1).transpose(0, 1)
        self.register_buffer("packed", torch.ops.aten._convert_weight_to_int4pack_for_cpu(q, 1))
        self.register_buffer("scales_and_zeros", both.to(torch.bfloat16).contiguous())
        self.register_buffer("bias", bias)

    def forward(self, x: Tensor) -> Tensor:
        flat = x.reshape(-1, self.columns)
        if flat.shape[0] <= GEMV_ROWS:
            y = torch.ops.aten._weight_int4pack_mm_for_cpu(
                flat, self.packed, self.group, self.scales_and_zeros
            )
        else:
            y = flat @ self._transposed()
        if y.shape[1] != self.rows:
            y = y[:, : self.rows]
        if self.bias is not None:
            y = y + self.bias
        return y.view(*x.shape[:-1], self.rows)

    def _transposed(self) -> Tensor:
        """W.T in bfloat16, [in, out padded], straight from the packed bytes.

        torch packs blocks of 32 or 64 output rows (by instruction set; `_packed_block` finds out
        which): for each column the first half of the block's rows lies in the low halves of its
        bytes, the second half in the high ones.
        """
        half = _packed_block() // 2
        packed = self.packed.view(-1, self.columns, half)
        q = torch.empty(self.columns, packed.shape[0], 2, half, dtype=torch.bfloat16)
        q[:, :, 0] = (packed & 15).transpose(0, 1)
        q[:, :, 1] = (packed >> 4).transpose(0, 1)
        scale, zero = self.scales_and_zeros.unbind(-1)
        # the group's zero as the kernel sees it belongs to q = 8
        grouped = q.view(scale.shape[0], self.group, -1).sub_(8)
        return torch.addcmul(zero.unsqueeze(1), grouped, scale.unsqueeze(1)).view(self.columns, -1)

    @property
    def nbytes(self) -> int:
        return self.packed.nbytes + self.scales_and_zeros.nbytes


class CpuInt8Linear(nn.Module):
    """x @ W.T + bias on a CPU, W in int8 with one scale per row, x in bfloat16."""

    q: Tensor
    scale: Tensor
    bias: Tensor | None

    def __init__(self, weight: PackedWeight, bias: Tensor | None) -> None:
        super().__init__()
        self.register_buffer("q", weight.q)
        self.register_buffer("scale", weight.scale[:, 0].to(torch.bfloat16))
        self.register_buffer("bias", bias)

    def forward(self, x: Tensor) -> Tensor:
        flat = x.reshape(-1, self.q.shape[1])
        if flat.shape[0] <= GEMV_ROWS:
            y = torch.ops.aten._weight_int8pack_mm(flat, self.q, self.scale)
        else:
            y = F.linear(flat, self.q.to(torch.bfloat16)) * self.scale
        if self.bias is not None:
            y = y + self.bias
        return y.view(*x.shape[:-1], self.q.shape[0])

    @property
    def nbytes(self) -> int:
        return self.q.nbytes + self.scale.nbytes


class Linear(nn.Module):
    """x @ W.T + bias in the dtype of W."""

    weight: Tensor
    bias: Tensor | None

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.register_buffer("weight", weight)
        self.register_buffer("bias", bias)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)

    @property
    def nbytes(self) -> int:
        return self.weight.nbytes


class CpuHalfLinear(nn.Module):
    """x @ W.T on a CPU, W in float16, x in bfloat16.

    One row at a time is multiplied in float16, which reads the weight at twice bfloat16's speed;
    many rows in bfloat16, whose matrix product is many times faster than float16's.
    """

    weight: Tensor

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.register_buffer("weight", weight)

    def forward(self, x: Tensor) -> Tensor:
        if x.numel() // x.shape[-1] <= GEMV_ROWS:
            return F.linear(x.half(), self.weight)
        return F.linear(x, self.weight.to(x.dtype))


def make_head(table: Tensor, dtype: torch.dtype) -> nn.Module:
    """The module that turns activations of `dtype` into logits by a [vocab, hidden] table."""
    if table.dtype == torch.float16 and dtype == torch.bfloat16:
        return CpuHalfLinear(table)
    return Linear(table, None)


def make_linear(
    weight: Tensor | PackedWeight, bias: Tensor | None, dtype: torch.dtype
) -> nn.Module:
    """The module that multiplies with this weight fastest where it lies.

    Args:
        weight: [out, in], on the device that will hold it.
        bias: [out] or None.
        dtype: of the activations.
    """
    if bias is not None:
        bias = bias.to(dtype)
    if isinstance(weight, Tensor):
        return Linear(weight.to(dtype), bias)
    if weight.q.device.type == "cpu" and dtype == torch.bfloat16:
        if weight.bits == 4 and weight.group in INT4_GROUPS and _packed_block():
            return CpuInt4Linear(weight, bias)
        if weight.bits == 8 and weight.group == weight.in_features and weight.zero is None:
            return CpuInt8Linear(weight, bias)
    return PackedLinear(weight, bias, dtype)


@functools.cache
def _packed_block() -> int:
    """How many rows torch's int4 packing keeps together on this CPU; 0 for a layout unknown."""
    q = torch.arange(64 * 64, dtype=torch.int32).view(64, 64) * 7 % 16
    packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(q, 1)
    for block in (64, 32):
        blocks = packed.view(-1, 64, block // 2)
        rows = torch.cat((blocks & 15, blocks >> 4), dim=-1).transpose(1, 2).reshape(64, 64)
        if torch.equal(rows, q.to(torch.uint8)):
            return block
    return 0
