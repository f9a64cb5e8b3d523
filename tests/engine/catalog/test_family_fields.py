"""The table of fields, family by family: honoured, left to transformers, or refused."""

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
from glmtui.engine.api import LoadOptions
from glmtui.engine.catalog import family_fields, resolver
from glmtui.engine.catalog.config_rules import REQUIRED
from glmtui.engine.catalog.family_fields import CHATGLM, FIELDS, GLM, LLAMA, ORIGINAL, not_honoured
from glmtui.engine.catalog.transformers_fields import declared, transformers_fields
from glmtui.engine.models import chatglm, chatglm2, chatglm3, glm4, llama
from glmtui.engine.runtime.model_runner import LoadedModel
from glmtui.errors import UnsupportedModel
from glmtui.ui.panels.status_text import model_summary
from support import TESTS
from support.tiny_models import change, make, write_tokenizer

GOLDEN = TESTS / "goldens" / "models"
OPTIONS = LoadOptions(device="cpu", dtype="float32", quant=None)
PROMPT = [3 + i * 7 % 200 for i in range(40)]
GREEDY = SamplingParams(temperature=0, max_new_tokens=12)
GLM_ROPE = {"rope_type": "default", "rope_theta": 10_000.0, "partial_rotary_factor": 0.5}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}

HONOURED: list[tuple[str, dict[str, Any]]] = [
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
LEFT: list[tuple[str, dict[str, Any], str]] = [
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


def check_same(ours: LoadedModel, theirs: PreTrainedModel) -> None:
    """The same logits, and the same greedy reply."""
    batch = torch.tensor([PROMPT])
    assert torch.allclose(ours.logits(PROMPT), theirs(batch).logits[0], atol=2e-4)
    wanted = theirs.generate(batch, max_new_tokens=12, do_sample=False, eos_token_id=[])
    said = list(ours.stream_ids(PROMPT, GREEDY).ids())
    reply = wanted[0, len(PROMPT) :].tolist()
    assert said == reply[: len(said)]
    assert len(said) == 12 or reply[len(said)] in ours.stop_ids


@pytest.mark.parametrize(("kind", "fields"), HONOURED, ids=str)
def test_a_value_that_is_honoured_is_computed_with(
    tmp_path: Path, kind: str, fields: dict[str, Any]
) -> None:
    theirs = make(tmp_path, kind, **fields)
    ours = load_model(str(tmp_path), OPTIONS)
    assert ours.info.backend == "native"
    check_same(ours, theirs)


@pytest.mark.parametrize(("kind", "fields", "why"), LEFT, ids=str)
def test_a_value_that_is_not_honoured_is_left_to_transformers(
    tmp_path: Path, kind: str, fields: dict[str, Any], why: str
) -> None:
    theirs = make(tmp_path, kind, **fields)
    ours = load_model(str(tmp_path), OPTIONS)
    assert ours.info.backend == "compatibility"
    assert ours.info.why_compatible == why
    assert f"({why})" in model_summary(ours.info)
    check_same(ours, theirs)


@pytest.mark.parametrize("kind", ["llama", "glm"])
def test_a_file_that_names_no_class_is_left_to_transformers_too(tmp_path: Path, kind: str) -> None:
    theirs = make(tmp_path, kind, hidden_act="gelu")
    change(tmp_path, architectures=...)
    ours = load_model(str(tmp_path), OPTIONS)
    assert ours.info.backend == "compatibility"
    check_same(ours, theirs)


def test_a_file_of_an_older_transformers_is_read_alike(tmp_path: Path) -> None:
    """GLM-Edge as it was released: positions beside the other fields."""
    rope = {**GLM_ROPE, "partial_rotary_factor": 1.0}
    theirs = make(tmp_path, "glm", rope_parameters=rope, tie_word_embeddings=True)
    change(tmp_path, rope_parameters=..., rope_theta=10_000.0, partial_rotary_factor=1.0)
    ours = load_model(str(tmp_path), OPTIONS)
    assert ours.info.why_compatible == "tie_word_embeddings: true, partial_rotary_factor: 1.0"
    check_same(ours, theirs)


def test_a_glm_with_a_tokenizer_of_its_own_is_left_to_transformers(tmp_path: Path) -> None:
    theirs = make(tmp_path, "glm")
    write_tokenizer(tmp_path)
    ours = load_model(str(tmp_path), OPTIONS)
    assert ours.info.why_compatible == "a tokenizer of its own"
    check_same(ours, theirs)


def test_a_class_that_cannot_chat_is_no_way_out(tmp_path: Path) -> None:
    make(tmp_path, "llama", hidden_act="gelu")
    change(tmp_path, architectures=["LlamaForSequenceClassification"])
    with pytest.raises(UnsupportedModel, match="hidden_act: 'gelu'"):
        load_model(str(tmp_path), OPTIONS)


@pytest.mark.parametrize("key", ["llama", "glm4"])
def test_a_family_that_is_asked_for_refuses_what_it_does_not_compute(
    tmp_path: Path, key: str
) -> None:
    make(tmp_path, "glm" if key == "glm4" else key, hidden_act="gelu")
    with pytest.raises(UnsupportedModel, match="hidden_act: 'gelu'"):
        load_model(str(tmp_path), replace(OPTIONS, family=key))


# ---- families that transformers does not have

REFUSED = [
    (module, layout, field.name, value)
    for module, layout in (
        ("v1_tiny_sharded_fp16", CHATGLM),
        ("v2_32k_tiny", ORIGINAL),
        ("v3_32k_tiny", ORIGINAL),
        ("glm4_tiny", ORIGINAL),
    )
    for field in layout.fields
    for value in [128 if field.name == "pre_seq_len" else not field.default]
    if field.honoured
]
MODULES: dict[str, Any] = {
    "v1_tiny_sharded_fp16": chatglm,
    "v2_32k_tiny": chatglm2,
    "v3_32k_tiny": chatglm3,
    "glm4_tiny": glm4,
}


@pytest.mark.parametrize(("name", "layout", "field", "value"), REFUSED)
def test_a_value_that_is_not_honoured_is_refused(
    name: str, layout: Any, field: str, value: Any
) -> None:
    raw = json.loads((GOLDEN / name / "config.json").read_bytes())
    MODULES[name].load_config(raw)
    with pytest.raises(UnsupportedModel) as caught:
        MODULES[name].load_config({**raw, field: value})
    assert field in str(caught.value)
    assert str(value).lower() in str(caught.value)


def test_each_of_these_families_has_fields_to_refuse() -> None:
    assert {name for name, *_ in REFUSED} == set(MODULES)


@pytest.mark.parametrize("name", MODULES)
def test_every_field_of_a_release_is_known(name: str) -> None:
    raw = json.loads((GOLDEN / name / "config.json").read_bytes())
    layout = CHATGLM if name.startswith("v1") else ORIGINAL
    assert raw.keys() <= layout.known


# ---- what transformers knows


@pytest.mark.parametrize(("kind", "layout"), [("llama", LLAMA), ("glm", GLM)])
def test_every_field_of_transformers_is_known_and_has_its_default(kind: str, layout: Any) -> None:
    theirs = CONFIG_MAPPING[kind]().to_dict()
    assert theirs.keys() - PreTrainedConfig().to_dict().keys() <= layout.known
    view = layout.view(theirs)
    for field in layout.fields:
        if field.default is None or field.default is REQUIRED:
            continue
        if field.name in theirs or field.name in theirs["rope_parameters"]:
            assert view[field.name] == field.default, field.name


def test_a_field_that_only_transformers_knows_is_not_ignored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when transformers has grown a field: here one is taken out of our table."""
    theirs = make(tmp_path, "llama", mlp_bias=True)
    fields = tuple(row for row in LLAMA.fields if row.name != "mlp_bias")
    grown = replace(LLAMA, fields=fields)
    monkeypatch.setattr(family_fields, "FIELDS", {**FIELDS, "llama": lambda raw: grown})
    plain = {"model_type": "llama"}
    assert not_honoured({**plain, "mlp_bias": True}, "llama") == {"mlp_bias": True}
    assert not_honoured({**plain, "mlp_bias": False}, "llama") == {}
    assert not_honoured({**plain, "mlp_bias": None, "nobodys": 1}, "llama") == {}
    ours = load_model(str(tmp_path), OPTIONS)
    assert ours.info.why_compatible == "mlp_bias: true"
    check_same(ours, theirs)


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
    assert declared(source, "x") == {
        "model_type": "x",
        "vocab_size": 5,
        "bias": False,
        "sizes": [1, 2],
        "made": None,
    }
    assert declared(source, "y") == {}
    assert transformers_fields("nothing-of-the-kind") == {}


@pytest.mark.parametrize("key", FIELDS)
def test_every_family_of_ours_has_a_table(key: str) -> None:
    assert {family.key for family in resolver.FAMILIES} == {*FIELDS, resolver.COMPATIBILITY}
    layout = FIELDS[key]({})
    names = [row.name for row in layout.fields]
    assert len(names) == len(set(names))
    assert not set(names) & set(layout.no_effect)
    for row in layout.fields:
        for value in row.honoured:
            assert row.valid.allows(value), row.name


def test_llama_does_not_depend_on_how_its_positions_are_written() -> None:
    raw = {
        **dict.fromkeys(("num_hidden_layers", "num_attention_heads", "vocab_size"), 4),
        "hidden_size": 64,
        "intermediate_size": 64,
    }
    for beside in (
        {"rope_theta": 500.0},
        {"rope_parameters": {"rope_theta": 500.0}},
        {"rope_scaling": {"type": "default", "rope_theta": 500.0}, "rope_parameters": None},
        {"rope_scaling": None, "rope_parameters": {"rope_theta": 500.0}, "rope_theta": 1.0},
    ):
        assert llama.load_config({**raw, **beside}).rope_base == 500.0
