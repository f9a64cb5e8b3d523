"""Linear layers on a CPU with torch's own kernels, for activations in bfloat16.

For a few tokens, torch's packed kernels are faster, because they read the small packed weight; they
are fast only in bfloat16. For more tokens, the weight is unpacked for a plain matrix product in the
dtype that this CPU is fastest in (`product_dtype`).
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor
from torch.nn import functional as F

from glmtui.engine.nn.cpu_dtype import product_dtype
from glmtui.engine.nn.linear.kernel_selection import Kernel
from glmtui.engine.nn.linear.reference import (
    GEMV_ROWS,
    DenseLinear,
    LinearLayer,
    add_bias_and_reshape,
)
from glmtui.engine.nn.packed_weight import PackedWeight, requantize_per_row, row_blocks

INT4_GROUPS = (256, 128, 64, 32)  # group sizes that torch's int4 kernels support
# torch's int8 kernel reads this many columns at a time, beyond the end of rows of other lengths
INT8_COLUMNS = 16
# up to this many tokens at once, the packed kernels are faster than plain products in float32
FEW_INT4, FEW_INT8 = 64, 16


class CpuHalfLinear(DenseLinear):
    """x @ W.T + bias on a CPU; W is float16 or bfloat16, x is bfloat16.

    For a few tokens the product is in W's dtype (float16 is twice as fast as bfloat16). For more
    tokens it is in `product_dtype`.
    """

    def forward(self, x: Tensor) -> Tensor:
        few = x.numel() // x.shape[-1] <= GEMV_ROWS
        dtype = self.weight.dtype if few else product_dtype()
        y = F.linear(x.to(dtype), self.weight.to(dtype)).to(x.dtype)
        return y if self.bias is None else y + self.bias


class CpuInt8Linear(LinearLayer):
    """x @ W.T + bias on a CPU; W is int8 with one scale per row, x is bfloat16."""

    def __init__(self, weight: PackedWeight, bias: Tensor | None) -> None:
        super().__init__()
        self.q = weight.q
        self.scale = weight.scale[:, 0].to(torch.bfloat16)
        self.bias = bias
        self.nbytes = self.q.nbytes + self.scale.nbytes

    def forward(self, x: Tensor) -> Tensor:
        flat = x.reshape(-1, self.q.shape[1])
        dtype = product_dtype()
        if flat.shape[0] <= (GEMV_ROWS if dtype == x.dtype else FEW_INT8):
            y = torch.ops.aten._weight_int8pack_mm(flat, self.q, self.scale)
        else:
            y = (F.linear(flat.to(dtype), self.q.to(dtype)) * self.scale).to(x.dtype)
        return add_bias_and_reshape(y, self.bias, x.shape)


class CpuInt4Linear(LinearLayer):
    """x @ W.T + bias on a CPU; W is in torch's int4 format, x is bfloat16.

    Only the packed weight is stored; products with many tokens unpack it at every call.
    """

    def __init__(self, weight: PackedWeight, bias: Tensor | None) -> None:
        super().__init__()
        self.rows, self.columns = weight.shape
        self.group = weight.group
        padding = (0, 0, 0, -self.rows % packed_block())
        self.scales_and_zeros = F.pad(scales_and_zeros(weight), padding)
        self.packed = pack_for_cpu(weight.q)
        self.bias = bias
        self.nbytes = self.packed.nbytes + self.scales_and_zeros.nbytes

    def forward(self, x: Tensor) -> Tensor:
        flat = x.reshape(-1, self.columns)
        dtype = product_dtype()
        if flat.shape[0] <= (GEMV_ROWS if dtype == x.dtype else FEW_INT4):
            y = torch.ops.aten._weight_int4pack_mm_for_cpu(
                flat, self.packed, self.group, self.scales_and_zeros
            )
        else:
            y = (flat.to(dtype) @ self._transposed(dtype)).to(x.dtype)
        if y.shape[1] != self.rows:
            y = y[:, : self.rows]
        return add_bias_and_reshape(y, self.bias, x.shape)

    def _transposed(self, dtype: torch.dtype) -> Tensor:
        """W.T in `dtype`, [in, padded out], unpacked from the format of `pack_for_cpu`."""
        half = packed_block() // 2
        packed = self.packed.view(-1, self.columns, half)
        q = torch.empty(self.columns, packed.shape[0], 2, half, dtype=dtype)
        q[:, :, 0] = (packed & 15).transpose(0, 1)
        q[:, :, 1] = (packed >> 4).transpose(0, 1)
        scale, zero = (part.to(dtype).contiguous() for part in self.scales_and_zeros.unbind(-1))
        grouped = q.view(scale.shape[0], self.group, -1).sub_(8)
        return torch.addcmul(zero.unsqueeze(1), grouped, scale.unsqueeze(1)).view(self.columns, -1)


def int4_group(weight: PackedWeight) -> int:
    """The largest of INT4_GROUPS that divides the weight's group; 0 if there is none."""
    return next((group for group in INT4_GROUPS if weight.group % group == 0), 0)


