"""Invalid numbers in config.json are errors that name the field, before anything is allocated."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig

from glmtui.engine import load_model
from glmtui.engine.catalog import resolver
from glmtui.engine.convert.quantize import quantize_checkpoint
from glmtui.engine.convert.slim import convert_to_slim
from glmtui.engine.loading.loader import build_model, load
from glmtui.engine.model_info import LoadOptions, ModelInfo
from glmtui.engine.models.model_family import import_family
from glmtui.errors import BadCheckpoint
from support import TESTS
from support.llama_folders import write_llama_folder
from support.tiny_llama import LLAMA_CONFIG, TOKENS
from support.transformers_models import edit_json, write_transformers_model

GOLDEN = TESTS / "goldens" / "models"
OPTIONS = LoadOptions(device="cpu", dtype="float32", quant=None)
HUGE = 10**7
VOCABULARY = len(TOKENS)

# Family, changed fields of its config.json, and a part of the error message.
CASES: list[tuple[str, dict[str, Any], str]] = [
    ("llama", {"num_attention_heads": 2, "num_key_value_heads": 4}, "divisor of num_attention"),
    ("llama", {"num_attention_heads": 1023, "num_key_value_heads": 512}, "is 512; it must be a"),
    ("llama", {"num_attention_heads": 63, "num_key_value_heads": 32}, "num_attention_heads (63)"),
    ("llama", {"num_key_value_heads": -2}, "num_key_value_heads is -2; it must be a whole"),
    ("llama", {"num_key_value_heads": 0}, "num_key_value_heads is 0"),
    ("llama", {"num_hidden_layers": 0}, "num_hidden_layers is 0; it must be a whole"),
    ("llama", {"num_hidden_layers": HUGE}, "num_hidden_layers is 10000000; it must be a whole"),
    ("llama", {"num_hidden_layers": 2.0}, "num_hidden_layers is 2.0"),
    ("llama", {"num_hidden_layers": True}, "num_hidden_layers is true"),
    ("llama", {"num_hidden_layers": [2]}, "num_hidden_layers is [2]"),
    ("llama", {"num_hidden_layers": "2"}, "num_hidden_layers is '2'"),
    ("llama", {"num_attention_heads": 0}, "num_attention_heads is 0"),
    ("llama", {"head_dim": 15}, "head_dim is 15; it must be a multiple of 2"),
    ("llama", {"head_dim": -16}, "head_dim is -16"),
    ("llama", {"head_dim": None, "hidden_size": 62}, "hidden_size is 62; it must be a multiple"),
    ("llama", {"hidden_size": 2**62}, "hidden_size is 4611686018427387904"),
    ("llama", {"hidden_size": -64}, "hidden_size is -64"),
    ("llama", {"intermediate_size": 0}, "intermediate_size is 0"),
    ("llama", {"vocab_size": 10**12}, "vocab_size is 1000000000000"),
    ("llama", {"vocab_size": {}}, "vocab_size is {}"),
    ("llama", {"max_position_embeddings": 2**40}, "max_position_embeddings is 1099511627776"),
    ("llama", {"rms_norm_eps": math.nan}, "rms_norm_eps is nan; it must be a number from 0 to 1"),
    ("llama", {"rms_norm_eps": math.inf}, "rms_norm_eps is inf"),
    ("llama", {"rms_norm_eps": -1e-5}, "rms_norm_eps is -1e-05"),
    ("llama", {"rope_theta": math.nan}, "rope_theta is nan"),
    ("llama", {"rope_theta": 0}, "rope_theta is 0; it must be a number above 0"),
    ("llama", {"rope_parameters": {"rope_theta": -math.inf}}, "rope_theta is -inf"),
    ("llama", {"rope_parameters": ["linear", 2]}, "rope_parameters is ['linear', 2]"),
    ("llama", {"rope_scaling": "linear"}, "rope_scaling is 'linear'; it must be a JSON object"),
    ("llama", {"tie_word_embeddings": "yes"}, "tie_word_embeddings is 'yes'; it must be true"),
    ("llama", {"hidden_act": ["silu"]}, "hidden_act is ['silu']; it must be a string"),
    ("llama", {"eos_token_id": {"id": 2}}, "eos_token_id is {'id': 2}"),
    ("llama", {"eos_token_id": [2, None]}, "eos_token_id is [2, None]"),
    ("chatglm2", {"multi_query_group_num": 3}, "multi_query_group_num is 3; it must be a div"),
    ("chatglm2", {"multi_query_group_num": -1}, "multi_query_group_num is -1"),
    ("chatglm2", {"num_layers": 0}, "num_layers is 0"),
    ("chatglm2", {"num_layers": HUGE}, "num_layers is 10000000"),
    ("chatglm2", {"kv_channels": 18}, "kv_channels is 18; it must be a multiple of 4"),
    ("chatglm2", {"layernorm_epsilon": math.nan}, "layernorm_epsilon is nan"),
    ("chatglm2", {"rope_ratio": math.inf}, "rope_ratio is inf"),
    ("chatglm2", {"rope_ratio": 0}, "rope_ratio is 0"),
    ("chatglm2", {"rmsnorm": 1}, "rmsnorm is 1; it must be true or false"),
    ("chatglm2", {"quantization_bit": 3}, "quantization_bit is 3; it must be one of 0, 4, 8"),
    ("chatglm2", {"pre_seq_len": [1]}, "pre_seq_len is [1]"),
    ("chatglm3", {"num_attention_heads": 5}, "multi_query_group_num is 2; it must be a div"),
    ("glm4", {"padded_vocab_size": [384]}, "padded_vocab_size is [384]"),
    ("glm4", {"seq_length": 2**23, "kv_channels": 128}, "seq_length is 8388608; it must be at"),
    ("chatglm", {"num_attention_heads": 3}, "hidden_size is 64; it must be a multiple of num"),
    ("chatglm", {"num_attention_heads": 32}, "hidden_size is 64; it must be a multiple of 4"),
    ("chatglm", {"pad_token_id": 1000}, "pad_token_id is 1000; it must be less than vocab_size"),
    ("chatglm", {"pad_token_id": [3]}, "pad_token_id is [3]"),
    ("chatglm", {"inner_hidden_size": -256}, "inner_hidden_size is -256"),
    ("chatglm", {"max_sequence_length": -1}, "max_sequence_length is -1"),
]
GENERAL: list[tuple[dict[str, Any], str]] = [
    ({"num_key_value_heads": 3}, "num_key_value_heads is 3; it must be a divisor"),
    ({"num_key_value_heads": -2}, "num_key_value_heads is -2"),
    ({"num_attention_heads": 0}, "num_attention_heads is 0"),
    ({"num_hidden_layers": 0}, "num_hidden_layers is 0"),
    ({"num_hidden_layers": HUGE}, "num_hidden_layers is 10000000"),
    ({"num_experts": HUGE}, "num_experts is 10000000"),
    ({"num_other_layers": HUGE}, "num_other_layers is 10000000"),
    ({"hidden_size": 2**40}, "hidden_size is 1099511627776"),
    ({"vocab_size": -1}, "vocab_size is -1"),
    ({"sliding_window": 2**80}, f"sliding_window is {2**80}"),
    ({"rms_norm_eps": math.nan}, "rms_norm_eps is nan"),
    ({"rope_theta": math.inf}, "rope_theta is inf"),
    ({"rope_parameters": [1]}, "rope_parameters is [1]; it must be a JSON object"),
    ({"rope_parameters": {"rope_type": "linear", "factor": math.nan}}, "factor is nan"),
    ({"text_config": []}, "text_config is []; it must be a JSON object"),
    ({"text_config": {"num_hidden_layers": HUGE}}, "num_hidden_layers is 10000000"),
    ({"another": {"deeper": {"rope_theta": math.nan}}}, "rope_theta is nan"),
    ({"eos_token_id": [[2]]}, "eos_token_id is [[2]]"),
    ({"some_float": math.nan}, "some_float is nan"),
]
SOURCES = {
    "chatglm": "v1_tiny_sharded_fp16",
    "chatglm2": "v2_32k_tiny",
    "chatglm3": "v3_32k_tiny",
    "glm4": "glm4_tiny",
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A valid folder of each family."""
    root = tmp_path_factory.mktemp("sound")
    made = {key: Path(shutil.copytree(GOLDEN / name, root / key)) for key, name in SOURCES.items()}
    made["llama"] = write_llama_folder(root / "llama")
    write_transformers_model(root / "qwen2", "qwen2")
    return made | {"qwen2": root / "qwen2"}


