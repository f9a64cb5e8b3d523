"""CUDA tensors without a GPU: torch's fake tensors, and the rules of its attention kernels.

Under `FakeTensorMode` a tensor has a device, a shape and a dtype, but no data. An operation on
tensors of two devices raises, as on a GPU.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.backends import cuda
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from support.cuda_guard import register_guard


@functools.cache
def fake_cuda_problem() -> str:
    """Why this process cannot make fake CUDA tensors; empty if it can."""
    problem: str = register_guard()
    if problem:
        return problem
    try:
        with FakeTensorMode():
            a = torch.empty(2, 2, device="cuda:1")
            assert (a + a).device == torch.device("cuda", 1)
    except RuntimeError as error:  # a CUDA build of torch may call the driver
        return f"this torch has no fake CUDA tensors: {error}".splitlines()[0]
    return ""


@contextmanager
def fake_tensors() -> Iterator[None]:
    """Tensors made inside are fake, on any device. Skips the test if that is impossible."""
    if fake_cuda_problem():
        pytest.skip(f"fake CUDA tensors: {fake_cuda_problem()}")
    with FakeTensorMode(), torch.inference_mode():
        yield


class NoHostAccess(TorchDispatchMode):
    """Fails if the host reads data of a GPU tensor, or if an operation moves data between them.

    Args:
        answers: results of the reads that are allowed, in order.

    Attributes:
        operations: names of the operations.
        largest_bytes: size of the largest tensor that an operation made.
    """

    def __init__(self, answers: Iterable[Any] = ()) -> None:
        super().__init__()
        self._answers = list(answers)
        self.operations: list[str] = []
        self.largest_bytes = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = func.overloadpacket.__name__
        self.operations.append(name)
        if name in ("item", "is_nonzero", "_local_scalar_dense"):
            assert self._answers, "the host reads a number"
            return self._answers.pop(0)
        assert name not in ("nonzero", "equal", "unique"), f"{func} waits for the GPU"
        result = func(*args, **(kwargs or {}))
        inputs, outputs = _tensors((args, kwargs)), _tensors(result)
        devices = {t.device.type for t in (*inputs, *outputs) if t.dim()}
        assert devices <= {"cuda"}, f"{func} has tensors on {devices}"
        storages = {t.untyped_storage()._cdata for t in inputs}
        new = [t for t in outputs if t.untyped_storage()._cdata not in storages]
        self.largest_bytes = max([self.largest_bytes, *(t.numel() * t.itemsize for t in new)])
        return result

    def assert_all_read(self) -> None:
        assert not self._answers


def _tensors(value: Any) -> list[Tensor]:
    return [leaf for leaf in tree_flatten(value)[0] if isinstance(leaf, Tensor)]


# ---- attention


class FusedKernelRules:
    """Which of torch's fused attention kernels support a call, as in sdp_utils.cpp.

    As in torch, the current GPU decides, not the one that the tensors are on.

    Args:
        capability: of all GPUs except the first, which supports no kernel.
    """

    def __init__(self, capability: tuple[int, int]) -> None:
        self.capability = capability
        self.current = 0

    def exchange(self, device: int) -> int:
        """`torch.cuda._exchange_device`: sets the current GPU and returns the previous one."""
        self.current, previous = device, self.current
        return previous

    def flash(self, params: cuda.SDPAParams, debug: bool = False) -> bool:
        """FlashAttention 2: 16 bits, Ampere or later, no mask; grouped heads are supported."""
        q, k = params.query, params.key
        return (
            self.capability >= (8, 0)
            and q.dtype in (torch.float16, torch.bfloat16)
            and params.attn_mask is None
            and (q.shape[2] == k.shape[2] or not params.is_causal)
            and q.shape[-1] <= 256
            and self._is_dense(params, grouped=True)
        )

    def efficient(self, params: cuda.SDPAParams, debug: bool = False) -> bool:
        """Memory-efficient attention: a mask is supported, grouped heads are not."""
        q, mask = params.query, params.attn_mask
        return (
            (q.dtype != torch.bfloat16 or self.capability >= (8, 0))
            and (mask is None or mask.dtype in (torch.bool, q.dtype))
            and q.shape[-1] % (4 if q.dtype == torch.float32 else 8) == 0
            and self._is_dense(params, grouped=False)
        )

    def _is_dense(self, params: cuda.SDPAParams, *, grouped: bool) -> bool:
        q, k, v = params.query, params.key, params.value
        heads_fit = q.shape[1] == k.shape[1] == v.shape[1]
        if params.enable_gqa and not heads_fit:
            heads_fit = grouped and q.shape[1] % k.shape[1] == 0
        return (
            self.current > 0
            and heads_fit
            and q.shape[0] == k.shape[0] == v.shape[0]
            and q.dtype == k.dtype == v.dtype
            and all(t.stride(-1) == 1 for t in (q, k, v))
        )


@contextmanager
def only_fused_attention(capability: tuple[int, int]) -> Iterator[None]:
    """`scaled_dot_product_attention` of a GPU without the math kernel.

    A call that no fused kernel supports raises, as under `torch.nn.attention.sdpa_kernel`.
    """
    rules = FusedKernelRules(capability)

    def attend(
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        params = cuda.SDPAParams(query, key, value, attn_mask, dropout_p, is_causal, enable_gqa)
        with torch.cuda.device(query.device):  # as every CUDA operation does
            flash, efficient = rules.flash(params), rules.efficient(params)
        if flash:
            result: Sequence[Tensor] = torch.ops.aten._scaled_dot_product_flash_attention(
                query, key, value, dropout_p, is_causal, scale=scale
            )
            return result[0]
        if efficient:
            if attn_mask is not None:
                sizes = (*query.shape[:3], key.shape[2])
                attn_mask = attn_mask.to(query.dtype).expand(sizes)
            result = torch.ops.aten._scaled_dot_product_efficient_attention(
                query, key, value, attn_mask, False, dropout_p, is_causal, scale=scale
            )
            return result[0]
        raise RuntimeError("No available kernel. Aborting execution.")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cuda, "is_built", lambda: True)
        patch.setattr(torch.cuda, "_exchange_device", rules.exchange)
        patch.setattr(torch.cuda, "_maybe_exchange_device", rules.exchange)
        patch.setattr(cuda, "can_use_flash_attention", rules.flash)
        patch.setattr(cuda, "can_use_efficient_attention", rules.efficient)
        patch.setattr(F, "scaled_dot_product_attention", attend)
        yield
