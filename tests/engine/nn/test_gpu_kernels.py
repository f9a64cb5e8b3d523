"""GPU kernels as far as no GPU is needed: who is chosen, who is refused, how others pack."""

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
from support.weights import int4, normal

HALF = torch.float16
GPU = torch.device("cuda", 0)


class Doctored(PackedLinear):
    """A layer whose products are changed on the way out."""

    def __init__(
        self, weight: PackedWeight, bias: Tensor | None, change: Callable[[Tensor], Tensor]
    ) -> None:
        super().__init__(weight, bias, torch.float32)
        self.change = change

    def forward(self, x: Tensor) -> Tensor:
        bias = None if self.bias is None else self.bias.float()
        y = F.linear(x.float(), self.weight.dequantize(torch.float32), bias)
        return self.change(y.to(x.dtype))


def kernel(name: str, change: Callable[[Tensor], Tensor] = lambda y: y) -> Kernel:
    return Kernel(name, lambda w, d: True, lambda w, b, d: Doctored(w, b, change))


def ticks(*seconds: float) -> Clock:
    """A clock that reads these, one call after the other."""
    left = iter(seconds)

    def clock(call: Callable[[], object], device: torch.device) -> float:
        call()
        return next(left)

    return clock


def last_row_lost(y: Tensor) -> Tensor:
    return torch.cat((y[:, :-1], torch.zeros_like(y[:, :1])), dim=1)


def last_token_lost(y: Tensor) -> Tensor:
    return torch.cat((y[:-1], torch.zeros_like(y[:1])))


@pytest.mark.parametrize(
    "weight",
    [quantize(normal(40, 128), 4, 32), quantize(normal(40, 128), 8), int4(4200, 64, 32)],
    ids=["int4", "int8", "more rows than are compared at once"],
)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_right_product_is_told_from_a_wrong_one(weight: PackedWeight, dtype: torch.dtype) -> None:
    bias = normal(1, weight.shape[0])[0].to(dtype)

    def verdict(change: Callable[[Tensor], Tensor]) -> str:
        return find_mismatch(Doctored(weight, bias, change), weight, bias, dtype)

    assert verdict(lambda y: y) == ""
    changes: list[Callable[[Tensor], Tensor]] = [
        lambda y: y * 1.25,
        lambda y: y.roll(1, 1),
        lambda y: y - bias,
        lambda y: y * torch.nan,
        last_row_lost,
        last_token_lost,
    ]
    for change in changes:
        assert "off by" in verdict(change)
    assert "give" in verdict(lambda y: y.float())
    assert "give" in verdict(lambda y: y[:, 1:])


def test_the_fastest_of_those_that_are_right_is_taken() -> None:
    weight = quantize(normal(24, 64), 4, 32)
    choice = KernelChoice([kernel("slow"), kernel("fast")], clock=ticks(3, 2, 1))
    layer = choice.make_layer(weight, None, HALF)
    assert isinstance(layer, Doctored)
    assert choice.selected == {"fast"}
    assert not choice.rejected
    # what was found out once is not asked again: the clock has no more readings
    choice.make_layer(quantize(normal(16, 128), 4, 32), None, HALF)
    with pytest.raises(StopIteration):
        choice.make_layer(quantize(normal(16, 128), 8), None, HALF)


def test_unpacking_is_taken_where_it_is_the_fastest() -> None:
    choice = KernelChoice([kernel("slow")], clock=ticks(1, 2))
    assert type(choice.make_layer(quantize(normal(8, 64), 8), None, HALF)) is PackedLinear
    assert choice.selected == {REFERENCE.name}


def raising(weight: PackedWeight, bias: Tensor | None, dtype: torch.dtype) -> LinearLayer:
    raise RuntimeError("no kernel image is available\nfor this device")


