"""Fields of config.json, by family: supported, run by transformers, or refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import CONFIG_MAPPING, PreTrainedConfig, PreTrainedModel

from glmtui.chat import SamplingParams
from glmtui.engine import load_model
from glmtui.engine.catalog import family_fields
from glmtui.engine.catalog.config_rules import REQUIRED
from glmtui.engine.catalog.families import COMPATIBILITY, FAMILIES
from glmtui.engine.catalog.family_fields import (
    CHATGLM2_SCHEMA,
    CHATGLM_SCHEMA,
    GLM_SCHEMA,
    LLAMA_SCHEMA,
    SCHEMAS,
    unsupported_fields,
)
from glmtui.engine.catalog.transformers_fields import parse_config_class, transformers_fields
from glmtui.engine.model_info import LoadOptions
from glmtui.engine.models import chatglm, chatglm2, chatglm3, glm4, llama
from glmtui.engine.runtime.model_runner import LoadedModel
from glmtui.errors import UnsupportedModel
from glmtui.ui.panels.status_text import model_summary
from support import TESTS
from support.transformers_models import edit_json, write_tokenizer, write_transformers_model

GOLDEN = TESTS / "goldens" / "models"
OPTIONS = LoadOptions(device="cpu", dtype="float32", quant=None)
PROMPT = [3 + i * 7 % 200 for i in range(40)]
GREEDY = SamplingParams(temperature=0, max_new_tokens=12)
GLM_ROPE = {"rope_type": "default", "rope_theta": 10_000.0, "partial_rotary_factor": 0.5}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}

SUPPORTED: list[tuple[str, dict[str, Any]]] = [
    ("llama", {}),
    ("llama", {"hidden_act": "swish"}),
    ("llama", {"attention_bias": True}),
    ("llama", {"tie_word_embeddings": True}),
    ("llama", {"num_key_value_heads": 4, "head_dim": 24}),
    ("llama", {"rms_norm_eps": 0.5}),
    ("llama", {"rope_parameters": {"rope_type": "default", "rope_theta": 100.0}}),
    ("glm", {}),
    ("glm", {"hidden_act": "swish"}),
    ("glm", {"attention_bias": False}),
    ("glm", {"num_key_value_heads": 4, "head_dim": 24}),
    ("glm", {"rms_norm_eps": 0.5}),
    ("glm", {"rope_parameters": {**GLM_ROPE, "rope_theta": 100.0}}),
]
UNSUPPORTED: list[tuple[str, dict[str, Any], str]] = [
    ("llama", {"hidden_act": "gelu"}, "hidden_act: 'gelu'"),
    ("llama", {"mlp_bias": True}, "mlp_bias: true"),
    ("llama", {"rope_parameters": {**YARN, "rope_theta": 1e4}}, "rope_type: 'yarn'"),
    ("llama", {"rope_parameters": {"rope_type": "linear", "factor": 2.0}}, "rope_type: 'linear'"),
    ("glm", {"hidden_act": "gelu"}, "hidden_act: 'gelu'"),
    ("glm", {"tie_word_embeddings": True}, "tie_word_embeddings: true"),
    (
        "glm",
        {"rope_parameters": {**GLM_ROPE, "partial_rotary_factor": 1.0}},
        "partial_rotary_factor: 1.0",
    ),
    (
        "glm",
        {"rope_parameters": {**GLM_ROPE, "rope_type": "linear", "factor": 2.0}},
        "rope_type: 'linear'",
    ),
    ("glm", {"rope_parameters": {**GLM_ROPE, **YARN}}, "rope_type: 'yarn'"),
]


def check_same_output(ours: LoadedModel, theirs: PreTrainedModel) -> None:
    batch = torch.tensor([PROMPT])
    assert torch.allclose(ours.logits(PROMPT), theirs(batch).logits[0], atol=2e-4)
    generated = theirs.generate(batch, max_new_tokens=12, do_sample=False, eos_token_id=[])
    reply_ids = list(ours.stream_ids(PROMPT, GREEDY).ids())
    expected = generated[0, len(PROMPT) :].tolist()
    assert reply_ids == expected[: len(reply_ids)]
    assert len(reply_ids) == 12 or expected[len(reply_ids)] in ours.stop_ids


@pytest.mark.parametrize(("kind", "fields"), SUPPORTED, ids=str)
def test_a_supported_value_is_computed_as_transformers_does(
    tmp_path: Path, kind: str, fields: dict[str, Any]
) -> None:
    theirs = write_transformers_model(tmp_path, kind, **fields)
    ours = load_model(str(tmp_path), OPTIONS)
    assert ours.info.backend == "native"
    check_same_output(ours, theirs)


@pytest.mark.parametrize(("kind", "fields", "why"), UNSUPPORTED, ids=str)
def test_an_unsupported_value_is_run_by_transformers(
    tmp_path: Path, kind: str, fields: dict[str, Any], why: str
) -> None:
    theirs = write_transformers_model(tmp_path, kind, **fields)
    ours = load_model(str(tmp_path), OPTIONS)
    assert ours.info.backend == "compatibility"
    assert ours.info.compatibility_reason == why
    assert f"({why})" in model_summary(ours.info)
    check_same_output(ours, theirs)


@pytest.mark.parametrize("kind", ["llama", "glm"])
def test_a_config_without_architectures_is_run_by_transformers_too(
    tmp_path: Path, kind: str
) -> None:
    theirs = write_transformers_model(tmp_path, kind, hidden_act="gelu")
    edit_json(tmp_path, architectures=...)
    ours = load_model(str(tmp_path), OPTIONS)
    assert ours.info.backend == "compatibility"
    check_same_output(ours, theirs)


def test_a_config_of_an_older_transformers_is_read_alike(tmp_path: Path) -> None:
    """GLM-Edge as it was released: RoPE fields at the top level."""
    rope = {**GLM_ROPE, "partial_rotary_factor": 1.0}
    theirs = write_transformers_model(
        tmp_path, "glm", rope_parameters=rope, tie_word_embeddings=True
    )
    edit_json(tmp_path, rope_parameters=..., rope_theta=10_000.0, partial_rotary_factor=1.0)
    ours = load_model(str(tmp_path), OPTIONS)
    assert ours.info.compatibility_reason == "tie_word_embeddings: true, partial_rotary_factor: 1.0"
    check_same_output(ours, theirs)


def test_a_glm_with_another_tokenizer_is_run_by_transformers(tmp_path: Path) -> None:
    theirs = write_transformers_model(tmp_path, "glm")
    write_tokenizer(tmp_path)
    ours = load_model(str(tmp_path), OPTIONS)
    assert ours.info.compatibility_reason == "its own tokenizer"
    check_same_output(ours, theirs)


def test_a_class_that_cannot_chat_is_refused(tmp_path: Path) -> None:
    write_transformers_model(tmp_path, "llama", hidden_act="gelu")
    edit_json(tmp_path, architectures=["LlamaForSequenceClassification"])
    with pytest.raises(UnsupportedModel, match="hidden_act: 'gelu'"):
        load_model(str(tmp_path), OPTIONS)


@pytest.mark.parametrize("key", ["llama", "glm4"])
def test_a_family_that_is_asked_for_refuses_unsupported_values(tmp_path: Path, key: str) -> None:
    write_transformers_model(tmp_path, "glm" if key == "glm4" else key, hidden_act="gelu")
    with pytest.raises(UnsupportedModel, match="hidden_act: 'gelu'"):
        load_model(str(tmp_path), replace(OPTIONS, family=key))


# ---- families that transformers does not have

REFUSED = [
    (module, schema, field.name, value)
    for module, schema in (
        ("v1_tiny_sharded_fp16", CHATGLM_SCHEMA),
        ("v2_32k_tiny", CHATGLM2_SCHEMA),
        ("v3_32k_tiny", CHATGLM2_SCHEMA),
        ("glm4_tiny", CHATGLM2_SCHEMA),
    )
    for field in schema.fields
    for value in [128 if field.name == "pre_seq_len" else not field.default]
    if field.supported
]
MODULES: dict[str, Any] = {
    "v1_tiny_sharded_fp16": chatglm,
    "v2_32k_tiny": chatglm2,
    "v3_32k_tiny": chatglm3,
    "glm4_tiny": glm4,
}


@pytest.mark.parametrize(("name", "schema", "field", "value"), REFUSED)
def test_an_unsupported_value_is_refused(name: str, schema: Any, field: str, value: Any) -> None:
    raw = json.loads((GOLDEN / name / "config.json").read_bytes())
    MODULES[name].load_config(raw)
    with pytest.raises(UnsupportedModel) as caught:
        MODULES[name].load_config({**raw, field: value})
    assert field in str(caught.value)
    assert str(value).lower() in str(caught.value)


def test_each_of_these_families_refuses_some_field() -> None:
    assert {name for name, *_ in REFUSED} == set(MODULES)


@pytest.mark.parametrize("name", MODULES)
def test_every_field_of_a_release_is_known(name: str) -> None:
    raw = json.loads((GOLDEN / name / "config.json").read_bytes())
    schema = CHATGLM_SCHEMA if name.startswith("v1") else CHATGLM2_SCHEMA
    assert raw.keys() <= schema.known_names


# ---- what transformers knows


@pytest.mark.parametrize(("kind", "schema"), [("llama", LLAMA_SCHEMA), ("glm", GLM_SCHEMA)])
def test_every_field_of_transformers_is_known_and_has_its_default(kind: str, schema: Any) -> None:
    theirs = CONFIG_MAPPING[kind]().to_dict()
    assert theirs.keys() - PreTrainedConfig().to_dict().keys() <= schema.known_names
    view = schema.flatten(theirs)
    for field in schema.fields:
        if field.default is None or field.default is REQUIRED:
            continue
        if field.name in theirs or field.name in theirs["rope_parameters"]:
            assert view[field.name] == field.default, field.name


def test_a_field_that_only_transformers_knows_is_not_ignored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if a newer transformers had a new field: here one is removed from our schema."""
    theirs = write_transformers_model(tmp_path, "llama", mlp_bias=True)
    fields = tuple(row for row in LLAMA_SCHEMA.fields if row.name != "mlp_bias")
    grown = replace(LLAMA_SCHEMA, fields=fields)
    monkeypatch.setattr(family_fields, "SCHEMAS", {**SCHEMAS, "llama": lambda raw: grown})
    plain = {"model_type": "llama"}
    assert unsupported_fields({**plain, "mlp_bias": True}, "llama") == {"mlp_bias": True}
    assert unsupported_fields({**plain, "mlp_bias": False}, "llama") == {}
    assert unsupported_fields({**plain, "mlp_bias": None, "nobodys": 1}, "llama") == {}
    ours = load_model(str(tmp_path), OPTIONS)
    assert ours.info.compatibility_reason == "mlp_bias: true"
    check_same_output(ours, theirs)


