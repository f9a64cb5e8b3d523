"""GGUF files become prepared folders: every weight and every token as the file has them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGMLQuantizationType as Kind
from gguf import GGUFWriter
from gguf.quants import dequantize, quantize
from safetensors.numpy import load_file

from glmtui.engine.checkpoint.gguf import convert_gguf
from glmtui.engine.progress import Progress
from glmtui.errors import BadCheckpoint, UnsupportedModel
from support.checkpoints import (
    HEAD,
    HEADS,
    HIDDEN,
    INNER,
    KEY_HEADS,
    LAYERS,
    TEMPLATE,
    TOKENS,
    hub_name,
    llama_tensors,
    unpacked,
    write_gguf,
)


def converted(source: Path) -> tuple[Path, str]:
    folder = source.with_suffix("")
    folder.mkdir()
    return folder, convert_gguf(source, folder)


@pytest.mark.parametrize(
    ("kind", "stored", "exact"),
    [
        (Kind.F32, "float32", True),
        (Kind.F16, "float16", True),
        (Kind.BF16, "bfloat16", True),
        (Kind.Q4_0, "int4 g32", True),
        (Kind.Q4_1, "int4 g32", True),
        (Kind.Q8_0, "int8 g32", True),
        (Kind.Q5_1, "float16 (from Q5_1)", False),
    ],
)
def test_weights_are_what_the_file_means(
    tmp_path: Path, kind: Kind, stored: str, exact: bool
) -> None:
    tensors = llama_tensors()
    folder, said = converted(write_gguf(tmp_path / "tiny.gguf", kind, tensors))
    assert said == stored
    if kind == Kind.BF16:
        pytest.importorskip("torch")
        from safetensors.torch import load_file as load_torch

        loaded = {k: v.float().numpy() for k, v in load_torch(folder / "model.safetensors").items()}
    else:
        loaded = load_file(folder / "model.safetensors")
    for name, values in tensors.items():
        meant = values if values.ndim == 1 else dequantize(quantize(values, kind), kind)
        got = unpacked(loaded, hub_name(name))
        if exact or values.ndim == 1:
            np.testing.assert_array_equal(got, meant)
        else:
            np.testing.assert_array_equal(got, meant.astype(np.float16))


def test_kinds_mix_and_the_commonest_is_named_first(tmp_path: Path) -> None:
    kinds = {f"blk.{n}.ffn_{part}.weight": Kind.Q4_1 for n in (0, 1) for part in ("gate", "up")}
    kinds["token_embd.weight"] = Kind.Q8_0
    _, said = converted(write_gguf(tmp_path / "tiny.gguf", kinds))
    assert said == "float16 + int4 g32 + int8 g32"


def test_packed_shapes(tmp_path: Path) -> None:
    folder, _ = converted(write_gguf(tmp_path / "tiny.gguf", Kind.Q4_0))
    loaded = load_file(folder / "model.safetensors")
    name = "model.layers.1.mlp.down_proj.weight"
    assert (loaded[name].dtype, loaded[name].shape) == (np.uint8, (HIDDEN, INNER // 2))
    for suffix in (".scale", ".zero"):
        part = loaded[name + suffix]
        assert (part.dtype, part.shape) == (np.float16, (HIDDEN, INNER // 32))


def test_a_head_of_its_own_is_kept(tmp_path: Path) -> None:
    head = np.random.default_rng(1).standard_normal((len(TOKENS), HIDDEN)).astype(np.float32)
    source = write_gguf(
        tmp_path / "tiny.gguf", Kind.F32, {**llama_tensors(), "output.weight": head}
    )
    folder, _ = converted(source)
    assert json.loads((folder / "config.json").read_text())["tie_word_embeddings"] is False
    np.testing.assert_array_equal(load_file(folder / "model.safetensors")["lm_head.weight"], head)


def test_config_says_what_the_header_says(tmp_path: Path) -> None:
    folder, _ = converted(write_gguf(tmp_path / "tiny.gguf"))
    config = json.loads((folder / "config.json").read_text())
    assert config["model_type"] == "llama"
    assert config["hidden_size"] == HIDDEN
    assert config["intermediate_size"] == INNER
    assert config["num_hidden_layers"] == LAYERS
    assert config["num_attention_heads"] == HEADS
    assert config["num_key_value_heads"] == KEY_HEADS
    assert config["head_dim"] == HEAD
    assert config["rms_norm_eps"] == 1e-5  # not 9.999999747378752e-06
    assert config["rope_theta"] == 10000.0
    assert config["max_position_embeddings"] == 256
    assert config["vocab_size"] == len(TOKENS)
    assert config["tie_word_embeddings"] is True
    assert (config["bos_token_id"], config["eos_token_id"], config["pad_token_id"]) == (1, 2, 2)
    said = json.loads((folder / "tokenizer_config.json").read_text())
    assert said["chat_template"] == TEMPLATE
    assert (said["bos_token"], said["eos_token"]) == ("<|im_start|>", "<|im_end|>")
    assert said["add_bos_token"] is False
    ends = json.loads((folder / "generation_config.json").read_text())
    assert ends == {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2}


def test_several_end_tokens_and_sampling_reach_the_folder(tmp_path: Path) -> None:
    source = write_gguf(tmp_path / "tiny.gguf", edit=lambda writer: writer.add_eot_token_id(0))
    folder = tmp_path / "out"
    folder.mkdir()
    convert_gguf(source, folder, sampling={"temperature": 0.2})
    said = json.loads((folder / "generation_config.json").read_text())
    assert said["eos_token_id"] == [2, 0]
    assert said["temperature"] == 0.2


def test_progress_goes_up_to_all_bytes(tmp_path: Path) -> None:
    source = write_gguf(tmp_path / "tiny.gguf", Kind.Q8_0)
    folder = tmp_path / "out"
    folder.mkdir()
    seen: list[Progress] = []
    convert_gguf(source, folder, seen.append)
    assert [p.done for p in seen] == sorted(p.done for p in seen)
    assert seen[-1].done == seen[-1].total
    header = int.from_bytes((folder / "model.safetensors").read_bytes()[:8], "little")
    assert seen[-1].total == (folder / "model.safetensors").stat().st_size - 8 - header


def test_another_architecture_is_named(tmp_path: Path) -> None:
    source = write_gguf(tmp_path / "tiny.gguf", architecture="mamba")
    with pytest.raises(UnsupportedModel, match="'mamba'"):
        converted(source)


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lambda w: w.add_expert_count(8), "mixture of experts"),
        (lambda w: w.add_string("llama.rope.scaling.type", "linear"), "rotary"),
        (lambda w: w.add_tensor("rope_freqs.weight", np.ones(8, np.float32)), "rotary"),
        (lambda w: w.add_tensor("blk.0.attn_q.bias", np.ones(64, np.float32)), "attn_q.bias"),
    ],
)
def test_what_would_be_misread_is_refused(tmp_path: Path, edit: Any, said: str) -> None:
    source = write_gguf(tmp_path / "tiny.gguf", edit=edit)
    with pytest.raises(UnsupportedModel, match=said):
        converted(source)


def test_integers_are_no_weights(tmp_path: Path) -> None:
    tensors = llama_tensors()
    del tensors["blk.0.ffn_up.weight"]

    def add(writer: GGUFWriter) -> None:
        writer.add_tensor("blk.0.ffn_up.weight", np.ones((INNER, HIDDEN), np.int32))

    source = write_gguf(tmp_path / "tiny.gguf", tensors=tensors, edit=add)
    with pytest.raises(UnsupportedModel, match="I32"):
        converted(source)


def test_a_missing_tensor_is_named(tmp_path: Path) -> None:
    tensors = llama_tensors()
    del tensors["blk.1.ffn_up.weight"]
    with pytest.raises(BadCheckpoint, match=r"blk\.1\.ffn_up\.weight is missing"):
        converted(write_gguf(tmp_path / "tiny.gguf", tensors=tensors))


def test_a_tensor_of_another_shape_is_named(tmp_path: Path) -> None:
    tensors = llama_tensors()
    tensors["blk.1.ffn_up.weight"] = tensors["blk.1.ffn_up.weight"][:-1]
    with pytest.raises(BadCheckpoint, match=r"ffn_up\.weight has the shape \(95, 64\)"):
        converted(write_gguf(tmp_path / "tiny.gguf", tensors=tensors))


def test_weights_beyond_float16_are_not_made_infinite(tmp_path: Path) -> None:
    tensors = llama_tensors()
    tensors["blk.0.ffn_up.weight"] = tensors["blk.0.ffn_up.weight"] * 1e6
    with np.errstate(over="ignore"):
        source = write_gguf(tmp_path / "tiny.gguf", Kind.Q5_1, tensors)
    with pytest.raises(BadCheckpoint, match="float16"):
        converted(source)
