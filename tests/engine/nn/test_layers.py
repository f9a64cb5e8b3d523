"""The layers of a decoder against their formulas."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from glmtui.engine.nn import layers
from glmtui.engine.nn.layers import RMSNorm, attention, causal_attention, causal_mask, rotate_halves
from support.attention_formula import reference_attention

CPU = torch.device("cpu")


def heads(count: int, length: int, dtype: torch.dtype) -> Tensor:
    return torch.randn(2, count, length, 16, dtype=dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("length", [1, 5, 8, 11])
@pytest.mark.parametrize("before", [0, 3])
@pytest.mark.parametrize("product", [torch.float32, torch.bfloat16])
def test_causal_attention(
    monkeypatch: pytest.MonkeyPatch,
    dtype: torch.dtype,
    length: int,
    before: int,
    product: torch.dtype,
) -> None:
    monkeypatch.setattr(layers, "QUERY_BLOCK", 4)
    monkeypatch.setattr(layers, "product_dtype", lambda: product)
    torch.manual_seed(0)
    q = heads(6, length, dtype)
    k, v = heads(2, before + length, dtype), heads(2, before + length, dtype)
    mask = causal_mask(length, before, dtype=dtype, device=CPU)
    tolerance = 1e-5 if dtype == torch.float32 else 0.03
    expected = reference_attention(q, k, v)
    for y in (causal_attention(q, k, v, mask), attention(q, k, v, mask)):
        assert y.dtype == dtype
        torch.testing.assert_close(y.float(), expected, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("product", [torch.float32, torch.bfloat16])
def test_causal_attention_in_bfloat16_is_almost_as_precise_as_its_result(
    monkeypatch: pytest.MonkeyPatch, product: torch.dtype
) -> None:
    monkeypatch.setattr(layers, "product_dtype", lambda: product)
    torch.manual_seed(0)
    q, k, v = (heads(count, 200, torch.bfloat16) for count in (6, 2, 2))
    exact = reference_attention(q, k, v).double()
    y = causal_attention(q, k, v, causal_mask(200, 0, dtype=torch.bfloat16, device=CPU))
    error, rounding = ((result.double() - exact).norm() for result in (y, exact.bfloat16()))
    # the fused attention also rounds the weights once
    assert error < (2.5 if product == torch.bfloat16 else 1.2) * rounding


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("key_heads", [2, 6])
def test_a_few_queries_give_the_same_bits_as_single_steps(
    dtype: torch.dtype, key_heads: int
) -> None:
    torch.manual_seed(0)
    before, length = 70, layers.FEW_QUERIES
    q = heads(6, length, dtype)
    k, v = heads(key_heads, before + length, dtype), heads(key_heads, before + length, dtype)
    together = causal_attention(q, k, v, causal_mask(length, before, dtype=dtype, device=CPU))
    for i in range(length):
        end = before + i + 1
        alone = attention(q[:, :, i : i + 1], k[:, :, :end], v[:, :, :end])
        assert torch.equal(together[:, i : i + 1], alone)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rms_norm(dtype: torch.dtype) -> None:
    norm = RMSNorm(24, 1e-5)
    norm.weight.data = torch.randn(24)
    x = torch.randn(2, 3, 24).to(dtype)
    expected = F.rms_norm(x.float(), (24,), norm.weight, 1e-5).to(dtype)
    torch.testing.assert_close(norm(x), expected)


def test_rotation_preserves_length_and_products_depend_only_on_distance() -> None:
    angles = torch.outer(torch.arange(9.0), torch.tensor([1.0, 0.3]))
    cos = torch.cat((angles.cos(), angles.cos()), -1)
    sin = torch.cat((-angles.sin(), angles.sin()), -1)
    q, k = torch.randn(4).expand(9, 4), torch.randn(4).expand(9, 4)
    rotated_q, rotated_k = rotate_halves(q, cos, sin), rotate_halves(k, cos, sin)
    torch.testing.assert_close(rotated_q.norm(dim=-1), q.norm(dim=-1))
    products = rotated_q @ rotated_k.T
    for distance in range(8):
        diagonal = products.diagonal(distance)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal))