@pytest.mark.parametrize("kind", ["llama", "glm", "mistral"])
def test_fields_are_read_from_the_source_of_transformers(kind: str) -> None:
    found = transformers_fields(kind)
    theirs = CONFIG_MAPPING[kind]()
    assert theirs.to_dict().keys() - PreTrainedConfig().to_dict().keys() <= found.keys()
    for name, default in found.items():
        if default is not None and name != "rope_scaling":
            assert getattr(theirs, name) == default, name


def test_fields_are_read_in_the_older_form_too() -> None:
    source = """
class XConfig(PreTrainedConfig):
    model_type = "x"
    def __init__(self, vocab_size: int = 5, bias=False, sizes=[1, 2], made=f(), **kwargs): ...
"""
    assert parse_config_class(source, "x") == {
        "model_type": "x",
        "vocab_size": 5,
        "bias": False,
        "sizes": [1, 2],
        "made": None,
    }
    assert parse_config_class(source, "y") == {}
    assert transformers_fields("nothing-of-the-kind") == {}


@pytest.mark.parametrize("key", SCHEMAS)
def test_every_native_family_has_a_schema(key: str) -> None:
    assert {family.key for family in FAMILIES} == {*SCHEMAS, COMPATIBILITY}
    schema = SCHEMAS[key]({})
    names = [row.name for row in schema.fields]
    assert len(names) == len(set(names))
    assert not set(names) & set(schema.no_effect)
    for row in schema.fields:
        for value in row.supported:
            assert row.rule.allows(value), row.name


def test_llama_reads_rope_fields_of_both_layouts() -> None:
    raw = {
        **dict.fromkeys(("num_hidden_layers", "num_attention_heads", "vocab_size"), 4),
        "hidden_size": 64,
        "intermediate_size": 64,
    }
    for rope_fields in (
        {"rope_theta": 500.0},
        {"rope_parameters": {"rope_theta": 500.0}},
        {"rope_scaling": {"type": "default", "rope_theta": 500.0}, "rope_parameters": None},
        {"rope_scaling": None, "rope_parameters": {"rope_theta": 500.0}, "rope_theta": 1.0},
    ):
        assert llama.load_config({**raw, **rope_fields}).rope_base == 500.0
