"""Linear layers on an NVIDIA GPU: torch's int4 kernel (tinygemm) and the Triton kernels.

For a few tokens, a kernel reads the packed weight once. For more tokens, the weight is unpacked for
a plain matrix product. `kernel_selection` checks each kernel on the GPU before it is used.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from glmtui.engine.nn.linear.cpu_torch import int4_group, scales_and_zeros
from glmtui.engine.nn.linear.kernel_selection import Kernel
from glmtui.engine.nn.linear.reference import GEMV_ROWS, LinearLayer, add_bias_and_reshape
from glmtui.engine.nn.packed_weight import GPU_BLOCK, PackedWeight, row_blocks, unpack_nibbles

# of tinygemm
TILE_ROWS = 8  # rows of a tile of the weight
K_TILES = (8, 4, 2)  # supported numbers of 16-column tiles that are packed together
TINYGEMM_CAPABILITY = (8, 0)
TRITON_CAPABILITY = (7, 0)


def kernels() -> Sequence[Kernel]:
    """The kernels that are installed."""
    found = [Kernel("tinygemm", tinygemm_supports, TinygemmLinear)]
    if importlib.util.find_spec("triton"):
        found.append(Kernel("triton", triton_supports, TritonLinear))
    return found


# ---- torch's own int4


def tinygemm_supports(weight: PackedWeight, dtype: torch.dtype) -> bool:
    """int4, a group that torch supports (`int4_group`), whole tiles, activations in bfloat16."""
    rows, columns = weight.shape
    return (
        weight.bits == 4
        and dtype == torch.bfloat16
        and int4_group(weight) > 0
        and rows % TILE_ROWS == 0
        and _k_tiles(columns) is not None
        and torch.cuda.get_device_capability(weight.q.device) >= TINYGEMM_CAPABILITY
    )


def _k_tiles(columns: int) -> int | None:
    return next((tiles for tiles in K_TILES if columns % (16 * tiles) == 0), None)


def convert_to_int4pack(q: Tensor, tiles: int) -> Tensor:
    packed: Tensor = torch.ops.aten._convert_weight_to_int4pack(q, tiles)
    return packed


def int4pack_mm(x: Tensor, packed: Tensor, group: int, scales_and_zeros: Tensor) -> Tensor:
    y: Tensor = torch.ops.aten._weight_int4pack_mm(x, packed, group, scales_and_zeros)
    return y


class TinygemmLinear(LinearLayer):
    """x @ W.T + bias with `aten::_weight_int4pack_mm`; W is int4, x is bfloat16.

    Only the packed weight is stored; products with many tokens unpack it at every call.
    """

    def __init__(self, weight: PackedWeight, bias: Tensor | None, dtype: torch.dtype) -> None:
        super().__init__()
        group = int4_group(weight)
        tiles = _k_tiles(weight.in_features)
        assert group, "call tinygemm_supports() first"
        assert tiles is not None, "call tinygemm_supports() first"
        weight = weight.regroup(group)
        self.group = group
        self.scales_and_zeros = scales_and_zeros(weight)
        swapped = weight.q >> 4 | weight.q << 4  # torch expects the even column in the high half
        self.packed = convert_to_int4pack(swapped, tiles)
        self.bias = bias
        self.nbytes = self.packed.nbytes + self.scales_and_zeros.nbytes

    def forward(self, x: Tensor) -> Tensor:
        flat = x.reshape(-1, x.shape[-1])
        if flat.shape[0] <= GEMV_ROWS:
            y = int4pack_mm(flat, self.packed, self.group, self.scales_and_zeros)
        else:
            y = F.linear(flat, self._unpacked())
        return add_bias_and_reshape(y, self.bias, x.shape)

    def _unpacked(self) -> Tensor:
        """W in bfloat16, [out, in], unpacked in blocks of rows to save memory."""
        groups, rows, _two = self.scales_and_zeros.shape
        unpacked = self.scales_and_zeros.new_empty(rows, groups, self.group)
        for block in row_blocks((rows, groups * self.group), TILE_ROWS, block=GPU_BLOCK):
            q = unpack_tinygemm(self.packed[block.start // TILE_ROWS : block.stop // TILE_ROWS])
            scale, zero = self.scales_and_zeros[:, block].transpose(0, 1).unsqueeze(2).unbind(-1)
            grouped = q.view(-1, groups, self.group).to(torch.bfloat16).sub_(8)
            torch.addcmul(zero, grouped, scale, out=unpacked[block])
        return unpacked.flatten(1)


def unpack_tinygemm(packed: Tensor) -> Tensor:
    """Unpacks tinygemm's format, which follows the m16n8k16 tiles of tensor cores.

    An int32 has eight numbers of one row. Its first two bytes have the even column of each pair,
    the last two the odd one. The halves of a byte are eight columns apart
    (`matrix_to_m16n8k16_Bint4_layout` in ATen/native/cuda/int4mm.cu).

    Args:
        packed: int32 [out / 8, in / (16 * K), 32, K / 2].

    Returns:
        uint8 [out, in], values 0..15.
    """
    high, wide, _, pairs = packed.shape
    halves = unpack_nibbles(packed.contiguous().view(-1, 1).view(torch.uint8))
    # dimensions: row tile, column tile, row, column pair, pair of tiles, then odd, tile, half
    tiles = halves.view(high, wide, 8, 4, pairs, 2, 2, 2)
    return tiles.permute(0, 2, 1, 4, 6, 7, 3, 5).reshape(high * TILE_ROWS, -1)


# ---- Triton


def triton_supports(weight: PackedWeight, dtype: torch.dtype) -> bool:
    """Groups divisible by 16 columns, activations in 16 bits."""
    return (
        dtype in (torch.float16, torch.bfloat16)
        and torch.cuda.get_device_capability(weight.q.device) >= TRITON_CAPABILITY
        and bool(_triton_kernels().supports(weight))
    )


class TritonLinear(LinearLayer):
    """x @ W.T + bias with the Triton kernels; W is int4 or int8, x is float16 or bfloat16."""

    def __init__(self, weight: PackedWeight, bias: Tensor | None, dtype: torch.dtype) -> None:
        super().__init__()
        self._kernels = _triton_kernels()
        self.weight = weight.contiguous()
        self.dtype = dtype
        self.bias = bias
        self.nbytes = weight.nbytes

    def forward(self, x: Tensor) -> Tensor:
        flat = x.reshape(-1, x.shape[-1]).contiguous()
        with torch.cuda.device(flat.device):  # Triton launches on the current GPU
            if flat.shape[0] <= GEMV_ROWS:
                y: Tensor = self._kernels.multiply(flat, self.weight, self.bias)
                return y.view(*x.shape[:-1], y.shape[-1])
            unpacked = self._kernels.unpack(self.weight, self.dtype)
        return F.linear(x, unpacked, self.bias)


def _triton_kernels() -> Any:
    """Imports the kernels late: importing Triton takes a second, and it may not be installed."""
    from glmtui.engine.nn.linear import triton_kernels

    return triton_kernels
