"""Attention on a real GPU: by the fused kernels, right, and without room for all scores."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from glmtui.engine import LoadOptions, load_model
from glmtui.engine.nn.gpu_attention import causal_attention, masked_attention
from glmtui.engine.nn.kv_cache import KVCache
from glmtui.engine.nn.layers import attention
from support.goldens import GOLDEN_MODELS
from support.graph_talks import FAMILIES, prompt, reply

pytestmark = pytest.mark.gpu

FUSED = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION]
TOLERANCE = {torch.float32: 1e-4, torch.float16: 4e-3, torch.bfloat16: 3e-2}
HEADS = [(32, 2, 128), (32, 8, 128), (32, 32, 128), (9, 3, 64)]  # of GLM-4, Llama 3, 6B, SmolLM2
PLACES = [(512, 0), (512, 2048), (5, 1000), (2, 31), (33, 0), (17, 48), (1030, 1019)]


def exact(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Causal attention by the formula, in float32."""
    times = q.shape[1] // k.shape[1]
    k, v = (x.float().repeat_interleave(times, 1) for x in (k, v))
    scores = q.float() @ k.transpose(2, 3) / math.sqrt(q.shape[-1])
    hidden = torch.ones(scores.shape[-2:], device=q.device).triu(k.shape[2] - q.shape[2] + 1)
    weights = scores.masked_fill(hidden.bool(), -torch.inf).softmax(-1)
    return (weights @ v).transpose(1, 2).flatten(2)


def parts(
    heads: tuple[int, int, int], length: int, before: int, dtype: torch.dtype, gpu: torch.device
) -> list[Tensor]:
    """q, k and v as a model with a cache has them."""
    queries, groups, size = heads
    torch.manual_seed(0)
    q = torch.randn(1, length, queries, size, device=gpu).to(dtype).transpose(1, 2)
    room = before + length + 100
    k, v = (torch.randn(1, groups, room, size, device=gpu).to(dtype) for _ in "kv")
    return [q, *(x[:, :, : before + length] for x in (k, v))]


def can_run(backend: SDPBackend, dtype: torch.dtype, gpu: torch.device) -> bool:
    recent = torch.cuda.get_device_capability(gpu) >= (8, 0)
    if backend == SDPBackend.FLASH_ATTENTION:
        return recent and dtype != torch.float32
    return recent or dtype != torch.bfloat16 or backend == SDPBackend.MATH


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("backend", [*FUSED, SDPBackend.MATH], ids=lambda b: b.name)
@pytest.mark.parametrize("heads", HEADS, ids=str)
def test_every_kernel_computes_the_formula(
    heads: tuple[int, int, int], backend: SDPBackend, dtype: torch.dtype, gpu: torch.device
) -> None:
    if not can_run(backend, dtype, gpu):
        pytest.skip("this GPU has no such kernel")
    for length, before in PLACES:
        q, k, v = parts(heads, length, before, dtype, gpu)
        with torch.inference_mode(), sdpa_kernel([backend]):
            y = causal_attention(q, k, v)
        torch.testing.assert_close(
            y.float(), exact(q, k, v), atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype]
        )


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("heads", HEADS, ids=str)
def test_masks_leave_a_fused_kernel(
    heads: tuple[int, int, int], dtype: torch.dtype, gpu: torch.device
) -> None:
    """A padded batch's, and that of a captured step."""
    if not can_run(SDPBackend.EFFICIENT_ATTENTION, dtype, gpu):
        pytest.skip("this GPU has no such kernel")
    cache = KVCache(1, heads[1], heads[2], 512, dtype=dtype, device=gpu)
    cache.position = torch.full((1,), 64, device=gpu)
    for length, before in ((65, 0), (40, 25)):
        q, k, v = parts(heads, length, before, dtype, gpu)
        seen = torch.ones(length, before + length, device=gpu).tril(before).bool()[None, None]
        with torch.inference_mode(), sdpa_kernel(FUSED):
            y = masked_attention(q, k, v, seen)
            whole = cache.update(0, *(torch.zeros_like(x[:, :, :1]) for x in (k, v)))
            for held, part in zip(whole, (k, v), strict=True):
                held[:, :, :65] = part
            step = attention(q[:, :, -1:], *whole, cache.visible())
        wanted = exact(q, k, v)
        tolerance = TOLERANCE[dtype]
        torch.testing.assert_close(y.float(), wanted, atol=tolerance, rtol=tolerance)
        torch.testing.assert_close(step.float(), wanted[:, -1:], atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("backends", [FUSED, [SDPBackend.MATH]], ids=["fused", "math"])
def test_no_chunk_holds_all_scores(backends: list[SDPBackend], gpu: torch.device) -> None:
    """2,048 queries of 32 heads at 32,768 positions: 8.6 GB of scores in float32."""
    q, k, v = parts((32, 2, 128), 2048, 30_720, torch.float16, gpu)
    torch.cuda.synchronize(gpu)
    torch.cuda.reset_peak_memory_stats(gpu)
    before = torch.cuda.memory_allocated(gpu)
    with torch.inference_mode(), sdpa_kernel(backends):
        causal_attention(q, k, v)
    held = torch.cuda.max_memory_allocated(gpu) - before
    print(f"{held / 1e6:.0f} MB beside q, k and v")
    assert held < (60e6 if backends is FUSED else 400e6)


@pytest.mark.parametrize("name", [name for name in FAMILIES if name != "llama"])
def test_no_family_needs_the_math_kernel(name: str, gpu: torch.device) -> None:
    for dtype in ("float16", "float32"):
        model = load_model(str(GOLDEN_MODELS / name), LoadOptions("cuda", dtype, None))
        model.stop_ids = frozenset()
        with sdpa_kernel(FUSED):
            assert len(reply(model, prompt(model, 40))) == 10
