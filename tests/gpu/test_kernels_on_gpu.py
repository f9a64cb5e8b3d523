"""Kernels for packed weights on a real GPU: all are correct, and none is slower than unpacking.

`pytest -m gpu tests/gpu -s` prints their times.
"""

from __future__ import annotations

import pytest
import torch

from glmtui.engine.nn.linear import PackedLinear, cuda
from glmtui.engine.nn.linear.kernel_selection import (
    REFERENCE,
    KernelChoice,
    find_mismatch,
    gpu_seconds,
)
from glmtui.engine.nn.packed_weight import PackedWeight, quantize
from support.weights import random_int4, random_weight

pytestmark = pytest.mark.gpu

DTYPES = [torch.float16, torch.bfloat16]
KINDS = {
    "int4 g32": lambda: quantize(random_weight(384, 512) + 0.1, 4, 32),
    "int4 g128": lambda: quantize(random_weight(384, 512), 4, 128),
    "int4 per row, no zeros": lambda: random_int4(40, 576, 576, zero=False),
    "int4 g16": lambda: random_int4(40, 528, 16),
    "int8": lambda: quantize(random_weight(390, 512), 8),
    "int8 g32": lambda: quantize(random_weight(390, 608), 8, 32),
}
CHATGLM = {"int4 g32": (4, 32), "int4 g128": (4, 128), "int8": (8, None)}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
def test_every_kernel_that_supports_a_weight_is_correct(
    kind: str, dtype: torch.dtype, gpu: torch.device
) -> None:
    weight = KINDS[kind]().to(gpu)
    bias = random_weight(1, weight.shape[0])[0].to(gpu, dtype)
    supporting = [
        kernel for kernel in (REFERENCE, *cuda.kernels()) if kernel.supports(weight, dtype)
    ]
    assert "triton" in {kernel.name for kernel in supporting}
    for kernel in supporting:
        for b in (None, bias):
            assert find_mismatch(kernel.make(weight, b, dtype), weight, b, dtype) == "", kernel.name


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", CHATGLM)
def test_which_is_fastest_at_one_token(kind: str, dtype: torch.dtype, gpu: torch.device) -> None:
    """For ChatGLM's widest layer; unpacking the weight for every token must not be the fastest."""
    bits, group = CHATGLM[kind]
    weight = quantize(torch.randn(16_384, 4096, device=gpu, dtype=dtype), bits, group)
    x = torch.randn(1, 4096, device=gpu, dtype=dtype)
    seconds = {}
    with torch.inference_mode():
        for kernel in (REFERENCE, *cuda.kernels()):
            if kernel.supports(weight, dtype):
                layer = kernel.make(weight, None, dtype)
                seconds[kernel.name] = gpu_seconds(lambda layer=layer: layer(x), gpu)
    rate = weight.nbytes / min(seconds.values()) / 1e9
    print(
        kind, dtype, {name: f"{1e6 * s:.0f} us" for name, s in seconds.items()}, f"{rate:.0f} GB/s"
    )
    choice = KernelChoice(cuda.kernels())
    layer = choice.make_layer(weight, None, dtype)
    assert type(layer) is not PackedLinear
    assert not choice.rejected


def test_a_kernel_is_timed_by_its_own_gpu(gpu: torch.device) -> None:
    """The measured bandwidth of a copy is possible, and ten copies take ten times as long."""
    last = torch.device("cuda", torch.cuda.device_count() - 1)
    source = torch.zeros(64 << 20, dtype=torch.uint8, device=last)
    target = torch.empty_like(source)
    one = gpu_seconds(lambda: target.copy_(source), last)
    ten = gpu_seconds(lambda: [target.copy_(source) for _ in range(10)], last)
    print(f"{2 * source.nbytes / one / 1e9:.0f} GB/s")
    assert 20e9 < 2 * source.nbytes / one < 40e12
    assert 8 < ten / one < 12
    uncaptured = gpu_seconds(lambda: target.copy_(source)[:1].item(), last)  # cannot be captured
    assert uncaptured > 0.9 * one


def test_a_step_can_be_captured_as_a_graph(gpu: torch.device) -> None:
    """No kernel may wait for the GPU or read its data on the host."""
    for weight in (quantize(random_weight(256, 256), 4, 32), quantize(random_weight(256, 256), 8)):
        packed: PackedWeight = weight.to(gpu)
        layer = KernelChoice(cuda.kernels()).make_layer(packed, None, torch.float16)
        x = random_weight(1, 256).half().to(gpu)
        with torch.inference_mode():
            eager = layer(x)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                y = layer(x)
            graph.replay()
        assert torch.equal(y, eager)
