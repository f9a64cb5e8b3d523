"""Whether a transformers model fits, and settings that cannot be followed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from glmtui.engine import load_model
from glmtui.engine.catalog import resolver
from glmtui.engine.catalog.quants import QUANTS
from glmtui.engine.compatibility.size_check import choose_device, weight_bytes
from glmtui.engine.compatibility.transformers_model import empty_model, kv_bytes_per_token
from glmtui.engine.hardware.gpu import Gpu
from glmtui.engine.hardware.host_memory import HostMemory
from glmtui.engine.hardware.machine import Snapshot
from glmtui.engine.loading import load_spec, loader
from glmtui.engine.model_info import LoadOptions, ModelInfo
from glmtui.engine.nn.linear import KernelChoice
from glmtui.errors import EngineError, OutOfMemory, UnsupportedModel
from support.transformers_models import KINDS, OPTIONS, write_model

GB = 10**9


def machine(*free: int, memory: int = 64 * GB) -> Snapshot:
    gpus = tuple(Gpu(i, "GPU", 80 * GB, free=nbytes) for i, nbytes in enumerate(free))
    return Snapshot(gpus, HostMemory(64 * GB, memory))


@pytest.fixture(scope="module")
def qwen2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("qwen2") / "model", "qwen2")[0]


@pytest.mark.parametrize("quant", [None, "int8", "int4"])
def test_weight_memory_is_known_before_loading(qwen2: Path, quant: str | None) -> None:
    requested = None if quant is None else QUANTS[quant]
    known = weight_bytes(empty_model(qwen2, torch.float32), requested)
    loaded = load_model(str(qwen2), LoadOptions(device="cpu", dtype="float32", quant=quant)).info
    assert loaded.weight_bytes is not None
    assert known == pytest.approx(loaded.weight_bytes, rel=0.05)


@pytest.mark.parametrize("kind", KINDS)
def test_kv_memory_is_known_before_loading(kind: str, tmp_path: Path) -> None:
    folder, _ = write_model(tmp_path / "model", kind)
    known = kv_bytes_per_token(empty_model(folder, torch.float32))
    assert known == load_model(str(folder), OPTIONS).info.kv_bytes_per_token


def test_a_model_that_does_not_fit_is_refused_before_loading(
    qwen2: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = resolver.resolve(str(qwen2))
    assert isinstance(info, ModelInfo)
    seen: list[object] = []
    monkeypatch.setattr(loader, "snapshot", lambda: machine(memory=100_000))
    with pytest.raises(OutOfMemory, match=r"needs 0\.0 GB .* of memory are free"):
        loader.load(info, OPTIONS, seen.append)
    other = LoadOptions(device="cpu", dtype="bfloat16")
    with pytest.raises(OutOfMemory, match="from float32") as caught:
        loader.load(info, other, seen.append)
    assert 'load.dtype = "float32"' in caught.value.hint
    assert not seen


class HeadOnly(nn.Linear):
    """A model of `size` bytes that consists of its head."""

    def __init__(self, size: int) -> None:
        super().__init__(size // 2, 1, bias=False, dtype=torch.float16, device="meta")

    def get_output_embeddings(self) -> nn.Module:
        return self


def device_for(machine: Snapshot, name: str, size: int) -> torch.device:
    """The device chosen for a model of `size` bytes."""
    model: Any = HeadOnly(size)
    device = torch.device("cuda:0" if name in ("auto", "balanced") else name)
    return choose_device(name, device, model, 100_000, "float16", torch.float16, None, machine)


def test_the_whole_model_goes_to_the_gpu_with_room() -> None:
    assert device_for(machine(10 * GB, 20 * GB), "auto", 13 * GB) == torch.device("cuda:1")
    assert device_for(machine(20 * GB), "balanced", 13 * GB) == torch.device("cuda:0")
    assert device_for(machine(20 * GB), "cpu", 13 * GB) == torch.device("cpu")
    with pytest.raises(OutOfMemory, match=r"GPU 0 has 10.0 GB free") as caught:
        device_for(machine(10 * GB, 20 * GB), "cuda:0", 13 * GB)
    assert 'load.device = "auto"' in caught.value.hint
    with pytest.raises(OutOfMemory, match=r"GPU 1 has 12.0 GB free") as caught:
        device_for(machine(12 * GB, 12 * GB), "auto", 13 * GB)  # it would fit on both together
    assert 'load.device = "cpu"' in caught.value.hint


def test_it_is_not_split_over_gpus() -> None:
    with pytest.raises(EngineError, match="cannot be balanced") as caught:
        device_for(machine(20 * GB, 20 * GB), "balanced", 13 * GB)
    assert 'load.device to "auto"' in caught.value.hint


def test_a_model_that_cannot_be_quantised_is_refused(tmp_path: Path) -> None:
    folder, _ = write_model(tmp_path / "model", "gpt2")  # its layers are Conv1D
    with pytest.raises(UnsupportedModel, match=r"no linear layers .* 4 bits") as caught:
        load_model(str(folder), LoadOptions(device="cpu", dtype="float32", quant="int4"))
    assert "load.quant" in caught.value.hint


def test_the_requested_kernel_is_tried(qwen2: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    requested: list[str] = []

    def fake_kernel_choice(wanted: str, *rest: Any) -> KernelChoice:
        requested.append(wanted)
        choice = KernelChoice((), time_reference=False)
        choice.selected.add("unpacking")
        return choice

    monkeypatch.setattr(load_spec, "make_kernel_choice", fake_kernel_choice)
    options = LoadOptions(device="cpu", dtype="float32", quant="int8", kernel="cpm_kernels")
    assert load_model(str(qwen2), options).info.kernel == "unpacking"
    assert requested == ["cpm_kernels"]