def test_what_is_wrong_or_raises_is_left_out_with_its_reason(
    caplog: pytest.LogCaptureFixture,
) -> None:
    kernels = [kernel("liar", lambda y: y + 1), Kernel("old", lambda w, d: True, raising)]
    choice = KernelChoice(kernels, clock=ticks(1))
    layer = choice.make_layer(quantize(normal(8, 64), 8), None, HALF)
    assert type(layer) is PackedLinear
    assert choice.rejected["old"] == "RuntimeError: no kernel image is available"
    assert "off by" in choice.rejected["liar"]
    assert {record.levelname for record in caplog.records} == {"WARNING"}
    assert "liar is not used for int8" in caplog.text


def test_no_memory_is_no_reason_to_take_another_kernel() -> None:
    def full(weight: PackedWeight, bias: Tensor | None, dtype: torch.dtype) -> LinearLayer:
        raise torch.OutOfMemoryError

    choice = KernelChoice([Kernel("full", lambda w, d: True, full)], clock=ticks(1))
    with pytest.raises(torch.OutOfMemoryError):
        choice.make_layer(quantize(normal(8, 64), 8), None, HALF)


def test_a_wanted_kernel_is_taken_though_slower_but_never_though_wrong() -> None:
    weight = quantize(normal(8, 64), 8)
    choice = KernelChoice([kernel("fast")], preferred=kernel("wanted"), clock=ticks(9))
    choice.make_layer(weight, None, HALF)
    assert choice.selected == {"wanted"}
    lying = kernel("wanted", lambda y: -y)
    choice = KernelChoice([kernel("fast")], preferred=lying, clock=ticks(2, 1))
    choice.make_layer(weight, None, HALF)
    assert choice.selected == {"fast"}
    assert "wanted" in choice.rejected


# ---- tinygemm's packing


def as_tinygemm_packs(q: Tensor, tiles: int) -> Tensor:
    """uint8 [out, in] of 0..15, number by number as ATen/native/cuda/int4mm.cu places them."""
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
def test_tinygemms_packing_is_undone(tiles: int, columns: int) -> None:
    random = torch.Generator().manual_seed(0)
    q = torch.randint(0, 16, (16, columns), generator=random, dtype=torch.uint8)
    assert torch.equal(cuda.unpack_tinygemm(as_tinygemm_packs(q, tiles)), q)


def test_a_tinygemm_layer_means_its_weight(monkeypatch: pytest.MonkeyPatch) -> None:
    """With torch's two functions replaced by what they are defined to do."""
    monkeypatch.setattr(
        cuda,
        "convert_to_int4pack",
        lambda theirs, tiles: as_tinygemm_packs(
            torch.stack((theirs >> 4, theirs & 15), dim=-1).flatten(1), tiles
        ),
    )

    def multiply(x: Tensor, packed: Tensor, group: int, both: Tensor) -> Tensor:
        scale, zero = (part.t().repeat_interleave(group, 1) for part in both.float().unbind(-1))
        weight = (cuda.unpack_tinygemm(packed).float() - 8) * scale + zero
        return F.linear(x.float(), weight).bfloat16()

    monkeypatch.setattr(cuda, "int4pack_mm", multiply)
    monkeypatch.setattr(cuda, "GPU_BLOCK", 16 * 192)  # unpacked in several blocks, the last smaller
    for weight in (quantize(normal(24, 192) + 0.2, 4, 32), int4(16, 512, 512, zero=True)):
        bias = normal(1, weight.shape[0])[0].bfloat16()
        layer = cuda.TinygemmLinear(weight, bias, torch.bfloat16)
        assert find_mismatch(layer, weight, bias, torch.bfloat16) == ""


# ---- cpm_kernels


def code_file(folder: Path, code: bytes) -> None:
    coded = base64.b64encode(bz2.compress(code)).decode()
    (folder / "quantization.py").write_text(f'raise SystemExit\ncode = "${coded}"\n')


def on_gpu(monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int]) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: capability)


