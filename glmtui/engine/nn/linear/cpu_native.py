"""Linear layers on a CPU with the compiled kernels of `native`, for activations in bfloat16.

For a few tokens, the kernels read the packed weight. For many tokens, they unpack it panel by
panel. If torch's products are faster on this CPU, blocks of rows are unpacked for them.
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

UNPACK_BLOCK = 2**22  # weights that are unpacked at a time for torch's product: 8 MB in bfloat16


class NativeLinear(LinearLayer):
    """x @ W.T + bias; W is packed, or a tensor of 16 bits."""

    def __init__(self, weight: Tensor | PackedWeight, bias: Tensor | None) -> None:
        super().__init__()
        self.native = NativeWeight(weight, bias)
        self.weight = self.native.weight
        self.nbytes = weight.nbytes

    def forward(self, x: Tensor) -> Tensor:
        if is_fastest_for(x.numel() // x.shape[-1]):
            return self.native.multiply(x)
        dtype = product_dtype()
        converted, bias = x.to(dtype), self.native.bias
        bias = None if bias is None else bias.to(dtype)  # added before the product is rounded
        blocks = list(row_blocks(self.native.shape, block=UNPACK_BLOCK))
        if len(blocks) == 1:
            return F.linear(converted, self.native.unpack(dtype), bias).to(x.dtype)
        y = x.new_empty(*x.shape[:-1], self.native.shape[0])
        for rows in blocks:
            block_bias = None if bias is None else bias[rows]
            y[..., rows] = F.linear(converted, self.native.unpack(dtype, rows), block_bias)
        return y


class NativeEmbedding(nn.Module):
    """An embedding whose [vocab, hidden] table is packed; the result is in bfloat16."""

    def __init__(self, table: PackedWeight) -> None:
        super().__init__()
        self.weight = table

    def forward(self, ids: Tensor) -> Tensor:
        rows = NativeWeight(self.weight[ids.flatten()], None)
        return rows.unpack(torch.bfloat16).view(*ids.shape, -1)


def supports(weight: Tensor | PackedWeight, dtype: torch.dtype) -> bool:
    """Whether `NativeLinear` supports this weight with activations of this dtype."""
    device = weight.device if isinstance(weight, Tensor) else weight.q.device
    return (
        device.type == "cpu" and dtype == torch.bfloat16 and available() and supports_weight(weight)
    )


NATIVE = Kernel("native", supports, lambda weight, bias, dtype: NativeLinear(weight, bias))
