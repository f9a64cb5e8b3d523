"""Kernels for GPUs, as far as no GPU is needed: selection, checks and weight formats."""

from __future__ import annotations

import base64
import bz2
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from glmtui.engine.nn.linear import KernelChoice, PackedLinear, cpm, cuda, make_kernel_choice
from glmtui.engine.nn.linear.kernel_selection import REFERENCE, Clock, Kernel, find_mismatch
from glmtui.engine.nn.linear.reference import LinearLayer
from glmtui.engine.nn.packed_weight import PackedWeight, pack_nibbles, quantize
from glmtui.errors import EngineError
from support.weights import random_int4, random_weight

HALF = torch.float16
GPU = torch.device("cuda", 0)


class ChangedLinear(PackedLinear):
    """A layer whose results are changed by a function."""

    def __init__(
        self, weight: PackedWeight, bias: Tensor | None, change: Callable[[Tensor], Tensor]
    ) -> None:
        super().__init__(weight, bias, torch.float32)
        self.change = change

    def forward(self, x: Tensor) -> Tensor:
        bias = None if self.bias is None else self.bias.float()
        y = F.linear(x.float(), self.weight.dequantize(torch.float32), bias)
        return self.change(y.to(x.dtype))


def fake_kernel(name: str, change: Callable[[Tensor], Tensor] = lambda y: y) -> Kernel:
    return Kernel(name, lambda w, d: True, lambda w, b, d: ChangedLinear(w, b, change))


def fake_clock(*seconds: float) -> Clock:
    """A clock whose successive measurements are these."""
    remaining = iter(seconds)

    def clock(call: Callable[[], object], device: torch.device) -> float:
        call()
        return next(remaining)

    return clock


def zero_last_row(y: Tensor) -> Tensor:
    return torch.cat((y[:, :-1], torch.zeros_like(y[:, :1])), dim=1)


def zero_last_token(y: Tensor) -> Tensor:
    return torch.cat((y[:-1], torch.zeros_like(y[:1])))


@pytest.mark.parametrize(
    "weight",
    [
        quantize(random_weight(40, 128), 4, 32),
        quantize(random_weight(40, 128), 8),
        random_int4(4200, 64, 32),
    ],
    ids=["int4", "int8", "more rows than are compared at once"],
)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_wrong_products_are_found(weight: PackedWeight, dtype: torch.dtype) -> None:
    bias = random_weight(1, weight.shape[0])[0].to(dtype)

    def mismatch(change: Callable[[Tensor], Tensor]) -> str:
        return find_mismatch(ChangedLinear(weight, bias, change), weight, bias, dtype)

    assert mismatch(lambda y: y) == ""
    changes: list[Callable[[Tensor], Tensor]] = [
        lambda y: y * 1.25,
        lambda y: y.roll(1, 1),
        lambda y: y - bias,
        lambda y: y * torch.nan,
        zero_last_row,
        zero_last_token,
    ]
    for change in changes:
        assert "off by" in mismatch(change)
    assert "give" in mismatch(lambda y: y.float())
    assert "give" in mismatch(lambda y: y[:, 1:])


def test_the_fastest_correct_kernel_is_selected() -> None:
    weight = quantize(random_weight(24, 64), 4, 32)
    choice = KernelChoice([fake_kernel("slow"), fake_kernel("fast")], clock=fake_clock(3, 2, 1))
    layer = choice.make_layer(weight, None, HALF)
    assert isinstance(layer, ChangedLinear)
    assert choice.selected == {"fast"}
    assert not choice.rejected
    # the result for a format is cached: the clock has no more measurements
    choice.make_layer(quantize(random_weight(16, 128), 4, 32), None, HALF)
    with pytest.raises(StopIteration):
        choice.make_layer(quantize(random_weight(16, 128), 8), None, HALF)


def test_unpacking_is_selected_if_it_is_the_fastest() -> None:
    choice = KernelChoice([fake_kernel("slow")], clock=fake_clock(1, 2))
    assert type(choice.make_layer(quantize(random_weight(8, 64), 8), None, HALF)) is PackedLinear
    assert choice.selected == {REFERENCE.name}


def make_failing_layer(
    weight: PackedWeight, bias: Tensor | None, dtype: torch.dtype
) -> LinearLayer:
    raise RuntimeError("no kernel image is available\nfor this device")


def test_kernels_that_are_wrong_or_raise_are_rejected_with_a_reason(
    caplog: pytest.LogCaptureFixture,
) -> None:
    kernels = [
        fake_kernel("wrong", lambda y: y + 1),
        Kernel("old", lambda w, d: True, make_failing_layer),
    ]
    choice = KernelChoice(kernels, clock=fake_clock(1))
    layer = choice.make_layer(quantize(random_weight(8, 64), 8), None, HALF)
    assert type(layer) is PackedLinear
    assert choice.rejected["old"] == "RuntimeError: no kernel image is available"
    assert "off by" in choice.rejected["wrong"]
    assert {record.levelname for record in caplog.records} == {"WARNING"}
    assert "wrong is not used for int8" in caplog.text