def scales_and_zeros(weight: PackedWeight) -> Tensor:
    """Scales and zeros for torch's int4 kernels, which compute (q - 8) * scale + zero.

    Returns:
        bfloat16 [groups, out, 2].
    """
    scale = weight.scale.float()
    zero = torch.zeros_like(scale) if weight.zero is None else weight.zero.float()
    both = torch.stack((scale, zero + 8 * scale), dim=-1)
    return both.to(torch.bfloat16).transpose(0, 1).contiguous()


def _supports_int4(weight: PackedWeight, dtype: torch.dtype) -> bool:
    fits = weight.bits == 4 and int4_group(weight) > 0 and packed_block() > 0
    return fits and weight.order is None and dtype == torch.bfloat16


def _make_int4(weight: PackedWeight, bias: Tensor | None, dtype: torch.dtype) -> LinearLayer:
    return CpuInt4Linear(weight.regroup(int4_group(weight)), bias)


def _supports_int8(weight: PackedWeight, dtype: torch.dtype) -> bool:
    aligned = weight.in_features % INT8_COLUMNS == 0
    return weight.bits == 8 and aligned and weight.order is None and dtype == torch.bfloat16


def _make_int8(weight: PackedWeight, bias: Tensor | None, dtype: torch.dtype) -> LinearLayer:
    """Makes the layer; torch's kernel needs one scale per row, which loses almost no precision."""
    one_scale = weight.group == weight.in_features and weight.zero is None
    return CpuInt8Linear(weight if one_scale else requantize_per_row(weight), bias)


KERNELS = (
    Kernel("torch int4", _supports_int4, _make_int4),
    Kernel("torch int8", _supports_int8, _make_int8),
)


def pack_for_cpu(q: Tensor) -> Tensor:
    """Converts `PackedWeight.q` of 4 bits, uint8 [rows, in / 2], to torch's int4 format for CPUs.

    Equal to `_convert_weight_to_int4pack_for_cpu`, but many times faster, because it does not
    unpack to int32. The bytes of a column within a block of rows (see `packed_block`) are adjacent:
    the first half of the rows is in their low halves, the second half in the high halves.

    Returns:
        uint8 [rows rounded up to whole blocks, in / 2].
    """
    block = packed_block()
    if q.shape[0] % block:
        q = F.pad(q, (0, 0, 0, -q.shape[0] % block))
    packed = torch.empty_like(q)
    for rows in row_blocks(q.shape, block):
        first, second = q[rows].view(-1, 2, block // 2, q.shape[1]).transpose(2, 3).unbind(1)
        even, odd = packed[rows].view(-1, q.shape[1], 2, block // 2).unbind(2)
        even.copy_(first & 15 | second << 4)
        odd.copy_(first >> 4 | second & 0xF0)
    return packed


@functools.cache
def packed_block() -> int:
    """Rows per block of torch's int4 format on this CPU; 0 if the format is unknown.

    It is 64 or 32, depending on the instruction set. Packing a test weight with torch shows which.
    """
    q = torch.arange(64 * 64, dtype=torch.int32).view(64, 64) * 7 % 16
    packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(q, 1)
    for block in (64, 32):
        blocks = packed.view(-1, 64, block // 2)
        rows = torch.cat((blocks & 15, blocks >> 4), dim=-1).transpose(1, 2).reshape(64, 64)
        if torch.equal(rows, q.to(torch.uint8)):
            return block
    return 0
