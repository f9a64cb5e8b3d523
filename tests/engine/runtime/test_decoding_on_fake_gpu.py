"""Decoding on fake GPUs: tensors stay on their device, and nothing waits for the host.

Skipped where `fake_gpu.unavailable` gives a reason.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from glmtui.chat import SamplingParams
from glmtui.engine.bench.random_weights import RandomWeights
from glmtui.engine.catalog.families import detect_family
from glmtui.engine.catalog.quants import QUANTS
from glmtui.engine.checkpoint.checkpoint import WeightSource
from glmtui.engine.loading.model_parts import VOCAB_MODULES, has_tied_embeddings
from glmtui.engine.loading.pipeline import split_over_devices
from glmtui.engine.loading.weight_filler import WeightFiller
from glmtui.engine.models.model_family import import_family
from glmtui.engine.models.prefix_lm import PrefixLMCache
from glmtui.engine.nn.decoder import Decoder
from glmtui.engine.nn.kv_cache import KVCache
from glmtui.engine.nn.layers import LinearPlaceholder
from glmtui.engine.nn.linear import KernelChoice, LinearLayer, PackedLinear, cuda
from glmtui.engine.nn.linear.cuda import TinygemmLinear
from glmtui.engine.nn.packed_weight import PackedWeight, quantize
from glmtui.engine.runtime import sampling
from glmtui.engine.runtime.sampling import DeviceSampler
from support.fake_gpu import NoHostAccess, fake_tensors, only_fused_attention
from support.goldens import GOLDEN_MODELS
from support.tiny_llama import LLAMA_CONFIG

GPU = torch.device("cuda", 1)  # never the first one, which "cuda" stands for
FAMILIES = ["llama", "v1_twin_orig", "v2_32k_tiny", "v3_32k_tiny", "glm4_tiny"]
FORMATS = {
    "float16": (torch.float16, None, (7, 5)),
    "bfloat16": (torch.bfloat16, None, (8, 0)),
    "float32": (torch.float32, None, (8, 0)),
    "int4": (torch.float16, "int4", (8, 0)),
    "int8": (torch.float16, "int8", (7, 5)),
    "tinygemm": (torch.bfloat16, "int4", (9, 0)),
}


@pytest.fixture(autouse=True)
def fake() -> Iterator[None]:
    with fake_tensors():
        yield


class FirstKernel(KernelChoice):
    """Takes the first kernel that supports a weight: fake tensors cannot be checked or timed."""

    def make_layer(
        self, weight: PackedWeight, bias: Tensor | None, dtype: torch.dtype
    ) -> LinearLayer:
        taken = [kernel.make for kernel in self._kernels if kernel.supports(weight, dtype)]
        return (taken or [PackedLinear])[0](weight, bias, dtype)


def family_and_config(family: str) -> tuple[Any, Any]:
    """The module of a family and the Config of its tiny model."""
    raw: dict[str, Any] = LLAMA_CONFIG
    if family != "llama":
        raw = json.loads((GOLDEN_MODELS / family / "config.json").read_bytes())
    module = import_family(detect_family(raw, Path(family)).key)
    return module, module.load_config(raw)


def build(
    family: str,
    dtype: torch.dtype,
    quant: str | None = None,
    *,
    kernels: FirstKernel | None = None,
    places: dict[str, torch.device] | None = None,
) -> Decoder:
    """A model as the loader's `WeightFiller` fills it, on fake GPUs."""
    module, config = family_and_config(family)
    with torch.device("meta"):
        model: Decoder = module.Model(config)
    device = GPU if places is None else places["embedding"]
    sources = {n: WeightSource("+".join(r.names)) for n, r in module.weight_sources(config).items()}
    weights = RandomWeights(
        {sources[name].names[0]: p.shape for name, p in model.named_parameters()},
        {
            rows.names[0]
            for name, rows in sources.items()
            if name.partition(".")[0] in VOCAB_MODULES
        },
        device=device,
        dtype=dtype,
        quant=QUANTS[quant] if quant else None,
    )
    choice = kernels or FirstKernel([])
    how = QUANTS[quant] if quant else None
    WeightFiller(model, weights, device, dtype, how, kernels=choice, devices=places).fill(
        sources, lambda _: None
    )
    model.prepare(min(config.context_length, 256), dtype, device)
    if places is not None:
        split_over_devices(model, places)
    assert not any(isinstance(m, LinearPlaceholder) for m in model.modules())
    return model


def ids(length: int, device: torch.device = GPU) -> Tensor:
    return torch.empty(1, length, dtype=torch.long, device=device)


def read_tokens(
    model: Decoder, cache: KVCache, length: int, answers: tuple[Any, ...] = ()
) -> NoHostAccess:
    """Reads `length` tokens; the host may read only values that are in `answers`."""
    watched = NoHostAccess(answers)
    before = cache.offset
    with watched:
        logits = model(ids(length), cache, last_only=True)
    watched.assert_all_read()
    assert logits.device == GPU
    assert logits.shape == (1, 1, model.vocab_size)
    assert cache.offset == before + length
    return watched


