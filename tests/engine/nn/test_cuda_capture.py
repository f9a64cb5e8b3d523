"""Capture and timing on the right one of several fake GPUs, and kernels that fail."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from glmtui.engine.nn.cuda_capture import capture
from glmtui.engine.nn.linear import KernelChoice, PackedLinear, cuda
from glmtui.engine.nn.linear.kernel_selection import Kernel, gpu_seconds
from glmtui.engine.nn.packed_weight import quantize
from support.fake_streams import FakeCuda
from support.weights import random_weight

SECOND = torch.device("cuda", 1)


@pytest.fixture
def fake_cuda(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    return FakeCuda(monkeypatch)


def test_work_is_captured_on_the_device_it_is_for(fake_cuda: FakeCuda) -> None:
    """Even if the current GPU is another one, on which another model was captured."""
    for device in (torch.device("cuda", 0), SECOND, torch.device("cuda", 0)):
        replay, result = capture(lambda d=device: fake_cuda.launch(d.index, 1e-3) or "y", device)
        assert result == "y"
        assert fake_cuda.device == 0
        assert fake_cuda.done == [("work", device.index)]  # once, without capture
        replay()
        replay()
        assert fake_cuda.done == 3 * [("work", device.index)]
        fake_cuda.done.clear()


def test_a_kernel_is_timed_on_its_own_device(fake_cuda: FakeCuda) -> None:
    seconds = gpu_seconds(lambda: fake_cuda.launch(1, 300e-6), SECOND)
    assert seconds == pytest.approx(300e-6, rel=0.01)


def test_launch_time_is_not_measured_if_a_graph_launches(fake_cuda: FakeCuda) -> None:
    """Launched by Python, ten short kernels would be slower than a long one."""

    def many() -> None:
        for _ in range(10):
            fake_cuda.launch(1, 3e-6)

    def one() -> None:
        fake_cuda.launch(1, 50e-6)

    seconds = [gpu_seconds(call, SECOND) for call in (many, one)]
    assert seconds == pytest.approx([30e-6, 50e-6], rel=0.02)


def test_a_call_that_cannot_be_captured_is_timed_with_its_launches(fake_cuda: FakeCuda) -> None:
    def call_that_waits() -> None:
        fake_cuda.launch(1, 5e-6)
        torch.cuda.current_stream(SECOND).synchronize()

    assert gpu_seconds(call_that_waits, SECOND) == pytest.approx(15e-6, rel=0.1)
    assert torch.cuda.current_stream(SECOND).capturing is None
    assert gpu_seconds(lambda: fake_cuda.launch(1, 5e-6), SECOND) == pytest.approx(5e-6, rel=0.1)


def test_the_clock_gets_the_device_of_the_weight() -> None:
    devices = []

    def clock(call: object, device: torch.device) -> float:
        devices.append(device)
        return 1.0

    weight = quantize(random_weight(16, 64), 8)
    KernelChoice([], clock=clock).make_layer(weight, None, torch.float32)
    assert devices == [weight.q.device]


BROKEN = """
from pathlib import Path
with Path(__file__).with_name("imported").open("a") as file:
    file.write("x")
raise OSError("libcuda.so.1: cannot open shared object file")
"""


def test_a_broken_triton_does_not_break_the_load(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "triton"
    package.mkdir()
    (package / "__init__.py").write_text(BROKEN)
    monkeypatch.syspath_prepend(tmp_path)
    for name in [n for n in sys.modules if n.partition(".")[0] == "triton"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delitem(sys.modules, "glmtui.engine.nn.linear.triton_kernels", raising=False)
    monkeypatch.delattr("glmtui.engine.nn.linear.triton_kernels", raising=False)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (8, 0))
    choice = KernelChoice(cuda.kernels(), clock=lambda call, device: 1.0)
    for weight in (quantize(random_weight(16, 64), 8), quantize(random_weight(16, 64), 4, 32)):
        for _ in range(2):
            layer = choice.make_layer(weight, None, torch.float16)
            assert isinstance(layer, PackedLinear)
    assert choice.selected == {"unpacking"}
    assert choice.rejected == {"triton": "OSError: libcuda.so.1: cannot open shared object file"}
    assert (package / "imported").read_text() == "x"  # tried once: an import takes seconds


def test_a_kernel_whose_check_for_support_fails_is_not_used() -> None:
    def failing_supports(weight: object, dtype: torch.dtype) -> bool:
        raise RuntimeError("driver too old")

    wanted = Kernel("wanted", failing_supports, PackedLinear)
    choice = KernelChoice([], preferred=wanted, clock=lambda call, device: 1.0)
    choice.make_layer(quantize(random_weight(16, 64), 8), None, torch.float32)
    assert choice.selected == {"unpacking"}
    assert "driver too old" in choice.rejected["wanted"]
