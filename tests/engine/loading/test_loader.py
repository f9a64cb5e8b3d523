"""The loader: dtypes and quantisation of the loaded weights, progress, and errors."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from glmtui.engine import LoadOptions, load_model
from glmtui.engine.catalog.resolver import resolve
from glmtui.engine.loading.load_spec import gpu_capability, pick_dtype, stored_dtype
from glmtui.engine.loading.loader import load
from glmtui.engine.model_info import ServerSpec
from glmtui.engine.nn.linear import CpuInt8Linear, DenseLinear, NativeLinear
from glmtui.engine.open_model import open_model
from glmtui.engine.progress import LoadCancelled, Progress
from glmtui.errors import BadCheckpoint, EngineError, ModelNotFound, UsageError
from support.llama_folders import write_llama_folder
from support.loader_folders import PROMPT_IDS, load_on_cpu
from support.tiny_llama import (
    HIDDEN,
    INNER,
    LAYERS,
    TOKENS,
)

LAYER_WEIGHTS = 2 * HIDDEN**2 + 2 * HIDDEN * HIDDEN // 2 + 3 * HIDDEN * INNER
NORM_BYTES = (2 * LAYERS + 1) * HIDDEN * 4  # float32 on a CPU
TABLE = len(TOKENS) * HIDDEN


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_llama_folder(tmp_path / "model")


def split_into_shards(folder: Path, count: int) -> None:
    """Replaces the weight file of a folder by several."""
    whole = folder / "model.safetensors"
    tensors = load_file(whole)
    weight_map = {name: f"model-{i % count}.safetensors" for i, name in enumerate(sorted(tensors))}
    for shard in set(weight_map.values()):
        save_file({n: tensors[n] for n in weight_map if weight_map[n] == shard}, folder / shard)
    whole.unlink()
    (folder / f"{whole.name}.index.json").write_text(json.dumps({"weight_map": weight_map}))


# ---- loaded weights


def test_shards_and_bin_files_give_the_same_model(tmp_path: Path, folder: Path) -> None:
    expected = load_on_cpu(folder).logits(PROMPT_IDS)
    sharded = write_llama_folder(tmp_path / "sharded")
    split_into_shards(sharded, 3)
    assert torch.equal(load_on_cpu(sharded).logits(PROMPT_IDS), expected)
    pickled = write_llama_folder(tmp_path / "pickled")
    torch.save(load_file(pickled / "model.safetensors"), pickled / "pytorch_model.bin")
    (pickled / "model.safetensors").unlink()
    assert torch.equal(load_on_cpu(pickled).logits(PROMPT_IDS), expected)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_weights_have_the_requested_dtype(folder: Path, dtype: str) -> None:
    loaded = load_on_cpu(folder, dtype)
    assert (loaded.info.dtype, loaded.info.quant) == (dtype, "")
    width = getattr(torch, dtype).itemsize
    assert loaded.info.weight_bytes == LAYERS * LAYER_WEIGHTS * width + NORM_BYTES + TABLE * (
        2 if dtype == "bfloat16" else width  # the table stays float16, which is as large
    )
    assert loaded.logits(PROMPT_IDS).dtype == torch.float32


def test_8_bits_are_nearly_the_same_model(folder: Path) -> None:
    exact = load_on_cpu(folder).logits(PROMPT_IDS)
    loaded = load_on_cpu(folder, "bfloat16", quant="int8")
    assert loaded.info.quant == "int8"
    assert isinstance(loaded.model.layers[0].down, CpuInt8Linear | NativeLinear)
    rows = (HIDDEN + HIDDEN) + HIDDEN + 2 * INNER + HIDDEN  # qkv, out, gate_up, down
    assert loaded.info.weight_bytes == LAYERS * (LAYER_WEIGHTS + rows * 2) + NORM_BYTES + TABLE * 2
    assert float((loaded.logits(PROMPT_IDS) - exact).std() / exact.std()) < 0.03


def test_a_tied_embedding_is_in_memory_once(folder: Path) -> None:
    model = load_on_cpu(folder).model
    assert isinstance(model.head, DenseLinear)
    assert model.head.weight.data_ptr() == model.embedding.weight.data_ptr()


def test_packed_weights_stay_packed_unless_requested_otherwise(tmp_path: Path) -> None:
    folder = write_llama_folder(tmp_path / "model", pack_layer_0)
    auto = load_on_cpu(folder, "bfloat16")
    down = auto.model.layers[0].down
    if isinstance(down, NativeLinear):
        assert auto.info.quant == "int8 g32"
    else:
        assert isinstance(down, CpuInt8Linear)
        assert auto.info.quant == "int8"  # one scale per row is all that torch's kernel takes
    assert isinstance(auto.model.layers[1].down.weight, Tensor)
    unpacked = load_on_cpu(folder, "bfloat16", quant=None)
    assert unpacked.info.quant == ""
    assert isinstance(unpacked.model.layers[0].down.weight, Tensor)
    whole = load_on_cpu(folder)
    assert (whole.info.quant, whole.info.dtype) == ("", "float32")


def pack_layer_0(tensors: dict[str, Tensor]) -> None:
    name = "model.layers.0.mlp.down_proj.weight"
    tensors[name] = (tensors[name] * 100).round().clamp(-127, 127).to(torch.int8)
    tensors[f"{name}.scale"] = torch.full((HIDDEN, INNER // 32), 0.01).half()


def test_a_shorter_context_can_be_requested(folder: Path) -> None:
    assert load_on_cpu(folder).context_length == 256
    assert load_on_cpu(folder, context_length=100).context_length == 100
    assert load_on_cpu(folder, context_length=10_000).context_length == 256


def test_a_model_without_tokenizer_files_works_with_ids(folder: Path) -> None:
    expected = load_on_cpu(folder).logits(PROMPT_IDS)
    (folder / "tokenizer.json").unlink()
    loaded = load_on_cpu(folder)
    assert torch.equal(loaded.logits(PROMPT_IDS), expected)
    assert loaded.stop_ids == {2}


# ---- progress and cancelling


def test_progress_runs_to_the_end(folder: Path) -> None:
    seen: list[Progress] = []
    load_model(str(folder), LoadOptions(device="cpu"), seen.append)
    assert [p.done for p in seen] == sorted(p.done for p in seen)
    assert len(seen) > LAYERS * 4
    assert {p.total for p in seen} == {seen[-1].done}


def test_loading_stops_when_cancelled(folder: Path) -> None:
    cancelled = threading.Event()
    seen: list[Progress] = []

    def stop_after_three(progress: Progress) -> None:
        seen.append(progress)
        if len(seen) == 3:
            cancelled.set()

    target = resolve(str(folder))
    with pytest.raises(LoadCancelled):
        open_model(target, LoadOptions(device="cpu"), stop_after_three, cancelled)
    assert len(seen) == 3


# ---- errors


def test_a_tensor_of_another_shape(tmp_path: Path) -> None:
    folder = write_llama_folder(tmp_path / "model", intermediate_size=INNER + 32)
    with pytest.raises(BadCheckpoint, match=r"gate_proj.*config\.json requires") as caught:
        load_on_cpu(folder)
    assert f"({INNER}, {HIDDEN})" in caught.value.message


def test_rows_that_add_up_but_not_columns(tmp_path: Path) -> None:
    def shorten(tensors: dict[str, Tensor]) -> None:
        name = "model.layers.1.mlp.up_proj.weight"
        tensors[name] = tensors[name][:, :-1].contiguous()

    with pytest.raises(BadCheckpoint, match="up_proj"):
        load_on_cpu(write_llama_folder(tmp_path / "model", shorten))


@pytest.mark.parametrize(
    "name",
    ["model.layers.1.mlp.down_proj.weight", "model.norm.weight", "model.embed_tokens.weight"],
)
def test_a_missing_tensor(tmp_path: Path, name: str) -> None:
    folder = write_llama_folder(tmp_path / "model", lambda tensors: tensors.pop(name))
    with pytest.raises(BadCheckpoint, match=f"no tensor {name}"):
        load_on_cpu(folder)


def test_a_bias_that_the_config_does_not_know(tmp_path: Path) -> None:
    """Without it the model would answer, and wrongly."""

    def add(value: float) -> Callable[[dict[str, Tensor]], None]:
        name = "model.layers.0.self_attn.q_proj.bias"
        return lambda tensors: tensors.update({name: torch.full((HIDDEN,), value)})

    with pytest.raises(BadCheckpoint, match=r"q_proj\.bias"):
        load_on_cpu(write_llama_folder(tmp_path / "biased", add(0.5)))
    load_on_cpu(write_llama_folder(tmp_path / "zero", add(0.0)))  # as AutoGPTQ writes them


def test_unused_tensors_are_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def add(tensors: dict[str, Tensor]) -> None:
        tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(8)
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()

    expected = load_on_cpu(write_llama_folder(tmp_path / "plain")).logits(PROMPT_IDS)
    usual = write_llama_folder(tmp_path / "usual", add)
    assert torch.equal(load_on_cpu(usual).logits(PROMPT_IDS), expected)
    assert not caplog.messages
    more = write_llama_folder(
        tmp_path / "more", lambda tensors: tensors.update({"v_head.weight": torch.ones(2)})
    )
    assert torch.equal(load_on_cpu(more).logits(PROMPT_IDS), expected)
    assert "v_head.weight" in caplog.text


def test_a_truncated_file(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(BadCheckpoint, match="not a complete safetensors file"):
        load_on_cpu(folder)


def test_a_norm_cannot_be_packed(tmp_path: Path) -> None:
    def pack(tensors: dict[str, Tensor]) -> None:
        tensors["model.norm.weight"] = torch.ones(HIDDEN, dtype=torch.int8)

    with pytest.raises(BadCheckpoint, match=r"model\.norm\.weight"):
        load_on_cpu(write_llama_folder(tmp_path / "model", pack))


@pytest.mark.parametrize(
    "config", [{"num_attention_heads": 0}, {"hidden_size": "wide"}, {"num_hidden_layers": None}]
)
def test_an_invalid_config(tmp_path: Path, config: dict[str, Any]) -> None:
    with pytest.raises(BadCheckpoint, match=r"config\.json"):
        load_on_cpu(write_llama_folder(tmp_path / "model", **config))


def test_unknown_options(folder: Path) -> None:
    for options in ({"quant": "int5"}, {"dtype": "float8"}, {"family": "gpt"}):
        with pytest.raises(UsageError, match=r"int5|float8|gpt"):
            load_model(str(folder), LoadOptions(device="cpu", **options))
    with pytest.raises(UsageError, match="abacus"):
        load_model(str(folder), LoadOptions(device="abacus"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_missing_gpu(folder: Path) -> None:
    with pytest.raises(EngineError, match="no GPU"):
        load_model(str(folder), LoadOptions(device="cuda:0"))


def test_names_without_a_local_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLMTUI_CACHE_DIR", str(tmp_path))
    with pytest.raises(ModelNotFound):
        load_model("no-such-model")
    with pytest.raises(UsageError, match="server"):
        load_model("http://127.0.0.1:9/v1")
    assert isinstance(resolve("http://127.0.0.1:9/v1"), ServerSpec)


def test_the_loaded_model_has_the_info_of_the_found_one(folder: Path) -> None:
    info = resolve(str(folder))
    assert not isinstance(info, ServerSpec)
    loaded = load(info, LoadOptions(device="cpu"))
    assert loaded.info.name == str(folder)
    assert loaded.info.load_seconds > 0
    assert loaded.info.kv_bytes_per_token == LAYERS * 2 * 2 * 16 * 2


# ---- the dtype


@pytest.mark.parametrize(
    ("device", "stored", "capability", "wanted"),
    [
        ("cuda", "bfloat16", (8, 0), torch.bfloat16),
        ("cuda", "bfloat16", (12, 0), torch.bfloat16),
        ("cuda", "bfloat16", (7, 5), torch.float16),  # it would compute in float32 there
        ("cuda", "bfloat16", None, torch.float16),
        ("cuda", "float16", (9, 0), torch.float16),
        ("cuda", "float32", (9, 0), torch.float16),
        ("cuda", "", (9, 0), torch.float16),
        ("cpu", "float16", None, torch.bfloat16),
        ("cpu", "bfloat16", (9, 0), torch.bfloat16),
    ],
)
def test_auto_dtype(
    device: str, stored: str, capability: tuple[int, int] | None, wanted: torch.dtype
) -> None:
    assert pick_dtype("auto", torch.device(device), stored, capability) == wanted
    for name in ("float32", "bfloat16", "float16"):
        asked = pick_dtype(name, torch.device(device), stored, capability)
        assert asked == getattr(torch, name)


def test_the_stored_dtype_is_read_from_the_config() -> None:
    for raw, wanted in (
        ({"torch_dtype": "bfloat16"}, "bfloat16"),
        ({"dtype": "bfloat16", "quantization_bit": 4}, "bfloat16"),
        ({"torch_dtype": "torch.float16"}, "float16"),
        ({"text_config": {"dtype": "bfloat16"}}, "bfloat16"),
        ({"torch_dtype": None, "text_config": None}, ""),
        ({"torch_dtype": ["bfloat16"]}, ""),
    ):
        assert stored_dtype(raw) == wanted


def test_the_oldest_of_several_gpus_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus = [(9, 0), (7, 5)]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(gpus))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: gpus[index])
    assert gpu_capability("cuda:7") is None
    assert gpu_capability("cuda:0") == (9, 0)
    assert gpu_capability("cuda:1") == (7, 5)
    for name in ("auto", "balanced", "cuda"):
        assert gpu_capability(name) == (7, 5)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu_capability("auto") is None
