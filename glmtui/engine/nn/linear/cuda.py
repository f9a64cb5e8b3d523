"""Linear layers on an NVIDIA GPU.

A few tokens are multiplied by a kernel that reads the packed weight once, many by a plain matrix
product with the weight unpacked.

Written against the sources of torch and Triton. The Triton kernels run in Triton's interpreter and
compile for compute capabilities 7.5 to 12.0; none of this has run on a GPU by its authors.
`choice` proves each on the device that is to use it.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from glmtui.engine.nn.linear.cpu_torch import INT4_GROUPS
from glmtui.engine.nn.linear.kernel_selection import Kernel
from glmtui.engine.nn.linear.reference import GEMV_ROWS, LinearLayer, add_bias_and_reshape
from glmtui.engine.nn.packed_weight import GPU_BLOCK, PackedWeight, row_blocks, unpack_nibbles

TILE_ROWS = 8  # of the weight
K_TILES = (8, 4, 2)  # how many tiles of 16 columns tinygemm can pack together
TINYGEMM_CAPABILITY = (8, 0)
TRITON_CAPABILITY = (7, 0)


def kernels() -> Sequence[Kernel]:
    """Those that can be tried here."""
    found = [Kernel("tinygemm", tinygemm_supports, TinygemmLinear)]
    if importlib.util.find_spec("triton"):
        found.append(Kernel("triton", triton_supports, TritonLinear))
    return found


# ---- torch's own int4


def tinygemm_supports(weight: PackedWeight, dtype: torch.dtype) -> bool:
    """Int4 in groups that divide into torch's, rows and columns in whole tiles, bfloat16."""
    rows, columns = weight.shape
    return (
        weight.bits == 4
        and dtype == torch.bfloat16
        and _tinygemm_group(weight) is not None
        and rows % TILE_ROWS == 0
        and _k_tiles(columns) is not None
        and torch.cuda.get_device_capability(weight.q.device) >= TINYGEMM_CAPABILITY
    )


def _tinygemm_group(weight: PackedWeight) -> int | None:
    return next((group for group in INT4_GROUPS if weight.group % group == 0), None)


def _k_tiles(columns: int) -> int | None:
    return next((tiles for tiles in K_TILES if columns % (16 * tiles) == 0), None)


def convert_to_int4pack(theirs: Tensor, tiles: int) -> Tensor:
    packed: Tensor = torch.ops.aten._convert_weight_to_int4pack(theirs, tiles)
    return packed


def int4pack_mm(x: Tensor, packed: Tensor, group: int, scales_and_zeros: Tensor) -> Tensor:
    y: Tensor = torch.ops.aten._weight_int4pack_mm(x, packed, group, scales_and_zeros)
    return y


class TinygemmLinear(LinearLayer):
    """x @ W.T + bias by `aten::_weight_int4pack_mm`, W in int4, x in bfloat16.

    The packed weight is the only copy: products with many rows unpack it on the fly.
    """

    def __init__(self, weight: PackedWeight, bias: Tensor | None, dtype: torch.dtype) -> None:
        super().__init__()
        group = _tinygemm_group(weight)
        tiles = _k_tiles(weight.in_features)
        assert group is not None, "`tinygemm_supports` was not asked"
        assert tiles is not None, "`tinygemm_supports` was not asked"
        weight = weight.regroup(group)
        self.group = group
        self.scales_and_zeros = scales_and_zeros(weight)
        # it wants the even column in the high half
        theirs = weight.q >> 4 | weight.q << 4
        self.packed = convert_to_int4pack(theirs, tiles)
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
        """W in bfloat16, [out, in]; some rows at a time, to take little memory beside it."""
        groups, rows, _two = self.scales_and_zeros.shape
        whole = self.scales_and_zeros.new_empty(rows, groups, self.group)
        for some in row_blocks((rows, groups * self.group), TILE_ROWS, block=GPU_BLOCK):
            q = unpack_tinygemm(self.packed[some.start // TILE_ROWS : some.stop // TILE_ROWS])
            scale, zero = self.scales_and_zeros[:, some].transpose(0, 1).unsqueeze(2).unbind(-1)
            grouped = q.view(-1, groups, self.group).to(torch.bfloat16).sub_(8)
            torch.addcmul(zero, grouped, scale, out=whole[some])
        return whole.flatten(1)


def scales_and_zeros(weight: PackedWeight) -> Tensor:
    """As torch's int4 kernels want them: they compute (q - 8) * scale + zero.

    Returns:
        bfloat16 [groups, out, 2].
    """
    scale = weight.scale.float()
    zero = torch.zeros_like(scale) if weight.zero is None else weight.zero.float()
    both = torch.stack((scale, zero + 8 * scale), dim=-1)
    return both.to(torch.bfloat16).transpose(0, 1).contiguous()


def unpack_tinygemm(packed: Tensor) -> Tensor:
    """The integers in tinygemm's packing, which follows the tensor cores' m16n8k16 tiles.

    Eight numbers of one row are in an int32: of its bytes the first two have the even column of a
    pair, the last two the odd, and a byte's halves are eight columns apart
    (`matrix_to_m16n8k16_Bint4_layout` in ATen/native/cuda/int4mm.cu).

    Args:
        packed: int32 [out / 8, in / (16 * K), 32, K / 2].

    Returns:
        uint8 [out, in], values 0..15.
    """
    high, wide, _, pairs = packed.shape
    halves = unpack_nibbles(packed.contiguous().view(-1, 1).view(torch.uint8))
    # row, and column in a tile; then which of two tiles, which half of it: odd, tile, half
    tiles = halves.view(high, wide, 8, 4, pairs, 2, 2, 2)
    return tiles.permute(0, 2, 1, 4, 6, 7, 3, 5).reshape(high * TILE_ROWS, -1)


# ---- Triton


def triton_supports(weight: PackedWeight, dtype: torch.dtype) -> bool:
    """Groups of at least 16 columns, activations in 16 bits."""
    return (
        dtype in (torch.float16, torch.bfloat16)
        and torch.cuda.get_device_capability(weight.q.device) >= TRITON_CAPABILITY
        and bool(_triton_kernels().packs(weight))
    )


class TritonLinear(LinearLayer):
    """x @ W.T + bias by our Triton kernels: int4 or int8 in groups, x in float16 or bfloat16."""

    def __init__(self, weight: PackedWeight, bias: Tensor | None, dtype: torch.dtype) -> None:
        super().__init__()
        self._kernels = _triton_kernels()
        self.weight = weight.contiguous()
        self.dtype = dtype
        self.bias = bias
        self.nbytes = weight.nbytes

    def forward(self, x: Tensor) -> Tensor:
        flat = x.reshape(-1, x.shape[-1]).contiguous()
        with torch.cuda.device(flat.device):  # Triton launches on the current one
            if flat.shape[0] <= GEMV_ROWS:
                y: Tensor = self._kernels.multiply(flat, self.weight, self.bias)
                return y.view(*x.shape[:-1], y.shape[-1])
            whole = self._kernels.unpack(self.weight, self.dtype)
        return F.linear(x, whole, self.bias)


def _triton_kernels() -> Any:
    """Triton's import takes a second, and there is none without CUDA's torch."""
    from glmtui.engine.nn.linear import triton_kernels

    return triton_kernels