def read_captured(model: Decoder, cache: KVCache) -> NoHostAccess:
    """Reads one token as `cuda_graph` captures it."""
    cache.position = torch.full((1,), cache.offset, device=GPU)
    try:
        return read_tokens(model, cache, 1)
    finally:
        cache.position = None


@pytest.mark.parametrize("weight_format", FORMATS)
@pytest.mark.parametrize("family", FAMILIES)
def test_tokens_stay_on_their_gpu_in_fused_kernels(
    family: str, weight_format: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    dtype, quant, capability = FORMATS[weight_format]
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: capability)
    kernels = None
    if weight_format == "tinygemm":
        kernels = FirstKernel([k for k in cuda.kernels() if k.name == "tinygemm"])
    model = build(family, dtype, quant, kernels=kernels)
    marks = (12,) if not model.causal else ()  # the host reads once where the context ends
    cache = model.new_cache(64, dtype, GPU)
    with only_fused_attention(capability):
        read_tokens(model, cache, 12, marks)
        read_tokens(model, cache, 20)
        read_tokens(model, cache, 3)
        read_tokens(model, cache, 1)
        step = read_captured(model, cache)
    if isinstance(cache, PrefixLMCache):
        assert cache.prefix is not None
        assert {t.device for t in cache.tensors()} == {GPU}
    assert step.operations.count("index_copy_") == 2 * len(cache.keys)
    assert "scaled_dot_product" not in step.operations


def test_the_tinygemm_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = PackedWeight(
        torch.empty(384, 256, dtype=torch.uint8, device=GPU),
        torch.empty(384, 16, dtype=torch.float16, device=GPU),
        torch.empty(384, 16, dtype=torch.float16, device=GPU),
    )
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (8, 0))
    assert cuda.tinygemm_supports(weight, torch.bfloat16)
    layer = TinygemmLinear(
        weight, torch.empty(384, dtype=torch.bfloat16, device=GPU), torch.bfloat16
    )
    assert (layer.packed.shape, layer.packed.dtype) == ((48, 4, 32, 4), torch.int32)
    for tokens in (1, 4, 5, 65):
        x = torch.empty(1, tokens, 512, dtype=torch.bfloat16, device=GPU)
        with NoHostAccess() as watched:
            y = layer(x)
        assert (y.shape, y.dtype, y.device) == ((1, tokens, 384), torch.bfloat16, GPU)
        assert ("_weight_int4pack_mm" in watched.operations) is (tokens <= 4)


@pytest.mark.parametrize(("bits", "group"), [(4, 32), (8, None)])
def test_a_weight_is_quantised_on_its_device(bits: int, group: int | None) -> None:
    with NoHostAccess():
        packed = quantize(torch.empty(384, 512, dtype=torch.float16, device=GPU), bits, group)
        assert {t.device for t in (packed.q, packed.scale)} == {GPU}
        whole = packed.dequantize(torch.float16)
    assert (whole.device, whole.shape) == (GPU, (384, 512))


@pytest.mark.parametrize(
    "params",
    [
        SamplingParams(temperature=0),
        SamplingParams(temperature=0, repetition_penalty=1.1),
        SamplingParams(temperature=0.8, top_k=50, top_p=0.8),
        SamplingParams(temperature=0.8, top_k=50, top_p=0.8, repetition_penalty=1.2),
        SamplingParams(temperature=1.2),
    ],
    ids=["greedy", "greedy, penalty", "top-k, top-p", "all", "temperature"],
)
def test_tokens_are_sampled_on_the_device_of_the_logits(
    params: SamplingParams, monkeypatch: pytest.MonkeyPatch
) -> None:
    # a build without CUDA has no generator for it
    monkeypatch.setattr(sampling, "_make_generator", lambda params, device: None)
    sampler = DeviceSampler(params, [1, 2, 3], 65_024, GPU)
    logits = torch.empty(65_024, device=GPU)
    for _ in range(2):
        with NoHostAccess():
            token = sampler(logits)
        assert (token.device, token.shape, token.dtype) == (GPU, (1,), torch.int64)


@pytest.mark.parametrize("family", ["llama", "v1_twin_orig", "v3_32k_tiny", "glm4_tiny"])
def test_layers_on_three_gpus(family: str) -> None:
    gpus = [torch.device("cuda", i) for i in range(3)]
    module, config = family_and_config(family)
    layers = config.layers
    places = {f"layers.{i}": gpus[min(1 + i * 2 // layers, 2)] for i in range(layers)}
    places |= {"embedding": gpus[0], "norm": gpus[2], "head": gpus[2]}
    if has_tied_embeddings(module.weight_sources(config)):
        places["head"] = gpus[0]
    model = build(family, torch.float16, "int4", places=places)
    cache = model.new_cache(64, torch.float16, gpus[0])
    answers = [12] if not model.causal else []
    with NoHostAccess(answers), only_fused_attention((8, 0)):
        for length in (12, 1, 1):
            logits = model(ids(length, gpus[0]), cache, last_only=True)
    assert logits.device == places["head"]
    for tensors in (cache.keys, cache.values):
        assert [t.device for t in tensors] == [places[f"layers.{i}"] for i in range(layers)]
