"""The compiled kernels give torch's results with smaller errors; other formats use torch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from glmtui.engine.models.gqa_decoder import GqaDecoder
from glmtui.engine.nn import linear, packed_weight
from glmtui.engine.nn.linear import NativeEmbedding, NativeLinear, make_kernel_choice, make_linear
from glmtui.engine.nn.native import build, kernels
from glmtui.engine.nn.native.library import available
from glmtui.engine.nn.packed_weight import PackedWeight, quantize
from support.isa_emulation import ISAS, use_kernels
from support.native_decoder import CPU, FAMILIES, make_decoder
from support.weights import random_int4, random_weight

needs_kernels = pytest.mark.skipif(not available(), reason=build.build_kernels().problem)


KINDS = {
    "int4 g32": (4, 32),
    "int4 g64": (4, 64),
    "int4 g192": (4, 192),
    "int8": (8, None),
    "int8 g32": (8, 32),
    "int8 g64": (8, 64),
}


@pytest.fixture(params=ISAS)
def isa(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Every instruction set in turn, emulated if this machine lacks it."""
    with use_kernels(request.param, monkeypatch):
        yield request.param


def error(y: Tensor, exact: Tensor) -> float:
    """The relative error, by norms."""
    return float((y.double() - exact).norm() / exact.double().norm())


@needs_kernels
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tokens", [1, 3, 4, 7, kernels.FEW_TOKENS, kernels.FEW_TOKENS + 1, 40])
@pytest.mark.parametrize("rows", [50, 300])
def test_the_error_of_products_is_that_of_rounding_the_result(
    isa: str, kind: str, tokens: int, rows: int
) -> None:
    weight = quantize(random_weight(rows, 384) + 0.1, *KINDS[kind])
    bias = random_weight(1, rows)[0].bfloat16()
    x = random_weight(tokens, 384, seed=tokens).bfloat16()
    exact = F.linear(x.float(), weight.dequantize(torch.float32), bias.float())
    rounding = error(exact.bfloat16(), exact)
    # AMX needs the weight in bfloat16, which rounds once more
    allowed = 2 if isa == "amx" and tokens > kernels.FEW_TOKENS else 1.1
    assert error(kernels.NativeWeight(weight, bias).multiply(x), exact) < allowed * rounding


@needs_kernels
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_many_tokens_use_torchs_product_if_it_is_faster(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        linear.cpu_native, "is_fastest_for", lambda tokens: tokens <= kernels.FEW_TOKENS
    )
    monkeypatch.setattr(linear.cpu_native, "product_dtype", lambda: dtype)
    weight, bias = quantize(random_weight(50, 384), 4, 32), random_weight(1, 50)[0].bfloat16()
    x = random_weight(kernels.FEW_TOKENS + 1, 384).bfloat16()
    exact = F.linear(x.float(), weight.dequantize(torch.float32), bias.float())
    assert error(NativeLinear(weight, bias)(x), exact) < 0.01


@needs_kernels
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("tokens", [3, kernels.FEW_TOKENS, 21])
def test_weights_of_16_bits(isa: str, dtype: torch.dtype, tokens: int) -> None:
    weight, bias = random_weight(50, 96).to(dtype), random_weight(1, 50)[0].bfloat16()
    x = random_weight(2 * tokens, 96).bfloat16().view(2, tokens, 96)
    exact = F.linear(x.float(), weight.float(), bias.float())
    y = NativeLinear(weight, bias)(x)
    assert (y.shape, y.dtype) == (exact.shape, torch.bfloat16)
    assert error(y, exact) < (2 if isa == "amx" else 1.1) * error(exact.bfloat16(), exact)