@pytest.fixture
def changed_folder(folders: dict[str, Path], tmp_path: Path) -> Any:
    """Copies a family's folder and changes fields of its config.json."""

    def copied(key: str, fields: dict[str, Any]) -> Path:
        folder = Path(shutil.copytree(folders[key], tmp_path / "model", copy_function=_link))
        (folder / "config.json").unlink()
        shutil.copyfile(folders[key] / "config.json", folder / "config.json")
        edit_json(folder, **fields)
        return folder

    return copied


def _link(source: str, target: str) -> None:
    Path(target).symlink_to(source)


def check_message(error: BadCheckpoint, folder: Path, message: str) -> None:
    assert str(folder / "config.json") in error.message
    assert message in error.message
    assert error.hint


@pytest.mark.parametrize(("key", "fields", "message"), CASES, ids=str)
def test_invalid_numbers_are_refused(
    changed_folder: Any, key: str, fields: dict[str, Any], message: str
) -> None:
    folder = changed_folder(key, fields)
    for family in (None, key):
        with pytest.raises(BadCheckpoint) as caught:
            resolver.resolve(str(folder), family=family)
        check_message(caught.value, folder, message)
    # Loading checks the file again: it may have changed since it was inspected.
    info = ModelInfo(name="m", path=folder, family=key, context_length=64, nbytes=0, stored="")
    with pytest.raises(BadCheckpoint) as caught:
        load(info, OPTIONS)
    if message.startswith("pad_token_id is 1000"):
        return  # checked only if there are weight files
    with pytest.raises(BadCheckpoint, match=r"config\.json"):
        build_model(
            import_family(key), json.loads((folder / "config.json").read_text()), folder, OPTIONS
        )


