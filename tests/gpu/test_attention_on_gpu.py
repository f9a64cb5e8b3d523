"""Attention on a real GPU: correct, in fused kernels, and without storing all scores."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from glmtui.engine import LoadOptions, load_model
from glmtui.engine.nn.gpu_attention import causal_attention, masked_attention
from glmtui.engine.nn.kv_cache import KVCache
from glmtui.engine.nn.layers import attention
from support.attention_formula import reference_attention
from support.goldens import GOLDEN
from support.graph_talks import FAMILIES, prompt, reply

pytestmark = pytest.mark.gpu

FUSED = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION]
TOLERANCE = {torch.float32: 1e-4, torch.float16: 4e-3, torch.bfloat16: 3e-2}
HEADS = [(32, 2, 128), (32, 8, 128), (32, 32, 128), (9, 3, 64)]  # of GLM-4, Llama 3, 6B, SmolLM2
LENGTHS = [(512, 0), (512, 2048), (5, 1000), (2, 31), (33, 0), (17, 48), (1030, 1019)]


def parts(
    heads: tuple[int, int, int], length: int, before: int, dtype: torch.dtype, gpu: torch.device
) -> list[Tensor]:
    """q, k and v; k and v are views of longer tensors, as from a `KVCache`."""
    queries, groups, size = heads
    torch.manual_seed(0)
    q = torch.randn(1, length, queries, size, device=gpu).to(dtype).transpose(1, 2)
    allocated = before + length + 100
    k, v = (torch.randn(1, groups, allocated, size, device=gpu).to(dtype) for _ in "kv")
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
    for length, before in LENGTHS:
        q, k, v = parts(heads, length, before, dtype, gpu)
        with torch.inference_mode(), sdpa_kernel([backend]):
            y = causal_attention(q, k, v)
        torch.testing.assert_close(
            y.float(), reference_attention(q, k, v), atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype]
        )


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("heads", HEADS, ids=str)
def test_masks_run_in_a_fused_kernel(
    heads: tuple[int, int, int], dtype: torch.dtype, gpu: torch.device
) -> None:
    """The mask of a padded batch, and that of a captured step."""
    if not can_run(SDPBackend.EFFICIENT_ATTENTION, dtype, gpu):
        pytest.skip("this GPU has no such kernel")
    cache = KVCache(1, heads[1], heads[2], 512, dtype=dtype, device=gpu)
    cache.position = torch.full((1,), 64, device=gpu)
    for length, before in ((65, 0), (40, 25)):
        q, k, v = parts(heads, length, before, dtype, gpu)
        visible = torch.ones(length, before + length, device=gpu).tril(before).bool()[None, None]
        with torch.inference_mode(), sdpa_kernel(FUSED):
            y = masked_attention(q, k, v, visible)
            whole = cache.update(0, *(torch.zeros_like(x[:, :, :1]) for x in (k, v)))
            for cached, part in zip(whole, (k, v), strict=True):
                cached[:, :, :65] = part
            step = attention(q[:, :, -1:], *whole, cache.visible_mask())
        expected = reference_attention(q, k, v)
        tolerance = TOLERANCE[dtype]
        torch.testing.assert_close(y.float(), expected, atol=tolerance, rtol=tolerance)
        torch.testing.assert_close(step.float(), expected[:, -1:], atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("backends", [FUSED, [SDPBackend.MATH]], ids=["fused", "math"])
def test_scores_of_a_chunk_are_never_all_stored(
    backends: list[SDPBackend], gpu: torch.device
) -> None:
    """2,048 queries of 32 heads at 32,768 positions: 8.6 GB of scores in float32."""
    q, k, v = parts((32, 2, 128), 2048, 30_720, torch.float16, gpu)
    torch.cuda.synchronize(gpu)
    torch.cuda.reset_peak_memory_stats(gpu)
    before = torch.cuda.memory_allocated(gpu)
    with torch.inference_mode(), sdpa_kernel(backends):
        causal_attention(q, k, v)
    used = torch.cuda.max_memory_allocated(gpu) - before
    print(f"{used / 1e6:.0f} MB in addition to q, k and v")
    assert used < (60e6 if backends is FUSED else 400e6)


@pytest.mark.parametrize("name", [name for name in FAMILIES if name != "llama"])
def test_no_family_needs_the_math_kernel(name: str, gpu: torch.device) -> None:
    for dtype in ("float16", "float32"):
        model = load_model(str(GOLDEN / name), LoadOptions("cuda", dtype, None))
        model.stop_ids = frozenset()
        with sdpa_kernel(FUSED):
            assert len(reply(model, prompt(model, 40))) == 10