def test_out_of_memory_does_not_reject_a_kernel() -> None:
    def make_without_memory(
        weight: PackedWeight, bias: Tensor | None, dtype: torch.dtype
    ) -> LinearLayer:
        raise torch.OutOfMemoryError

    choice = KernelChoice(
        [Kernel("full", lambda w, d: True, make_without_memory)], clock=fake_clock(1)
    )
    with pytest.raises(torch.OutOfMemoryError):
        choice.make_layer(quantize(random_weight(8, 64), 8), None, HALF)


def test_a_preferred_kernel_is_used_even_if_slower_but_not_if_wrong() -> None:
    weight = quantize(random_weight(8, 64), 8)
    choice = KernelChoice(
        [fake_kernel("fast")], preferred=fake_kernel("preferred"), clock=fake_clock(9)
    )
    choice.make_layer(weight, None, HALF)
    assert choice.selected == {"preferred"}
    wrong = fake_kernel("preferred", lambda y: -y)
    choice = KernelChoice([fake_kernel("fast")], preferred=wrong, clock=fake_clock(2, 1))
    choice.make_layer(weight, None, HALF)
    assert choice.selected == {"fast"}
    assert "preferred" in choice.rejected


# ---- tinygemm's format


def pack_tinygemm(q: Tensor, tiles: int) -> Tensor:
    """Packs uint8 [out, in] of 0..15, element by element, as in ATen/native/cuda/int4mm.cu."""
    rows, columns = q.shape
    packed = torch.zeros(rows // 8, columns // (16 * tiles), 32, tiles // 2, dtype=torch.int64)
    numbers = q.tolist()
    for high in range(packed.shape[0]):
        for wide in range(packed.shape[1]):
            for lane in range(32):
                for inner in range(0, tiles, 2):
                    first = (wide * tiles + inner) * 16 + lane % 4 * 2
                    columns_of = [
                        first + t + h + o for t in (0, 16) for h in (0, 8) for o in (0, 1)
                    ]
                    v = [numbers[high * 8 + lane // 4][column] for column in columns_of]
                    word = sum(v[i] << 4 * n for n, i in enumerate((0, 2, 4, 6, 1, 3, 5, 7)))
                    packed[high, wide, lane, inner // 2] = word
    return packed.where(packed < 2**31, packed - 2**32).int()


@pytest.mark.parametrize(("tiles", "columns"), [(8, 256), (4, 64), (2, 96)])
def test_tinygemms_format_is_unpacked(tiles: int, columns: int) -> None:
    random = torch.Generator().manual_seed(0)
    q = torch.randint(0, 16, (16, columns), generator=random, dtype=torch.uint8)
    assert torch.equal(cuda.unpack_tinygemm(pack_tinygemm(q, tiles)), q)


def test_a_tinygemm_layer_multiplies_with_its_weight(monkeypatch: pytest.MonkeyPatch) -> None:
    """With torch's two GPU functions replaced by their definitions."""
    monkeypatch.setattr(
        cuda,
        "convert_to_int4pack",
        lambda q, tiles: pack_tinygemm(torch.stack((q >> 4, q & 15), dim=-1).flatten(1), tiles),
    )

    def multiply(x: Tensor, packed: Tensor, group: int, both: Tensor) -> Tensor:
        scale, zero = (part.t().repeat_interleave(group, 1) for part in both.float().unbind(-1))
        weight = (cuda.unpack_tinygemm(packed).float() - 8) * scale + zero
        return F.linear(x.float(), weight).bfloat16()

    monkeypatch.setattr(cuda, "int4pack_mm", multiply)
    monkeypatch.setattr(cuda, "GPU_BLOCK", 16 * 192)  # unpacked in several blocks, the last smaller
    for weight in (
        quantize(random_weight(24, 192) + 0.2, 4, 32),
        random_int4(16, 512, 512, zero=True),
    ):
        bias = random_weight(1, weight.shape[0])[0].bfloat16()
        layer = cuda.TinygemmLinear(weight, bias, torch.bfloat16)
        assert find_mismatch(layer, weight, bias, torch.bfloat16) == ""


# ---- cpm_kernels


def write_code_file(folder: Path, code: bytes) -> None:
    encoded = base64.b64encode(bz2.compress(code)).decode()
    (folder / "quantization.py").write_text(f'raise SystemExit\ncode = "${encoded}"\n')


def set_capability(monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int]) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: capability)


@pytest.mark.parametrize(
    ("capability", "runs"),
    [((6, 0), False), ((6, 1), True), ((7, 0), True), ((8, 9), True), ((9, 0), False)],
)
def test_cpm_kernels_need_a_supported_capability(
    capability: tuple[int, int], runs: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_capability(monkeypatch, capability)
    if runs:
        cpm.check_device(GPU, HALF)
    else:
        with pytest.raises(EngineError, match=rf"has {capability[0]}\.{capability[1]}"):
            cpm.check_device(GPU, HALF)


def test_cpm_kernels_need_a_gpu_and_float16(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(EngineError, match="not on cpu"):
        make_kernel_choice("cpm_kernels", Path(), torch.device("cpu"), HALF)
    set_capability(monkeypatch, (8, 0))
    with pytest.raises(EngineError, match="not in bfloat16"):
        make_kernel_choice("cpm_kernels", Path(), GPU, torch.bfloat16)


def test_only_the_published_code_of_a_checkpoint_is_accepted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(EngineError, match=r"quantization\.py"):
        cpm.read_machine_code(tmp_path)
    write_code_file(tmp_path, b"machine code")
    with pytest.raises(EngineError, match="published"):
        cpm.read_machine_code(tmp_path)
    monkeypatch.setattr(cpm, "CODE_SHA256", cpm.hashlib.sha256(b"machine code").hexdigest())
    assert cpm.read_machine_code(tmp_path) == b"machine code"
    (tmp_path / "quantization.py").write_text('code = "QlpoOTFBWSZTWQ=="')
    with pytest.raises(EngineError, match="published"):
        cpm.read_machine_code(tmp_path)


class FakeCpmKernels:
    """A fake `cpm_kernels.kernels.base`, which records the names of the functions."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def install(self, monkeypatch: pytest.MonkeyPatch, *, fails: Exception | None = None) -> None:
        names = ("cpm_kernels", "cpm_kernels.kernels", "cpm_kernels.kernels.base")
        for name in names:
            monkeypatch.setitem(sys.modules, name, ModuleType(name))
        base = sys.modules[names[-1]]
        if fails is not None:

            def missing(name: str) -> Any:
                raise fails

            base.__getattr__ = missing  # type: ignore[method-assign]
            return
        base.LazyKernelCModule = lambda code: code  # type: ignore[attr-defined]
        base.KernelFunction = lambda code, name: self.names.append(name)  # type: ignore[attr-defined]


def test_loading_cpm_kernels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_capability(monkeypatch, (7, 5))
    write_code_file(tmp_path, b"machine code")
    monkeypatch.setattr(cpm, "CODE_SHA256", cpm.hashlib.sha256(b"machine code").hexdigest())
    monkeypatch.setitem(sys.modules, "cpm_kernels", None)
    with pytest.raises(EngineError, match="cannot be imported") as caught:
        cpm.load_cpm_kernel(tmp_path, GPU, HALF)
    assert "glmtui[cpm]" in caught.value.hint
    functions = FakeCpmKernels()
    functions.install(monkeypatch, fails=RuntimeError("Library cuda is not found"))
    with pytest.raises(EngineError, match="Library cuda is not found"):
        cpm.load_cpm_kernel(tmp_path, GPU, HALF)
    functions.install(monkeypatch)
    assert cpm.load_cpm_kernel(tmp_path, GPU, HALF).name == "cpm_kernels"
    assert functions.names == ["int8WeightExtractionHalf", "int4WeightExtractionHalf"]


def test_cpm_kernels_support_the_formats_of_chatglm() -> None:
    eight = quantize(random_weight(8, 64), 8)
    q = torch.randint(0, 256, (8, 32), dtype=torch.uint8)
    scale = torch.rand(8, 1).half()
    four = PackedWeight(q, scale, -8 * scale)
    assert cpm.cpm_supports(eight, HALF)
    assert cpm.cpm_supports(four, HALF)
    assert not cpm.cpm_supports(eight, torch.bfloat16)
    assert not cpm.cpm_supports(PackedWeight(q, scale, -7 * scale), HALF)
    assert not cpm.cpm_supports(quantize(random_weight(8, 64), 4, 32), HALF)


def test_chatglms_int4_is_twos_complement_with_even_columns_high() -> None:
    numbers = torch.arange(16, dtype=torch.uint8)[None]
    packed = cpm.chatglm_nibbles(pack_nibbles(numbers))
    assert packed.dtype == torch.int8
    high, low = packed >> 4, (packed << 4).to(torch.int8) >> 4
    assert torch.stack((high, low), dim=-1).flatten().tolist() == [n - 8 for n in range(16)]
