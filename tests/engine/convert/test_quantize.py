"""``glmtui quantize``: the written folder is the model that quantising while loading gives."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from glmtui.cli.main import main
from glmtui.engine import LoadOptions, load_model
from glmtui.engine.catalog import resolver
from glmtui.engine.checkpoint.checkpoint import Checkpoint
from glmtui.engine.checkpoint.safetensors_writer import SafetensorsWriter
from glmtui.engine.convert.quantize import quantize_checkpoint
from glmtui.engine.model_info import ModelInfo
from glmtui.engine.progress import Progress
from glmtui.engine.pull.staging import PullCancelled
from glmtui.errors import BadCheckpoint, UsageError
from support.goldens import GOLDEN_MODELS
from support.gptq_folders import GPTQ_FOLDERS
from support.llama_folders import write_llama_folder
from support.loader_folders import PROMPT_IDS

BF16 = LoadOptions(device="cpu", dtype="bfloat16")
INT = {bits: LoadOptions(device="cpu", dtype="bfloat16", quant=f"int{bits}") for bits in (4, 8)}


@pytest.fixture(autouse=True)
def use_temporary_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLMTUI_CACHE_DIR", str(tmp_path / "cache"))


def model_info(folder: Path) -> ModelInfo:
    info = resolver.resolve(str(folder))
    assert isinstance(info, ModelInfo)
    return info


@pytest.mark.parametrize(("bits", "kind"), [(4, "int4 g32"), (8, "int8")])
def test_it_is_the_model_that_loading_would_quantise(tmp_path: Path, bits: int, kind: str) -> None:
    source = write_llama_folder(tmp_path / "whole")
    info = quantize_checkpoint(model_info(source), tmp_path / "small", bits)
    assert (info.name, info.stored, info.path) == ("small", kind, tmp_path / "small")
    assert info.nbytes < model_info(source).nbytes
    assert info in resolver.installed_models()

    whole, small = load_model(str(source), INT[bits]), load_model("small", BF16)
    assert small.info.quant == kind
    assert small.info.weight_bytes == whole.info.weight_bytes
    if bits == 8:
        assert torch.equal(small.logits(PROMPT_IDS), whole.logits(PROMPT_IDS))
    else:  # with column importance it is more precise
        exact = load_model(str(source), replace(BF16, dtype="float32")).logits(PROMPT_IDS)
        off, plain = (float((m.logits(PROMPT_IDS) - exact).square().sum()) for m in (small, whole))
        assert 0 < off < plain
    assert small.tokenizer.encode("hello") == whole.tokenizer.encode("hello")
    assert small.stop_ids == whole.stop_ids


@pytest.mark.parametrize("name", ["v1_tiny_sharded_fp16", "v1_twin_orig", "v3_32k_tiny"])
def test_other_families_and_files(tmp_path: Path, name: str) -> None:
    quantize_checkpoint(model_info(GOLDEN_MODELS / name), tmp_path / "small", 8)
    golden = (
        load_file(GOLDEN_MODELS / name / "golden.safetensors")
        if name != "v1_tiny_sharded_fp16"
        else {}
    )
    ids = next((t for key, t in golden.items() if key.startswith("ids.")), None)
    prompt = [17, 62, 34, 101, 55, 321, 324] if ids is None else ids.tolist()
    whole, small = load_model(str(GOLDEN_MODELS / name), INT[8]), load_model("small", BF16)
    assert small.info.quant == "int8"
    assert torch.equal(small.logits(prompt), whole.logits(prompt))


def test_fewer_bits_are_kept_and_more_are_reduced(tmp_path: Path) -> None:
    unchanged = quantize_checkpoint(
        model_info(GOLDEN_MODELS / "v2_int4"), tmp_path / "unchanged", 8
    )
    assert unchanged.stored == "int4"
    assert "quantization_bit" not in json.loads((unchanged.path / "config.json").read_text())
    fewer = quantize_checkpoint(model_info(GOLDEN_MODELS / "v3_int8"), tmp_path / "fewer", 4)
    assert fewer.stored.startswith("int4 g")
    for name, folder in (("v2_int4", unchanged), ("v3_int8", fewer)):
        golden = load_file(GOLDEN_MODELS / name / "golden.safetensors")
        ids = next(t for key, t in golden.items() if key.startswith("ids.")).tolist()
        exact = LoadOptions(device="cpu", dtype="float32", quant=None)
        before = load_model(str(GOLDEN_MODELS / name), exact).logits(ids)
        after = load_model(str(folder.path), exact).logits(ids)
        off = float((after - before).std() / before.std())
        assert off == 0 if name == "v2_int4" else 0 < off < 0.3


def test_an_order_of_inputs_is_kept(tmp_path: Path) -> None:
    source = GPTQ_FOLDERS / "act_order"
    info = quantize_checkpoint(model_info(source), tmp_path / "small", 4)
    weight = Checkpoint(info.path, {}).read_weight("model.layers.0.mlp.down_proj.weight")
    assert weight.order is not None  # type: ignore[union-attr]
    assert "quantization_config" not in json.loads((info.path / "config.json").read_text())
    ids = load_file(source / "logits.safetensors")["ids"].tolist()
    before, after = load_model(str(source), BF16), load_model(str(info.path), BF16)
    assert torch.equal(after.logits(ids), before.logits(ids))


def test_an_existing_target_is_not_changed(tmp_path: Path) -> None:
    source = model_info(write_llama_folder(tmp_path / "whole"))
    target = tmp_path / "small"
    target.mkdir()
    quantize_checkpoint(source, target, 4)  # an empty folder is allowed
    (tmp_path / "file").write_text("mine")
    for there in (target, tmp_path / "file"):
        with pytest.raises(UsageError, match="exists already"):
            quantize_checkpoint(source, there, 4)
    assert (tmp_path / "file").read_text() == "mine"


def test_nothing_is_left_after_a_stop_or_failure(tmp_path: Path) -> None:
    cancelled = threading.Event()
    seen: list[Progress] = []

    def stop_after_three(progress: Progress) -> None:
        seen.append(progress)
        if len(seen) == 3:
            cancelled.set()

    source = model_info(write_llama_folder(tmp_path / "whole"))
    with pytest.raises(PullCancelled):
        quantize_checkpoint(
            source, tmp_path / "new" / "small", 4, on_progress=stop_after_three, cancelled=cancelled
        )
    assert [progress.what for progress in seen] == ["loading"] * 3
    broken = model_info(write_llama_folder(tmp_path / "broken", lambda tensors: tensors.popitem()))
    with pytest.raises(BadCheckpoint, match="no tensor"):
        quantize_checkpoint(broken, tmp_path / "new" / "small", 4)
    assert list((tmp_path / "new").iterdir()) == []
    assert resolver.installed_models() == []


def test_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, target = write_llama_folder(tmp_path / "whole"), tmp_path / "small"
    assert main(["quantize", str(source), str(target), "--bits", "8"]) == 0
    assert "int8" in capsys.readouterr().out
    assert main(["models"]) == 0
    assert "small" in capsys.readouterr().out
    assert main(["quantize", str(source), str(target)]) == 2
    assert main(["quantize", "http://127.0.0.1:9/v1", str(tmp_path / "x")]) == 2


# ---- the file


def test_a_file_written_piece_by_piece_is_a_safetensors_file(tmp_path: Path) -> None:
    tensors = {
        "a": torch.randn(3, 5),
        "β": torch.arange(7, dtype=torch.uint8),
        "c": torch.randn(4, 2).bfloat16().t(),
        "nothing": torch.empty(0, 3).half(),
    }
    path = tmp_path / "x.safetensors"
    with SafetensorsWriter(path, [*tensors, "never added"]) as file:
        for name, tensor in tensors.items():
            file.add(name, tensor)
    read = load_file(path)
    assert read.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert read[name].dtype == tensor.dtype
        assert torch.equal(read[name], tensor)


def test_a_file_left_with_an_error_is_not_valid(tmp_path: Path) -> None:
    def fail() -> None:
        with SafetensorsWriter(tmp_path / "model.safetensors", ["a"]) as file:
            file.add("a", torch.ones(2))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    with pytest.raises(BadCheckpoint):
        Checkpoint(tmp_path, {})