@needs_kernels
@pytest.mark.parametrize("block", [2**22, 96 * 16], ids=["at once", "in blocks"])
def test_a_bias_is_added_before_the_product_is_rounded(
    monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    monkeypatch.setattr(linear.cpu_native, "is_fastest_for", lambda tokens: False)
    monkeypatch.setattr(linear.cpu_native, "product_dtype", lambda: torch.bfloat16)
    monkeypatch.setattr(linear.cpu_native, "UNPACK_BLOCK", block)
    weight, bias = random_weight(50, 96).bfloat16(), random_weight(1, 50)[0].bfloat16()
    x = random_weight(40, 96).bfloat16()
    exact = F.linear(x.float(), weight.float(), bias.float())
    y = NativeLinear(weight, bias)(x)
    assert error(y, exact) < 1.1 * error(exact.bfloat16(), exact)


@needs_kernels
@pytest.mark.parametrize("kind", KINDS)
def test_unpacking_is_exact(kind: str) -> None:
    weight = quantize(random_weight(50, 384), *KINDS[kind])
    for dtype in (torch.float32, torch.bfloat16):
        unpacked = kernels.NativeWeight(weight, None).unpack(dtype)
        assert torch.equal(unpacked, weight.dequantize(dtype))
    symmetric = random_int4(48, 384, 64, zero=False)
    unpacked = kernels.NativeWeight(symmetric, None).unpack(torch.float32)
    assert torch.equal(unpacked, symmetric.dequantize(torch.float32))


@needs_kernels
@pytest.mark.parametrize("kind", [*KINDS, "int4 g24", "int8 g8"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_quantization_is_bit_identical_to_torchs(
    kind: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    bits, group = KINDS.get(kind) or (int(kind[3]), int(kind[6:]))
    weight = random_weight(70, 384)
    weight[3], weight[4, 5:] = 0, 1e-9
    weight[5] *= 1000
    weight = weight.to(dtype)
    native = quantize(weight, bits, group)
    monkeypatch.setattr(packed_weight, "can_quantize", lambda weight, group: False)
    expected = quantize(weight, bits, group)
    assert torch.equal(native.q, expected.q)
    assert torch.equal(native.scale, expected.scale)
    assert (native.zero is None) == (expected.zero is None) == (bits == 8)
    assert native.zero is None or torch.equal(native.zero, expected.zero)


@needs_kernels
@pytest.mark.parametrize("bits", [4, 8])
def test_quantization_keeps_nan(bits: int) -> None:
    weight = random_weight(2, 64)
    weight[1, 40] = torch.nan
    unpacked = quantize(weight, bits, 32).dequantize(torch.float32)
    assert torch.isnan(unpacked[1, 32:]).all()
    assert torch.isfinite(unpacked[0]).all()


@needs_kernels
@pytest.mark.parametrize("kind", KINDS)
def test_the_result_of_a_token_does_not_depend_on_other_tokens(kind: str) -> None:
    layer = NativeLinear(quantize(random_weight(50, 384), *KINDS[kind]), None)
    x = random_weight(kernels.FEW_TOKENS, 384).bfloat16()
    assert torch.equal(torch.cat([layer(one[None]) for one in x]), layer(x))


@needs_kernels
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("tokens", [2, kernels.FEW_TOKENS + 2])
def test_nan_and_infinity_stay_in_their_token(isa: str, kind: str, bad: float, tokens: int) -> None:
    layer = NativeLinear(quantize(random_weight(50, 384), *KINDS[kind]), None)
    x = random_weight(tokens, 384).bfloat16()
    x[1, 70] = bad
    y = layer(x)
    assert bool(torch.isfinite(y[[0, *range(2, tokens)]]).all())
    assert not torch.isfinite(y[1]).any()


@needs_kernels
def test_zeros_and_numbers_of_very_different_size() -> None:
    weight = quantize(random_weight(50, 384), 8, 64)
    x = torch.zeros(1, 384, dtype=torch.bfloat16)
    assert not NativeLinear(weight, None)(x).any()
    x[0, 5], x[0, 200], x[0, 300] = 1e30, 1e-30, 1.0
    exact = F.linear(x.float(), weight.dequantize(torch.float32))
    assert error(NativeLinear(weight, None)(x), exact) < 0.01


@needs_kernels
def test_embedding_with_a_packed_table() -> None:
    table = quantize(random_weight(40, 64), 8, 32)
    ids = torch.tensor([[3, 39, 3]])
    rows = NativeEmbedding(table)(ids)
    assert torch.equal(rows, table.dequantize(torch.bfloat16)[ids])


@needs_kernels
def test_weights_in_unsupported_formats_use_torch() -> None:
    supported = quantize(random_weight(32, 128), 4, 32)
    scale = supported.scale.float()
    for weight in (
        quantize(random_weight(32, 96), 4, 32),  # columns are not a multiple of 64
        quantize(random_weight(32, 128), 4, 16),
        PackedWeight(
            supported.q, scale, None if supported.zero is None else supported.zero.float()
        ),
    ):
        assert kernels.supports_weight(supported)
        assert not kernels.supports_weight(weight)
        choice = make_kernel_choice("auto", Path(), CPU, torch.bfloat16)
        layer = make_linear(weight, None, torch.bfloat16, choice)
        assert not isinstance(layer, NativeLinear)
        x = random_weight(3, weight.in_features).bfloat16()
        assert error(layer(x), F.linear(x.float(), weight.dequantize(torch.float32))) < 0.02


class LayerByLayer:
    """A decoder without `DecoderStep`."""

    def __init__(self, model: GqaDecoder) -> None:
        self.model = model

    def __call__(self, ids: Tensor, cache: Any) -> Tensor:
        native = self.model.__dict__.pop("_native", None)
        self.model.__dict__["_native"] = None
        try:
            return self.model(ids, cache)
        finally:
            self.model.__dict__.pop("_native")
            if native is not None:
                self.model.__dict__["_native"] = native


@needs_kernels
@torch.inference_mode()
@pytest.mark.parametrize("key", FAMILIES)
@pytest.mark.parametrize(("bits", "group"), [(4, 32), (8, None)])
def test_a_native_step_gives_the_results_of_the_layers(
    isa: str, key: str, bits: int, group: int | None
) -> None:
    model = make_decoder(key, bits, group)
    ids = torch.randint(0, 96, (1, 60), generator=torch.Generator().manual_seed(2))
    layered, native = (model.new_cache(300, torch.bfloat16, CPU) for _ in range(2))
    assert model._native is not None
    expected = torch.cat(
        [LayerByLayer(model)(ids[:, i : i + 6], layered) for i in range(0, 60, 6)], 1
    )
    logits = torch.cat([model(ids[:, i : i + 6], native) for i in range(0, 60, 6)], 1)
    assert native.offset == layered.offset == 60
    assert error(logits, expected) < 0.03  # layers round their results to bfloat16
    for cached, exact in zip(
        native.keys + native.values, layered.keys + layered.values, strict=True
    ):
        assert error(cached, exact.float()) < 0.03
    # single tokens, and the logits of only the last token, are bit-identical
    again = model.new_cache(300, torch.bfloat16, CPU)
    single = torch.cat([model(ids[:, i : i + 1], again) for i in range(60)], 1)
    assert torch.equal(single, logits)
    again.trim(54)
    assert torch.equal(model(ids[:, 54:], again, last_only=True)[0, 0], logits[0, -1])
    # many tokens at once differ only by rounding
    again.trim(7)
    assert error(model(ids[:, 7:], again), logits[:, 7:]) < 0.01
    again.trim(7)
    assert error(model(ids[:, 7:], again, last_only=True), logits[:, -1:]) < 0.01


@needs_kernels
@torch.inference_mode()
@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 4), (8, 2), (10, 2), (32, 1)])
def test_attention_of_many_tokens_is_that_of_a_few(isa: str, heads: int, kv_heads: int) -> None:
    model = make_decoder("llama", 8, None, heads=heads, kv_heads=kv_heads)
    ids = torch.randint(0, 96, (1, 290), generator=torch.Generator().manual_seed(3))
    few, many = (model.new_cache(300, torch.bfloat16, CPU) for _ in range(2))
    expected = torch.cat([model(part, few) for part in ids.split(kernels.FEW_TOKENS, 1)], 1)
    logits = torch.cat([model(part, many) for part in ids.split([201, 89], 1)], 1)
    assert error(logits, expected) < 0.01
    assert error(logits[:, 150:], expected[:, 150:]) < 0.01
    assert error(logits[:, -1:], expected[:, -1:]) < 0.01


@needs_kernels
@torch.inference_mode()
def test_a_native_step_lets_the_cache_grow(isa: str) -> None:
    model = make_decoder("llama", 4, 32)
    cache = model.new_cache(300, torch.bfloat16, CPU)
    cache.keys = [keys[:, :, :50].clone() for keys in cache.keys]
    cache.values = [values[:, :, :50].clone() for values in cache.values]
    ids = torch.arange(80)[None] % 96
    whole = model.new_cache(300, torch.bfloat16, CPU)
    grown = [model(ids[:, i : i + 20], cache) for i in range(0, 80, 20)]
    assert cache.allocated_tokens >= 80
    assert torch.equal(
        torch.cat(grown, 1),
        torch.cat([model(ids[:, i : i + 20], whole) for i in range(0, 80, 20)], 1),
    )
