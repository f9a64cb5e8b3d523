"""Linear layers for any device and dtype, and what others are measured against."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from glmtui.engine.nn.packed_weight import PackedWeight

GEMV_ROWS = 4  # up to this many tokens at once a kernel that unpacks as it multiplies wins


class LinearLayer(nn.Module):
    """What stands in for a `layers.Slot`.

    Attributes:
        nbytes: memory of the weight, with all that belongs to it but the bias.
    """

    nbytes: int


class DenseLinear(LinearLayer):
    """x @ W.T + bias in the dtype of W."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.weight = weight
        self.bias = bias
        self.nbytes = weight.nbytes

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)


class PackedLinear(LinearLayer):
    """x @ W.T + bias with W kept packed and unpacked anew at every call: any device, any dtype."""

    def __init__(self, weight: PackedWeight, bias: Tensor | None, dtype: torch.dtype) -> None:
        super().__init__()
        self.weight = weight
        self.dtype = dtype
        self.bias = bias
        self.nbytes = weight.nbytes

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight.dequantize(self.dtype), self.bias)


class ReorderedLinear(LinearLayer):
    """A linear layer whose weight has its columns in another order than x has its features.

    Args:
        order: int64 [in], which feature of x each column of the weight is for.
    """

    def __init__(self, linear: LinearLayer, order: Tensor) -> None:
        super().__init__()
        self.linear = linear
        self.order = order
        self.nbytes = linear.nbytes + order.nbytes

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.linear(x.index_select(-1, self.order))
        return y


def add_bias_and_reshape(y: Tensor, bias: Tensor | None, shape: torch.Size) -> Tensor:
    """Adds the bias and gives back the leading dimensions of the input."""
    if bias is not None:
        y = y + bias
    return y.view(*shape[:-1], y.shape[-1])
