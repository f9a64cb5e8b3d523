"""Products with packed weights by torch's kernels, compared with the unpacked weight."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from glmtui.engine.nn import linear as linear_layers
from glmtui.engine.nn.linear import (
    GEMV_ROWS,
    CpuHalfLinear,
    CpuInt4Linear,
    CpuInt8Linear,
    DenseLinear,
    LinearLayer,
    PackedLinear,
    cpu_native,
    cpu_torch,
    make_head,
    make_kernel_choice,
    make_linear,
    packed_block,
)
from glmtui.engine.nn.packed_weight import CPU_BLOCK, PackedWeight, quantize, requantize_per_row
from support.weights import random_int4, random_weight


@pytest.fixture(autouse=True)
def no_native_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without the compiled kernels."""
    monkeypatch.setattr(cpu_native, "available", lambda: False)


def make(weight: Tensor | PackedWeight, bias: Tensor | None) -> LinearLayer:
    """The layer for a CPU and activations in bfloat16."""
    dtype = torch.bfloat16
    return make_linear(
        weight, bias, dtype, make_kernel_choice("auto", Path(), torch.device("cpu"), dtype)
    )


@pytest.fixture(autouse=True, params=[torch.bfloat16, torch.float32], ids=str)
def product(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> torch.dtype:
    """CPUs with and without fast products in bfloat16."""
    for module in (linear_layers, cpu_torch):
        monkeypatch.setattr(module, "product_dtype", lambda: request.param)
    dtype: torch.dtype = request.param
    return dtype


TOKENS = [1, 2, GEMV_ROWS, GEMV_ROWS + 1, 33, 1 + max(cpu_torch.FEW_INT4, cpu_torch.FEW_INT8)]


def is_close(y: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> bool:
    """Whether the error of a bfloat16 product is explained by rounding its factors and result."""
    exact = F.linear(x.double(), weight.double(), None if bias is None else bias.double())
    size = F.linear(x.double().abs(), weight.double().abs())
    return bool(((y.double() - exact).abs() <= 2**-7 * size + 2**-8 * exact.abs()).all())


def check(linear: nn.Module, weight: PackedWeight, bias: Tensor | None) -> None:
    unpacked = weight.dequantize(torch.float32)
    for tokens in TOKENS:
        x = random_weight(tokens, weight.in_features, seed=tokens).bfloat16()
        y = linear(x)
        assert y.dtype == torch.bfloat16
        assert is_close(y, x, unpacked, bias), f"{tokens} tokens"


@pytest.mark.parametrize(
    ("rows", "group", "bias"),
    [(16, 32, True), (64, 64, False), (100, 128, True), (100, 32, False), (192, 256, False)],
)
def test_int4_on_a_cpu(rows: int, group: int, bias: bool) -> None:
    if not packed_block():
        pytest.skip("the int4 format of torch on this CPU is unknown")
    weight = quantize(random_weight(rows, 512) + 0.1, 4, group)
    b = random_weight(1, rows)[0].bfloat16() if bias else None
    linear = make(weight, b)
    assert isinstance(linear, CpuInt4Linear)
    check(linear, weight, b)


def test_int4_without_zeros_and_with_a_scale_per_row() -> None:
    weight = random_int4(48, 384, 384, zero=False)
    linear = make(weight, None)
    check(linear, weight, None)
    if packed_block():
        assert isinstance(linear, CpuInt4Linear)
        assert linear.group == 128  # the largest supported group that divides a row


def test_int4_rows_beyond_a_block_are_packed_in_the_same_way() -> None:
    if not packed_block():
        pytest.skip("the int4 format of torch on this CPU is unknown")
    rows = CPU_BLOCK // 4096 + packed_block() + 9
    weight = quantize(random_weight(rows, 4096), 4, 128)
    x = random_weight(2, 4096).bfloat16()
    whole, last = (make(w, None)(x) for w in (weight, weight[-64:]))
    assert torch.equal(whole[:, -64:], last)


def test_one_token_and_many_multiply_with_the_same_weight() -> None:
    """Otherwise the product of a prompt would differ from that of its single tokens."""
    for weight in (quantize(random_weight(96, 256), 4, 64), quantize(random_weight(96, 256), 8)):
        linear = make(weight, None)
        x = torch.eye(256, dtype=torch.bfloat16)[:16]
        assert torch.equal(torch.cat([linear(row[None]) for row in x]), linear(x))


@pytest.mark.parametrize("columns", [8, 24, 40])
def test_torchs_int8_kernel_is_not_used_for_widths_that_it_reads_beyond(columns: int) -> None:
    """With AVX-512 it reads 16 numbers at a time, so it may read beyond the end of the weight."""
    weight = quantize(random_weight(50, columns), 8)
    linear = make(weight, None)
    assert not isinstance(linear, CpuInt8Linear)
    check(linear, weight, None)


@pytest.mark.parametrize("rows", [16, 50])
def test_int8_on_a_cpu(rows: int) -> None:
    weight = quantize(random_weight(rows, 320), 8)
    b = random_weight(1, rows)[0].bfloat16()
    linear = make(weight, b)
    assert isinstance(linear, CpuInt8Linear)
    check(linear, weight, b)


@pytest.mark.parametrize(
    "weight",
    [
        pytest.param(random_int4(24, 48, 16), id="groups that torch's kernels do not support"),
    ],
)
def test_weights_in_other_formats_are_unpacked(weight: PackedWeight) -> None:
    linear = make(weight, None)
    assert isinstance(linear, PackedLinear)
    check(linear, weight, None)


def test_int8_in_groups_gets_a_scale_per_row_on_a_cpu() -> None:
    weight = quantize(random_weight(24, 96), 8, 32)
    linear = make(weight, None)
    assert isinstance(linear, CpuInt8Linear)
    row = requantize_per_row(weight)
    assert row.group == 96
    check(linear, row, None)
    exact = weight.dequantize(torch.float32)
    error = (row.dequantize(torch.float32) - exact).abs()
    assert bool((error <= exact.abs().amax(1, keepdim=True) / 254 * 1.1).all())
    assert isinstance(make_linear(weight, None, torch.float32), PackedLinear)


def test_other_dtypes_are_exact() -> None:
    weight, b = quantize(random_weight(40, 128), 4, 32), random_weight(1, 40)[0]
    linear = make_linear(weight, b, torch.float32)
    assert isinstance(linear, PackedLinear)
    x = random_weight(3, 128)
    assert torch.equal(linear(x), F.linear(x, weight.dequantize(torch.float32), b))


def test_leading_dimensions_are_kept() -> None:
    x = random_weight(2 * 3, 64).bfloat16().view(2, 3, 64)
    weights = (
        random_weight(20, 64),
        quantize(random_weight(20, 64), 8),
        quantize(random_weight(20, 64), 4, 32),
    )
    for weight in weights:
        assert make(weight, None)(x).shape == (2, 3, 20)


def test_unpacked_weights_get_the_dtype_of_the_activations(product: torch.dtype) -> None:
    weight, b = random_weight(8, 16).half(), random_weight(1, 8)[0]
    linear = make(weight, b)
    assert type(linear) is (DenseLinear if product == torch.bfloat16 else CpuHalfLinear)
    assert linear.nbytes == 8 * 16 * 2
    for tokens in TOKENS:
        x = random_weight(tokens, 16).bfloat16()
        assert is_close(linear(x), x, weight.bfloat16(), b.bfloat16())
    assert isinstance(make_linear(weight, b, torch.float32), DenseLinear)


def test_a_half_precision_head_takes_bfloat16() -> None:
    table = random_weight(200, 64).half()
    head = make_head(table, torch.bfloat16)
    assert isinstance(head, CpuHalfLinear)
    for tokens in TOKENS:
        x = random_weight(tokens, 64, seed=tokens).bfloat16()
        assert is_close(head(x), x, table.float())
    assert isinstance(make_head(table, torch.float16), DenseLinear)


def test_layers_report_their_memory() -> None:
    weight = quantize(random_weight(64, 256), 4, 64)
    linear = make(weight, None)
    assert linear.nbytes == weight.nbytes == 64 * 128 + 64 * 4 * 4
    assert make(quantize(random_weight(64, 256), 8), None).nbytes == 64 * 258
