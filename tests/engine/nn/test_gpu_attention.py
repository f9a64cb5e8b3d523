"""Attention for GPUs: all forms give the same results, and each one runs in a fused kernel.

The results are computed on a CPU. `fake_gpu.FusedKernelRules` decides which kernel a GPU would use;
`tests/gpu` checks it on a GPU.
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
from support.attention_formula import reference_attention
from support.fake_gpu import FusedKernelRules, NoHostAccess, fake_tensors, only_fused_attention

GPU = torch.device("cuda", 1)
GROUPS = [(6, 2), (4, 4), (4, 1)]  # query heads, key heads


@pytest.fixture
def fake() -> Iterator[None]:
    with fake_tensors():
        yield


def parts(heads: int, groups: int, length: int, before: int, size: int = 16) -> list[Tensor]:
    """q, k and v; k and v are views of longer tensors, as from a `KVCache`."""
    torch.manual_seed(0)
    q = torch.randn(2, length, heads, size).transpose(1, 2)
    k, v = (torch.randn(2, groups, before + length + 5, size) for _ in "kv")
    return [q, *(x[:, :, : before + length] for x in (k, v))]


# ---- results


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
    # these kernels exist only on a GPU
    monkeypatch.setattr(gpu_attention, "_lower_right_flash", lower_right)
    monkeypatch.setattr(gpu_attention, "_lower_right_efficient", lower_right)
    expected = reference_attention(q, k, v)
    torch.testing.assert_close(causal_attention(q, k, v), expected, atol=1e-5, rtol=1e-5)


def lower_right(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return reference_attention(q, k, v).unflatten(2, (q.shape[1], -1)).transpose(1, 2)


@pytest.mark.parametrize("transposed", [False, True], ids=["", "transposed"])
@pytest.mark.parametrize("queries", [1, 2, 3])
@pytest.mark.parametrize(("heads", "groups"), GROUPS)
def test_blocks_of_queries_give_the_same_result(
    heads: int, groups: int, queries: int, transposed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if the memory of a kernel's result is in the order [batch, S, heads, d]."""
    if transposed:
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
    expected = reference_attention(q, k, v)
    torch.testing.assert_close(causal_attention(q, k, v), expected, atol=1e-5, rtol=1e-5)
    causal = torch.zeros(2, 1, 7, 11).masked_fill(torch.ones(7, 11).triu(5).bool(), -torch.inf)
    for mask in (causal, causal == 0, causal[:1], causal[0, 0]):
        y = masked_attention(q, k, v, mask)
        torch.testing.assert_close(y, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("taken", [True, False])
@pytest.mark.parametrize(("heads", "groups"), GROUPS)
def test_masked_positions_have_no_effect(
    taken: bool, heads: int, groups: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For a padded sequence beside another one, and for one query over a whole cache."""
    monkeypatch.setattr(cuda, "can_use_efficient_attention", lambda params: taken)
    q, k, v = parts(heads, groups, 5, 0)
    hidden = torch.ones(5, 5).triu(1).bool().repeat(2, 1, 1, 1)
    hidden[1, :, :, :2] = True
    hidden[1, :, :2] = False
    y = masked_attention(q, k, v, ~hidden)
    torch.testing.assert_close(y[:1], reference_attention(*(x[:1] for x in (q, k, v))))
    alone = reference_attention(*(x[1:, :, 2:] for x in (q, k, v)))
    torch.testing.assert_close(y[1:, 2:], alone)
    visible = (torch.arange(5) <= 3)[None, None, None]
    y = masked_attention(q[:, :, 3:4], k, v, visible)
    torch.testing.assert_close(y, reference_attention(q[:, :, 3:4], k[:, :, :4], v[:, :, :4]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_shared_keys_are_views_that_flash_attention_supports(dtype: torch.dtype) -> None:
    """With the CPU's flash attention, which also supports a stride of 0."""
    q, k, v = (x.to(dtype) for x in parts(6, 2, 7, 0))
    rows, keys, values = share_heads(q, k, v)
    assert keys.stride(1) == values.stride(1) == 0
    assert keys.data_ptr() == k.data_ptr()
    with sdpa_kernel([SDPBackend.FLASH_ATTENTION]):
        y = F.scaled_dot_product_attention(rows, keys, values, is_causal=True)
    y = y.reshape(q.shape).transpose(1, 2).flatten(2)
    tolerance = 1e-5 if dtype == torch.float32 else 0.03
    torch.testing.assert_close(
        y.float(), reference_attention(q, k, v), atol=tolerance, rtol=tolerance
    )


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
def test_scores_are_never_stored(
    dtype: torch.dtype,
    capability: tuple[int, int],
    heads: int,
    groups: int,
    before: int,
    fake: None,
) -> None:
    q = torch.empty(1, 512, heads, 128, dtype=dtype, device=GPU).transpose(1, 2)
    cache = torch.empty(1, groups, 4096, 128, dtype=dtype, device=GPU)
    k = v = cache[:, :, : before + 512]
    with NoHostAccess() as access, only_fused_attention(capability):
        y = causal_attention(q, k, v)
    assert (y.shape, y.dtype, y.device) == ((1, 512, heads * 128), dtype, GPU)
    assert (
        access.largest_bytes == q.numel() * dtype.itemsize
    )  # only the result, no copy of an input
    expected = ROUTES[dtype, capability]
    assert any(f"_{expected}_attention" in name for name in access.operations)


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
        with NoHostAccess() as access, only_fused_attention(capability):
            masked_attention(q, k, k, mask)
        assert "_scaled_dot_product_efficient_attention" in access.operations


def test_the_rules_reject_what_torch_rejects(fake: None) -> None:
    """No fused kernel supports both a mask and grouped heads."""
    q = torch.empty(1, 32, 64, 128, dtype=torch.float16, device=GPU)
    k = torch.empty(1, 2, 64, 128, dtype=torch.float16, device=GPU)
    mask = torch.empty(64, 64, dtype=torch.float16, device=GPU)
    for capability in ((7, 5), (8, 0), (9, 0)):
        kernels = FusedKernelRules(capability)
        kernels.exchange(1)
        assert kernels.efficient(cuda.SDPAParams(q, q, q, mask, 0.0, False, False))
        params = cuda.SDPAParams(q, k, k, mask, 0.0, False, True)
        assert not kernels.flash(params)
        assert not kernels.efficient(params)
        with (
            only_fused_attention(capability),
            pytest.raises(RuntimeError, match="No available kernel"),
        ):
            F.scaled_dot_product_attention(q, k, k, mask, enable_gqa=True)


@pytest.mark.parametrize("total", [2048, 32_768, 131_072])
def test_without_a_fused_kernel_memory_is_bounded(total: int, fake: None) -> None:
    """The scores of 2,048 queries of 32 heads over 131,072 positions would be 34 GB."""
    q = torch.empty(1, 32, 8, 128, dtype=torch.float16, device=GPU)
    k = torch.empty(1, 2, total, 128, dtype=torch.float16, device=GPU)
    with NoHostAccess() as access:
        y = causal_attention(q, k, k)
    assert y.shape == (1, 8, 32 * 128)
    keys = 2 * total * 128 * 4  # torch converts them to float32
    assert access.largest_bytes <= max(
        gpu_attention.SCORE_BYTES // gpu_attention.SCORE_COPIES, keys
    )
