"""Compares the memory estimate with what a model allocates on GPUs, on fake CUDA tensors.

Fake tensors have sizes but no data, so models of 9 billion weights fit anywhere. The engine loads
the model, reads a prompt and generates, and an `AllocationLog` counts. Two things that need a real
GPU are replaced: Triton's kernels only allocate their results, and attention is assumed to be fused
(another test checks that it never computes whole matrices of scores).

By hand, a table of all models at full size: python tests/engine/loading/test_gpu_memory.py
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from glmtui.engine.bench.shapes import SHAPES
from glmtui.engine.catalog.quants import QUANTS
from glmtui.engine.checkpoint.checkpoint import Checkpoint, WeightSource
from glmtui.engine.loading.memory_estimate import estimate_memory
from glmtui.engine.loading.model_parts import VOCAB_MODULES, devices_of_parts
from glmtui.engine.loading.pipeline import split_over_devices
from glmtui.engine.loading.placement import FIRST_TOKENS, UNPACK_BYTES, MemoryEstimate
from glmtui.engine.loading.weight_filler import WeightFiller
from glmtui.engine.models.model_family import import_family
from glmtui.engine.nn.linear import KernelChoice, LinearLayer, cuda
from glmtui.engine.nn.linear.reference import PackedLinear
from glmtui.engine.nn.packed_weight import GPU_BLOCK, PackedWeight
from glmtui.engine.runtime.model_runner import PREFILL_CHUNK
from support.allocations import AllocationLog
from support.cuda_guard import register_guard, require_guard

KERNELS: dict[str, type[LinearLayer]] = {
    "triton": cuda.TritonLinear,
    "tinygemm": cuda.TinygemmLinear,
    "unpacking": PackedLinear,
}
REPLY = 2  # tokens that are generated, of the 2,048 of a turn
# An estimate may be larger than the truth by this fraction and this number of bytes.
SHARE, SLACK = 0.1, 5e8


class FusedAttentionLog(AllocationLog):
    """A log in which attention is one operation, and reading a number from the GPU gives 1."""

    def run(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default:
            return 1
        if func is not torch.ops.aten.scaled_dot_product_attention.default:
            return super().run(func, args, kwargs)
        q, v = args[0], args[2]
        batch, heads, length, _ = q.shape
        with self:  # fused attention also returns the logarithm of each row's sum
            sums = q.new_empty(batch, heads, length, dtype=torch.float32)
            y = q.new_empty(batch, length, heads, v.shape[-1]).transpose(1, 2)
        del sums
        return y


class FakeWeights(Checkpoint):
    """A checkpoint of fake tensors in main memory.

    Args:
        sources: of the parameters, by name.
        shapes: of the parameters, by name.
        dtype: of the weights that are not packed.
        packed: how linear layers are stored; None for not quantised.
    """

    def __init__(
        self,
        sources: Mapping[str, WeightSource],
        shapes: Mapping[str, torch.Size],
        dtype: torch.dtype,
        packed: str | None,
    ) -> None:
        self.folder, self.bits, self.names_read, self._open = Path("fake"), 0, set(), {}
        self._dtype = dtype
        self._quant = None if packed is None else QUANTS[packed]
        self._sizes: dict[str, tuple[int, ...]] = {}
        self._unpacked_names = {
            n
            for name, rows in sources.items()
            if name.split(".")[0] in VOCAB_MODULES
            for n in rows.names
        }
        for name, rows in sources.items():
            height, *columns = shapes[name]
            height += rows.start
            first = height - (len(rows.names) - 1) * (height // len(rows.names))
            for i, each in enumerate(rows.names):
                self._sizes[each] = (height // len(rows.names) if i else first, *columns)
        self._shards = dict.fromkeys(self._sizes, self.folder)

    @property
    def nbytes(self) -> int:
        return 1

    def read_weight(self, name: str, start: int = 0) -> Tensor | PackedWeight:
        self.names_read.add(name)
        rows, *columns = self._sizes[name]
        rows -= start
        if self._quant is None or not columns or name in self._unpacked_names:
            return torch.empty(rows, *columns, dtype=self._dtype)
        bits, (width,) = self._quant.bits, columns
        q = torch.empty(rows, width * bits // 8, dtype=torch.uint8 if bits == 4 else torch.int8)
        scale = torch.empty(rows, width // (self._quant.group or width), dtype=torch.float16)
        return PackedWeight(q, scale, torch.empty_like(scale) if bits == 4 else None)


class FixedKernel(KernelChoice):
    """Always chooses one kernel."""

    def __init__(self, kernel: type[LinearLayer]) -> None:
        super().__init__([])
        self._kernel: Any = kernel

    def make_layer(
        self, weight: PackedWeight, bias: Tensor | None, dtype: torch.dtype
    ) -> LinearLayer:
        layer: LinearLayer = self._kernel(weight, bias, dtype)
        return layer


class TritonAllocations:
    """Replaces `triton_kernels`: allocates the same, computes nothing."""

    @staticmethod
    def multiply(x: Tensor, weight: PackedWeight, bias: Tensor | None) -> Tensor:
        return x.new_empty(x.shape[0], weight.shape[0])

    @staticmethod
    def unpack(weight: PackedWeight, dtype: torch.dtype) -> Tensor:
        return torch.empty(*weight.shape, dtype=dtype, device=weight.q.device)


@pytest.fixture(autouse=True)
def fake_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    require_guard()
    monkeypatch.setattr(cuda, "_triton_kernels", lambda: TritonAllocations)
    monkeypatch.setattr(torch.cuda, "device", lambda device: contextlib.nullcontext())


@dataclass(frozen=True)
class MemoryUse:
    """Bytes on each GPU, without CUDA's context: the estimate, and the peak of each phase."""

    estimate: MemoryEstimate
    estimated: list[int]
    loading: list[int]
    reading: list[int]
    writing: list[int]

    @property
    def peak(self) -> list[int]:
        return [max(each) for each in zip(self.loading, self.reading, self.writing, strict=True)]