@pytest.mark.parametrize(("fields", "message"), GENERAL, ids=str)
@pytest.mark.parametrize("key", ["qwen2", "llama"])
def test_invalid_numbers_do_not_reach_transformers(
    changed_folder: Any,
    monkeypatch: pytest.MonkeyPatch,
    key: str,
    fields: dict[str, Any],
    message: str,
) -> None:
    calls: list[object] = []
    monkeypatch.setattr(AutoConfig, "from_pretrained", lambda *args, **kwargs: calls.append(args))
    folder = changed_folder(key, fields)
    with pytest.raises(BadCheckpoint) as caught:
        load_model(str(folder), replace(OPTIONS, family="compatibility"))
    assert "config.json" in str(caught.value)
    if key == "qwen2":
        check_message(caught.value, folder, message)
    assert not calls


@pytest.mark.parametrize(
    ("key", "fields"),
    [
        ("llama", {"num_hidden_layers": 1024}),
        ("llama", {"intermediate_size": 1 << 20}),
        ("llama", {"vocab_size": 1 << 22}),
        ("chatglm", {"num_layers": 1024}),
        ("chatglm2", {"ffn_hidden_size": 1 << 20}),
        ("glm4", {"hidden_size": 1 << 16}),
        ("qwen2", {"num_hidden_layers": 1024, "layer_types": None, "hidden_size": 1 << 16}),
        ("qwen2", {"vocab_size": 1 << 22}),
        ("qwen2", {"intermediate_size": 1 << 20}),
    ],
    ids=str,
)
def test_sizes_that_do_not_fit_the_weight_files(
    changed_folder: Any, key: str, fields: dict[str, Any]
) -> None:
    folder = changed_folder(key, fields)
    with pytest.raises(BadCheckpoint, match=r"weight files have only [0-9,]+ bytes") as caught:
        load_model(str(folder), OPTIONS)
    assert str(folder / "config.json") in caught.value.message


def test_conversions_check_the_config_too(folders: dict[str, Path], tmp_path: Path) -> None:
    edit_json(folders["llama"], num_key_value_heads=3)
    info = ModelInfo("m", folders["llama"], "llama", 64, 0, "float16")
    with pytest.raises(BadCheckpoint, match="num_key_value_heads is 3"):
        quantize_checkpoint(info, tmp_path / "made", 8)
    edit_json(folders["llama"], num_key_value_heads=LLAMA_CONFIG["num_key_value_heads"])
    twin = Path(shutil.copytree(GOLDEN / "v1_twin_orig", tmp_path / "twin"))
    edit_json(twin, num_layers=HUGE)
    with pytest.raises(BadCheckpoint, match="num_layers is 10000000"):
        convert_to_slim(twin, tmp_path / "slim")


def test_valid_folders_are_accepted(folders: dict[str, Path]) -> None:
    for key, folder in folders.items():
        info = resolver.resolve(str(folder))
        assert isinstance(info, ModelInfo)
        assert info.family == ("compatibility" if key == "qwen2" else key)
