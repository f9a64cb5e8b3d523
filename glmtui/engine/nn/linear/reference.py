"""The interface of linear layers, and implementations for any device and dtype.

Kernels are checked against `PackedLinear`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from glmtui.engine.nn.packed_weight import PackedWeight

# up to this many tokens at once, kernels that read the packed weight are faster than unpacking it
GEMV_ROWS = 4


class LinearLayer(nn.Module):
    """A linear layer, which replaces a `layers.LinearPlaceholder`.

    Attributes:
        nbytes: memory of the weight with its scales, without the bias.
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
    """x @ W.T + bias; W is packed, and every call unpacks it. For any device and dtype."""

    def __init__(self, weight: PackedWeight, bias: Tensor | None, dtype: torch.dtype) -> None:
        super().__init__()
        self.weight = weight
        self.dtype = dtype
        self.bias = bias
        self.nbytes = weight.nbytes

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight.dequantize(self.dtype), self.bias)


class ReorderedLinear(LinearLayer):
    """A linear layer whose columns are in another order than the features of x.

    Args:
        order: int64 [in], the feature of x for each column of the weight.
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
    """Adds the bias to y, [tokens, out], and restores the leading dimensions of the input."""
    if bias is not None:
        y = y + bias
    return y.view(*shape[:-1], y.shape[-1])