def measure_turn(
    key: str,
    quant: str | None = None,
    kernel: str = "triton",
    *,
    layers: int | None = 3,
    gpus: int = 1,
    dtype: torch.dtype = torch.float16,
    stored: torch.dtype | None = None,
    packed: bool = True,
) -> MemoryUse:
    """Loads a model and runs a turn of 2,048 tokens.

    Args:
        layers: how many layers the model has; None for all.
        stored: the dtype of the checkpoint, if it differs from `dtype`.
        packed: whether the checkpoint is quantised.
    """
    raw = dict(SHAPES[key].config)
    counted = next(name for name in ("num_layers", "num_hidden_layers") if name in raw)
    raw[counted] = layers or raw[counted]
    family = import_family(SHAPES[key].family)
    config = family.load_config(raw)
    with torch.device("meta"):
        model = family.Model(config)
    sources = family.weight_sources(config)
    shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
    weights = FakeWeights(sources, shapes, stored or dtype, quant if packed else None)
    asked = None if quant is None else QUANTS[quant]
    estimate = estimate_memory(model, weights, sources, dtype, asked)
    names = [f"cuda:{i}" for i in range(gpus)]
    middle = [names[i * gpus // raw[counted]] for i in range(raw[counted])]
    where = (names[0], *middle, names[-1])
    places = {part: torch.device(name) for part, name in devices_of_parts(sources, where).items()}
    log = FusedAttentionLog()

    def peaks() -> list[int]:
        found = [log.peak[name] for name in names]
        log.reset_peak()
        return found

    with FakeTensorMode(allow_non_fake_inputs=True), log, torch.inference_mode():
        first = places["embedding"]
        filler = WeightFiller(
            model,
            weights,
            first,
            dtype,
            asked,
            kernels=FixedKernel(KERNELS[kernel]),
            devices=places,
        )
        filler.fill(sources, lambda progress: None)
        model.prepare(config.context_length, dtype, first)
        if gpus > 1:
            split_over_devices(model, places)
        loading = peaks()
        cache = model.new_cache(config.context_length, dtype, first)
        run_forward(model, cache, [FIRST_TOKENS - REPLY], first)
        reading = peaks()
        run_forward(model, cache, [1] * REPLY, first)
        writing = peaks()
    estimated = [
        estimate.scratch
        + sum(size for size, at in zip(estimate.parts, where, strict=True) if at == name)
        for name in names
    ]
    return MemoryUse(estimate, estimated, loading, reading, writing)


def run_forward(model: Any, cache: Any, chunks: Sequence[int], device: torch.device) -> None:
    for tokens in chunks:
        model(torch.zeros(1, tokens, dtype=torch.long, device=device), cache, last_only=True)


def check_estimate(use: MemoryUse) -> None:
    for estimated, peak in zip(use.estimated, use.peak, strict=True):
        assert peak <= estimated
        assert estimated <= peak * (1 + SHARE) + SLACK


CASES = [
    *((key, None, "triton") for key in SHAPES),
    *((key, quant, "triton") for key in SHAPES for quant in ("int8", "int4")),
    ("glm-4-9b", "int4", "unpacking"),
    ("chatglm-6b", "int8", "unpacking"),
]


@pytest.mark.parametrize(("key", "quant", "kernel"), CASES)
def test_a_turn_stays_within_the_estimate(key: str, quant: str | None, kernel: str) -> None:
    check_estimate(measure_turn(key, quant, kernel))


@pytest.mark.parametrize("key", ["chatglm2-6b", "glm-4-9b"])
def test_tinygemm_unpacks_in_little_memory(key: str) -> None:
    check_estimate(measure_turn(key, "int4", "tinygemm", dtype=torch.bfloat16))


@pytest.mark.parametrize("key", ["chatglm-6b", "glm-4-9b", "smollm2"])
@pytest.mark.parametrize("quant", [None, "int4"])
def test_each_of_several_gpus_stays_within_its_part(key: str, quant: str | None) -> None:
    check_estimate(measure_turn(key, quant, gpus=3))


@pytest.mark.parametrize("quant", ["int8", "int4"])
def test_quantising_while_loading_stays_within_it_too(quant: str) -> None:
    check_estimate(measure_turn("smollm2", quant, packed=False))


@pytest.mark.parametrize("gpus", [1, 2])
def test_a_checkpoint_of_another_dtype_stays_within_it_too(gpus: int) -> None:
    check_estimate(measure_turn("glm-4-9b", stored=torch.bfloat16, gpus=gpus, layers=8))


CHATGLM_6B_LIMITS = {None: 13.8e9, "int8": 8.7e9, "int4": 6.0e9}


@pytest.mark.parametrize("quant", CHATGLM_6B_LIMITS)
def test_chatglm_6b_needs_no_more_than_its_limit(quant: str | None) -> None:
    use = measure_turn("chatglm-6b", quant)
    missing = 28 - len(use.estimate.layers)  # all layers are alike
    assert use.peak[0] + missing * use.estimate.layers[0] <= CHATGLM_6B_LIMITS[quant]


@pytest.mark.skipif("GLMTUI_SLOW_TESTS" not in os.environ, reason="GLMTUI_SLOW_TESTS is not set")
@pytest.mark.parametrize(("key", "quant", "kernel"), CASES)
def test_all_layers_stay_within_the_estimate(key: str, quant: str | None, kernel: str) -> None:
    check_estimate(measure_turn(key, quant, kernel, layers=None))


def test_the_estimate_allows_for_a_whole_prefill_chunk() -> None:
    assert PREFILL_CHUNK["cuda"] == (FIRST_TOKENS, FIRST_TOKENS)
    assert 9 * GPU_BLOCK <= UNPACK_BYTES


def main(only: Sequence[str]) -> None:
    """Prints the estimated and the used gigabytes of each phase."""
    assert not register_guard()
    cuda._triton_kernels = lambda: TritonAllocations
    torch.cuda.device = lambda device: contextlib.nullcontext()  # type: ignore[assignment,misc]
    for key, quant, kernel in CASES:
        if not only or key in only:
            found = measure_turn(key, quant, kernel, layers=None)
            each = (found.estimated, found.peak, found.loading, found.reading, found.writing)
            estimated, peak, *phases = (sum(nbytes) / 1e9 for nbytes in each)
            print(
                f"{key:12} {quant or '16 bit':6} {kernel:10} estimated {estimated:6.2f}"
                f" use {peak:6.2f}: load {phases[0]:.2f} read {phases[1]:.2f}"
                f" write {phases[2]:.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main(sys.argv[1:])