@pytest.mark.parametrize(
    ("capability", "runs"),
    [((6, 0), False), ((6, 1), True), ((7, 0), True), ((8, 9), True), ((9, 0), False)],
)
def test_cpm_kernels_are_refused_where_they_have_no_code(
    capability: tuple[int, int], runs: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_gpu(monkeypatch, capability)
    if runs:
        cpm.check_device(GPU, HALF)
    else:
        with pytest.raises(EngineError, match=rf"has {capability[0]}\.{capability[1]}"):
            cpm.check_device(GPU, HALF)


def test_cpm_kernels_need_a_gpu_and_float16(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(EngineError, match="not on cpu"):
        make_kernel_choice("cpm_kernels", Path(), torch.device("cpu"), HALF)
    on_gpu(monkeypatch, (8, 0))
    with pytest.raises(EngineError, match="not in bfloat16"):
        make_kernel_choice("cpm_kernels", Path(), GPU, torch.bfloat16)


def test_only_the_published_code_is_taken_out_of_a_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(EngineError, match=r"quantization\.py"):
        cpm.read_machine_code(tmp_path)
    code_file(tmp_path, b"machine code")
    with pytest.raises(EngineError, match="published"):
        cpm.read_machine_code(tmp_path)
    monkeypatch.setattr(cpm, "CODE_SHA256", cpm.hashlib.sha256(b"machine code").hexdigest())
    assert cpm.read_machine_code(tmp_path) == b"machine code"
    (tmp_path / "quantization.py").write_text('code = "QlpoOTFBWSZTWQ=="')
    with pytest.raises(EngineError, match="published"):
        cpm.read_machine_code(tmp_path)


class FakeFunctions:
    """`cpm_kernels.kernels.base`, its functions done by torch."""

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


def test_the_way_to_cpm_kernels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    on_gpu(monkeypatch, (7, 5))
    code_file(tmp_path, b"machine code")
    monkeypatch.setattr(cpm, "CODE_SHA256", cpm.hashlib.sha256(b"machine code").hexdigest())
    monkeypatch.setitem(sys.modules, "cpm_kernels", None)
    with pytest.raises(EngineError, match="cannot be imported") as caught:
        cpm.load_cpm_kernel(tmp_path, GPU, HALF)
    assert "glmtui[cpm]" in caught.value.hint
    functions = FakeFunctions()
    functions.install(monkeypatch, fails=RuntimeError("Library cuda is not found"))
    with pytest.raises(EngineError, match="Library cuda is not found"):
        cpm.load_cpm_kernel(tmp_path, GPU, HALF)
    functions.install(monkeypatch)
    assert cpm.load_cpm_kernel(tmp_path, GPU, HALF).name == "cpm_kernels"
    assert functions.names == ["int8WeightExtractionHalf", "int4WeightExtractionHalf"]


def test_cpm_kernels_take_what_chatglm_stores() -> None:
    eight = quantize(normal(8, 64), 8)
    q = torch.randint(0, 256, (8, 32), dtype=torch.uint8)
    scale = torch.rand(8, 1).half()
    four = PackedWeight(q, scale, -8 * scale)
    assert cpm.cpm_supports(eight, HALF)
    assert cpm.cpm_supports(four, HALF)
    assert not cpm.cpm_supports(eight, torch.bfloat16)
    assert not cpm.cpm_supports(PackedWeight(q, scale, -7 * scale), HALF)
    assert not cpm.cpm_supports(quantize(normal(8, 64), 4, 32), HALF)


def test_chatglms_nibbles_are_twos_complement_the_even_column_high() -> None:
    numbers = torch.arange(16, dtype=torch.uint8)[None]
    theirs = cpm.chatglm_nibbles(pack_nibbles(numbers))
    assert theirs.dtype == torch.int8
    high, low = theirs >> 4, (theirs << 4).to(torch.int8) >> 4
    assert torch.stack((high, low), dim=-1).flatten().tolist() == [n - 8 for n in range(16)]
