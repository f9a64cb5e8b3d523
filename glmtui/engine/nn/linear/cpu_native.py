"""Linear layers on a CPU by our own kernels (`glmtui.engine.nn.native`), activations in bfloat16.

A few tokens are multiplied with the weight as it is packed, in any source's own groups; for many it
is unpacked, by the kernels as they go or, where torch has a faster product, for that.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from glmtui.engine.nn.cpu_dtype import product_dtype
from glmtui.engine.nn.linear.kernel_selection import Kernel
from glmtui.engine.nn.linear.reference import LinearLayer
from glmtui.engine.nn.native.kernels import NativeWeight, is_fastest_for, supports_weight
from glmtui.engine.nn.native.library import available
from glmtui.engine.nn.packed_weight import PackedWeight, row_blocks

UNPACKED = 2**22  # weights at a time


class NativeLinear(LinearLayer):
    """x @ W.T + bias, W as `PackedWeight` has it or whole in 16 bits."""

    def __init__(self, weight: Tensor | PackedWeight, bias: Tensor | None) -> None:
        super().__init__()
        self.native = NativeWeight(weight, bias)
        self.weight = self.native.weight
        self.nbytes = weight.nbytes

    def forward(self, x: Tensor) -> Tensor:
        if is_fastest_for(x.numel() // x.shape[-1]):
            return self.native.multiply(x)
        dtype = product_dtype()
        wide, bias = x.to(dtype), self.native.bias
        bias = None if bias is None else bias.to(dtype)  # added before the product is rounded
        blocks = list(row_blocks(self.native.shape, block=UNPACKED))
        if len(blocks) == 1:
            return F.linear(wide, self.native.whole(dtype), bias).to(x.dtype)
        y = x.new_empty(*x.shape[:-1], self.native.shape[0])
        for rows in blocks:
            part = None if bias is None else bias[rows]
            y[..., rows] = F.linear(wide, self.native.whole(dtype, rows), part)
        return y


class NativeEmbedding(nn.Module):
    """A row of a packed [vocab, hidden] table per id, in bfloat16."""

    def __init__(self, table: PackedWeight) -> None:
        super().__init__()
        self.weight = table

    def forward(self, ids: Tensor) -> Tensor:
        rows = NativeWeight(self.weight[ids.flatten()], None)
        return rows.whole(torch.bfloat16).view(*ids.shape, -1)


def supports(weight: Tensor | PackedWeight, dtype: torch.dtype) -> bool:
    """Whether `NativeLinear` serves for a weight and activations of this dtype."""
    device = weight.device if isinstance(weight, Tensor) else weight.q.device
    return (
        device.type == "cpu" and dtype == torch.bfloat16 and available() and supports_weight(weight)
    )


NATIVE = Kernel("native", supports, lambda weight, bias, dtype: NativeLinear(weight, bias))
