"""Placement: which device gets which part, and the error if the model does not fit."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from glmtui.chat import SamplingParams
from glmtui.engine.catalog.model_folder import read_optional_object
from glmtui.engine.catalog.quants import QUANTS
from glmtui.engine.checkpoint.checkpoint import Checkpoint
from glmtui.engine.hardware.gpu import Gpu
from glmtui.engine.hardware.host_memory import HostMemory
from glmtui.engine.hardware.machine import Snapshot
from glmtui.engine.loading import loader
from glmtui.engine.loading.memory_estimate import estimate_memory
from glmtui.engine.loading.pipeline import OnDevice, split_over_devices
from glmtui.engine.loading.placement import GPU_CONTEXT, MemoryEstimate, plan_placement, split_parts
from glmtui.engine.model_info import LoadOptions
from glmtui.engine.models import llama
from glmtui.engine.runtime.model_runner import LoadedModel
from glmtui.errors import OutOfMemory
from support.llama_folders import write_llama_folder
from support.loader_folders import PROMPT_IDS, load_on_cpu

GB = 10**9


def machine(*free: int | None, memory: int | None = 64 * GB) -> Snapshot:
    """A machine whose GPUs and main memory have this many bytes free."""
    gpus = tuple(Gpu(i, "GPU", 80 * GB, free=nbytes) for i, nbytes in enumerate(free))
    return Snapshot(gpus, HostMemory(64 * GB, memory))


def chatglm_estimate(quant: str | None) -> MemoryEstimate:
    """About the memory of ChatGLM-6B."""
    bits = {None: 16, "int8": 8, "int4": 5}[quant]
    return MemoryEstimate(GB, (400_000_000 * bits // 16 + 33_000_000,) * 28, 1000)


# ---- splitting parts over devices


@given(
    st.lists(st.integers(0, 50), min_size=1, max_size=12),
    st.lists(st.integers(0, 200), min_size=1, max_size=4),
)
def test_parts_are_split_in_order_and_no_device_is_too_full(
    parts: list[int], capacities: list[int]
) -> None:
    found = split_parts(parts, capacities)
    if found is None:
        # filling the devices in order does not work either
        left, free = list(parts), 0
        for free in capacities:
            while left and left[0] <= free:
                free -= left.pop(0)
        assert left
        return
    assert [part for indices in found for part in indices] == list(range(len(parts)))
    for indices, capacity in zip(found, capacities, strict=True):
        assert sum(parts[i] for i in indices) <= capacity


def test_devices_are_filled_evenly() -> None:
    assert split_parts([10] * 8, [80, 80]) == (range(4), range(4, 8))
    assert split_parts([10] * 9, [90, 45]) == (range(6), range(6, 9))
    assert split_parts([30, 10, 10, 10], [60, 60]) == (range(1), range(1, 4))
    assert split_parts([10] * 3, [0, 40]) == (range(0), range(3))
    assert split_parts([10] * 5, [24, 24]) is None


# ---- on a machine


def test_auto_takes_the_gpu_with_the_most_free_memory() -> None:
    devices = plan_placement("auto", chatglm_estimate, machine(20 * GB, 30 * GB, 10 * GB))
    assert set(devices) == {"cuda:1"}
    assert len(devices) == 30
    assert set(plan_placement("auto", chatglm_estimate, machine())) == {"cpu"}


def test_auto_takes_several_gpus_where_one_is_not_enough() -> None:
    devices = plan_placement("auto", chatglm_estimate, machine(9 * GB, 11 * GB))
    assert (devices[0], devices[-1]) == ("cuda:0", "cuda:1")
    assert list(devices) == sorted(devices)
    used_bytes = {
        name: sum(
            n for n, at in zip(chatglm_estimate(None).parts, devices, strict=True) if at == name
        )
        for name in ("cuda:0", "cuda:1")
    }
    shares = [
        used_bytes["cuda:0"] / (9 * GB - GPU_CONTEXT),
        used_bytes["cuda:1"] / (11 * GB - GPU_CONTEXT),
    ]
    assert math.isclose(*shares, abs_tol=0.06)


def test_balanced_takes_all_even_where_one_is_enough() -> None:
    assert set(plan_placement("balanced", chatglm_estimate, machine(30 * GB, 30 * GB))) == {
        "cuda:0",
        "cuda:1",
    }


def test_what_is_asked_for_by_name_is_used_alone() -> None:
    assert set(plan_placement("cuda:1", chatglm_estimate, machine(40 * GB, 20 * GB))) == {"cuda:1"}
    assert set(plan_placement("cuda", chatglm_estimate, machine(20 * GB, 40 * GB))) == {"cuda:0"}
    assert set(plan_placement("cpu", chatglm_estimate, machine(40 * GB))) == {"cpu"}


def test_unknown_free_memory_counts_as_enough() -> None:
    assert set(plan_placement("cuda:0", chatglm_estimate, machine(None))) == {"cuda:0"}
    assert set(plan_placement("cpu", chatglm_estimate, machine(memory=None))) == {"cpu"}


@pytest.mark.parametrize(
    ("name", "found", "says", "hint"),
    [
        ("cuda:0", machine(9 * GB, 24 * GB), "GPU 0 has 9.0 GB free", 'load.device = "auto"'),
        ("cuda:0", machine(9 * GB), "needs 13.7 GB", 'load.quant = "int8"'),
        ("auto", machine(7 * GB), "GPU 0 has 7.0 GB free", 'load.quant = "int4"'),
        ("balanced", machine(5 * GB, 5 * GB), "GPU 1 has 5.0 GB", 'load.quant = "int8"'),
        ("auto", machine(2 * GB), "GPU 0 has 2.0 GB", 'load.device = "cpu"'),
        ("cpu", machine(memory=8 * GB), "8.0 GB of memory are free", 'load.quant = "int8"'),
        ("cpu", machine(24 * GB, memory=2 * GB), "2.0 GB of memory", 'load.device = "auto"'),
        ("cpu", machine(memory=2 * GB), "2.0 GB of memory are free", "smaller model"),
    ],
)
def test_the_error_suggests_settings_that_fit(
    name: str, found: Snapshot, says: str, hint: str
) -> None:
    with pytest.raises(OutOfMemory, match=says) as caught:
        plan_placement(name, chatglm_estimate, found)
    assert hint in caught.value.hint


def test_a_model_that_does_not_fit_is_not_read(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loader, "snapshot", lambda: machine(memory=1000))
    seen: list[object] = []
    info = loader.resolver.resolve(str(folder))
    assert not isinstance(info, loader.ServerSpec)
    with pytest.raises(OutOfMemory, match="of memory are free"):
        loader.load(info, LoadOptions(device="cpu"), seen.append)
    assert not seen


# ---- memory estimates, and a model on two devices


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_llama_folder(tmp_path / "model")


@pytest.mark.parametrize("quant", [None, "int8", "int4"])
def test_memory_is_estimated_before_loading(folder: Path, quant: str | None) -> None:
    raw = read_optional_object(folder / "config.json")
    config, model = loader.build_model(llama, raw, folder, LoadOptions())
    asked = None if quant is None else QUANTS[quant]
    found = estimate_memory(
        model, Checkpoint(folder, raw), llama.weight_sources(config), torch.bfloat16, asked
    )
    whole = load_on_cpu(folder, "bfloat16", quant=quant)
    loaded, tables = whole.info, whole.model.rotary
    kv = (loaded.kv_bytes_per_token or 0) * config.context_length
    assert loaded.weight_bytes
    assert tables is not None
    other = kv + tables.cos.nbytes + tables.sin.nbytes
    assert math.isclose(
        found.total - other, loaded.weight_bytes, rel_tol=0.03
    )  # a row's one scale is left out


def split_last_layer_off(loaded: LoadedModel) -> set[str]:
    """Moves the last layer and the norm to a second device, which is "cpu:0" instead of "cpu"."""
    here, there = torch.device("cpu"), torch.device("cpu", 0)
    layers = len(loaded.model.layers)  # type: ignore[arg-type]
    places = {"embedding": here, "norm": there, "head": here}
    places |= {f"layers.{i}": there if i == layers - 1 else here for i in range(layers)}
    split_over_devices(loaded.model, places)
    return {name for name, module in loaded.model.named_modules() if isinstance(module, OnDevice)}


def test_a_split_model_gives_the_same_logits(folder: Path) -> None:
    loaded = load_on_cpu(folder)
    exact = loaded.logits(PROMPT_IDS)
    params = SamplingParams(temperature=0, max_new_tokens=12)
    reply = list(loaded.stream_ids(PROMPT_IDS, params).ids())
    loaded = load_on_cpu(folder)
    assert split_last_layer_off(loaded) == {"layers.1", "norm", "head"}
    assert loaded.model.layer_devices
    assert torch.equal(loaded.logits(PROMPT_IDS), exact)
    assert list(loaded.stream_ids(PROMPT_IDS, params).ids()) == reply
