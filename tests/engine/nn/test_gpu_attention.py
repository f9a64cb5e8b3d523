"""Attention as a GPU gets it: the same numbers in every form, and each form one of a fused kernel.

The numbers are computed on a CPU. Which kernel a GPU has for a form, `fake_gpu.Kernels` tells on
fake tensors, and `tests/gpu` on a GPU.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from torch.backends import cuda
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from glmtui.engine.nn import gpu_attention
from glmtui.engine.nn.gpu_attention import causal_attention, masked_attention, share_heads
from support.attention_formula import by_the_formula
from support.fake_gpu import Kernels, OnDevice, fake_tensors, fused_attention

GPU = torch.device("cuda", 1)
GROUPS = [(6, 2), (4, 4), (4, 1)]  # heads of queries, heads of keys


@pytest.fixture
def fake() -> Iterator[None]:
    with fake_tensors():
        yield


def parts(heads: int, groups: int, length: int, before: int, size: int = 16) -> list[Tensor]:
    """q, k and v; the cache has room for more than it holds, as a `KVCache` has."""
    torch.manual_seed(0)
    q = torch.randn(2, length, heads, size).transpose(1, 2)
    k, v = (torch.randn(2, groups, before + length + 5, size) for _ in "kv")
    return [q, *(x[:, :, : before + length] for x in (k, v))]


# ---- numbers


@pytest.mark.parametrize("taken", ["flash", "efficient", "none"])
@pytest.mark.parametrize(("heads", "groups"), GROUPS)
@pytest.mark.parametrize(("length", "before"), [(7, 0), (7, 4), (2, 9)])
def test_causal_attention(
    taken: str,
    heads: int,
    groups: int,
    length: int,
    before: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    q, k, v = parts(heads, groups, length, before)
    monkeypatch.setattr(cuda, "can_use_flash_attention", lambda params: taken == "flash")
    monkeypatch.setattr(cuda, "can_use_efficient_attention", lambda params: taken == "efficient")
    # the kernels for the last of more positions are a GPU's
    monkeypatch.setattr(gpu_attention, "_lower_right_flash", lower_right)
    monkeypatch.setattr(gpu_attention, "_lower_right_efficient", lower_right)
    expected = by_the_formula(q, k, v)
    torch.testing.assert_close(causal_attention(q, k, v), expected, atol=1e-5, rtol=1e-5)


def lower_right(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """What both kernels compute, by the formula."""
    return by_the_formula(q, k, v).unflatten(2, (q.shape[1], -1)).transpose(1, 2)


@pytest.mark.parametrize("turned", [False, True], ids=["", "turned"])
@pytest.mark.parametrize("queries", [1, 2, 3])
@pytest.mark.parametrize(("heads", "groups"), GROUPS)
def test_blocks_of_queries_are_the_whole(
    heads: int, groups: int, queries: int, turned: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where a kernel lays its result out as [batch, S, heads, d]."""
    if turned:
        attend = F.scaled_dot_product_attention
        monkeypatch.setattr(
            F,
            "scaled_dot_product_attention",
            lambda *args, **kwargs: (
                attend(*args, **kwargs).transpose(1, 2).contiguous().transpose(1, 2)
            ),
        )
    q, k, v = parts(heads, groups, 7, 4)
    monkeypatch.setattr(gpu_attention, "SCORE_BYTES", queries * 2 * heads * 11 * 12)
    expected = by_the_formula(q, k, v)
    torch.testing.assert_close(causal_attention(q, k, v), expected, atol=1e-5, rtol=1e-5)
    causal = torch.zeros(2, 1, 7, 11).masked_fill(torch.ones(7, 11).triu(5).bool(), -torch.inf)
    for mask in (causal, causal == 0, causal[:1], causal[0, 0]):
        y = masked_attention(q, k, v, mask)
        torch.testing.assert_close(y, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("taken", [True, False])
@pytest.mark.parametrize(("heads", "groups"), GROUPS)
def test_what_a_mask_hides(
    taken: bool, heads: int, groups: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two sequences, one padded; and for one query, of the room of a cache."""
    monkeypatch.setattr(cuda, "can_use_efficient_attention", lambda params: taken)
    q, k, v = parts(heads, groups, 5, 0)
    hidden = torch.ones(5, 5).triu(1).bool().repeat(2, 1, 1, 1)
    hidden[1, :, :, :2] = True
    hidden[1, :, :2] = False
    y = masked_attention(q, k, v, ~hidden)
    torch.testing.assert_close(y[:1], by_the_formula(*(x[:1] for x in (q, k, v))))
    alone = by_the_formula(*(x[1:, :, 2:] for x in (q, k, v)))
    torch.testing.assert_close(y[1:, 2:], alone)
    room = (torch.arange(5) <= 3)[None, None, None]
    y = masked_attention(q[:, :, 3:4], k, v, room)
    torch.testing.assert_close(y, by_the_formula(q[:, :, 3:4], k[:, :, :4], v[:, :, :4]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_shared_keys_are_views_and_flash_attention_takes_them(dtype: torch.dtype) -> None:
    """By the CPU's flash attention, which stands for a kernel that takes strides as they are."""
    q, k, v = (x.to(dtype) for x in parts(6, 2, 7, 0))
    rows, keys, values = share_heads(q, k, v)
    assert keys.stride(1) == values.stride(1) == 0
    assert keys.data_ptr() == k.data_ptr()
    with sdpa_kernel([SDPBackend.FLASH_ATTENTION]):
        y = F.scaled_dot_product_attention(rows, keys, values, is_causal=True)
    y = y.reshape(q.shape).transpose(1, 2).flatten(2)
    tolerance = 1e-5 if dtype == torch.float32 else 0.03
    torch.testing.assert_close(y.float(), by_the_formula(q, k, v), atol=tolerance, rtol=tolerance)


# ---- kernels

ROUTES = {
    (torch.float16, (8, 0)): "flash",
    (torch.bfloat16, (9, 0)): "flash",
    (torch.float16, (7, 5)): "efficient",
    (torch.float32, (8, 0)): "efficient",
}


@pytest.mark.parametrize(("dtype", "capability"), ROUTES)
@pytest.mark.parametrize(("heads", "groups"), [(32, 2), (32, 32), (9, 3)])
@pytest.mark.parametrize("before", [0, 2048])
def test_no_score_is_held(
    dtype: torch.dtype,
    capability: tuple[int, int],
    heads: int,
    groups: int,
    before: int,
    fake: None,
) -> None:
    q = torch.empty(1, 512, heads, 128, dtype=dtype, device=GPU).transpose(1, 2)
    room = torch.empty(1, groups, 4096, 128, dtype=dtype, device=GPU)
    k = v = room[:, :, : before + 512]
    with OnDevice() as watched, fused_attention(capability):
        y = causal_attention(q, k, v)
    assert (y.shape, y.dtype, y.device) == ((1, 512, heads * 128), dtype, GPU)
    assert watched.largest == q.numel() * dtype.itemsize  # the result; nothing is copied
    used = ROUTES[dtype, capability]
    assert any(f"_{used}_attention" in name for name in watched.ran)


@pytest.mark.parametrize("capability", [(7, 5), (8, 0)])
@pytest.mark.parametrize("groups", [2, 32])
def test_a_mask_leaves_the_memory_efficient_kernel(
    capability: tuple[int, int], groups: int, fake: None
) -> None:
    q = torch.empty(2, 32, 64, 128, dtype=torch.float16, device=GPU)
    k = torch.empty(2, groups, 96, 128, dtype=torch.float16, device=GPU)
    for mask in (
        torch.empty(2, 1, 64, 96, dtype=torch.float16, device=GPU),
        torch.empty(1, 1, 64, 96, dtype=torch.bool, device=GPU),
    ):
        with OnDevice() as watched, fused_attention(capability):
            masked_attention(q, k, k, mask)
        assert "_scaled_dot_product_efficient_attention" in watched.ran


def test_the_rules_refuse_what_torch_refuses(fake: None) -> None:
    """The form that prefill had: a mask, and grouped heads."""
    q = torch.empty(1, 32, 64, 128, dtype=torch.float16, device=GPU)
    k = torch.empty(1, 2, 64, 128, dtype=torch.float16, device=GPU)
    mask = torch.empty(64, 64, dtype=torch.float16, device=GPU)
    for capability in ((7, 5), (8, 0), (9, 0)):
        kernels = Kernels(capability)
        kernels.exchange(1)
        assert kernels.efficient(cuda.SDPAParams(q, q, q, mask, 0.0, False, False))
        params = cuda.SDPAParams(q, k, k, mask, 0.0, False, True)
        assert not kernels.flash(params)
        assert not kernels.efficient(params)
        with fused_attention(capability), pytest.raises(RuntimeError, match="No available kernel"):
            F.scaled_dot_product_attention(q, k, k, mask, enable_gqa=True)


@pytest.mark.parametrize("total", [2048, 32_768, 131_072])
def test_without_a_fused_kernel_memory_is_bounded(total: int, fake: None) -> None:
    """131,072 positions before 2,048 queries of 32 heads would have 34 GB of scores."""
    q = torch.empty(1, 32, 8, 128, dtype=torch.float16, device=GPU)
    k = torch.empty(1, 2, total, 128, dtype=torch.float16, device=GPU)
    with OnDevice() as watched:
        y = causal_attention(q, k, k)
    assert y.shape == (1, 8, 32 * 128)
    keys = 2 * total * 128 * 4  # in float32, as torch multiplies them
    assert watched.largest <= max(gpu_attention.SCORE_BYTES // gpu_attention.SCORE_COPIES, keys)
