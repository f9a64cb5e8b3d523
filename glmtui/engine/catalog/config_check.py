"""Checks every number of a config.json, for every family, before anything is allocated.

An impossible size, heads that do not divide, or a list in place of an object becomes a
BadCheckpoint that names the field.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from glmtui.engine.catalog.config_rules import (
    ConfigField,
    ConfigValues,
    FloatRange,
    IntRange,
    JsonObject,
    OneOrList,
    Rule,
    check_weight_count,
    field_error,
)
from glmtui.engine.catalog.family_fields import (
    CONTEXT,
    EPSILON,
    HEAD_DIM,
    HEADS,
    HIDDEN,
    INNER,
    LAYERS,
    ROPE_BASE,
    SCHEMAS,
    TOKENS,
    VOCABULARY,
    must_divide,
)

EXPERTS = IntRange(0, 4096)  # experts per layer
# Fields of models that transformers runs, by transformers' names, at any depth of config.json.
GENERAL_RULES: tuple[tuple[Rule, tuple[str, ...]], ...] = (
    (LAYERS, ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "num_decoder_layers")),
    (HEADS, ("num_attention_heads", "n_head", "n_heads")),
    (HIDDEN, ("hidden_size", "n_embd", "d_model")),
    (VOCABULARY, ("vocab_size",)),
    (TOKENS, ("eos_token_id",)),
    # Some models have a value per layer.
    (OneOrList(HEADS, allow_null=True), ("num_key_value_heads", "num_kv_heads", "n_head_kv")),
    (
        OneOrList(INNER, allow_null=True),
        ("intermediate_size", "ffn_dim", "n_inner", "moe_intermediate_size"),
    ),
    (OneOrList(HEAD_DIM, allow_null=True), ("head_dim",)),
    (CONTEXT, ("max_position_embeddings", "n_positions", "original_max_position_embeddings")),
    (EXPERTS, ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")),
    (ROPE_BASE, ("rope_theta", "rotary_emb_base", "rope_base")),
    (FloatRange(0.0, 1.0, closed=True), ("partial_rotary_factor", "rotary_pct")),
    (FloatRange(0.0, 1e6), ("factor",)),
    (EPSILON, ("rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon", "norm_eps")),
    (JsonObject(), ("rope_scaling", "rope_parameters", "text_config")),
)
GENERAL_FIELDS: Mapping[str, ConfigField] = MappingProxyType(
    {name: ConfigField(name, rule) for rule, names in GENERAL_RULES for name in names}
)
# An int field with one of these words in its name is taken for a number of modules.
COUNT_WORDS = ("layer", "expert", "head", "block")
COUNT_RANGE = IntRange(-1, 1 << 16)
NUMBER_RANGE = IntRange(-(1 << 53), 1 << 53)  # of other ints: what a double represents exactly
MAX_DEPTH = 20  # of nested objects that are checked


def check_config(raw: ConfigValues, family: str, path: Path, nbytes: int | None = None) -> None:
    """Checks every number of a config.json.

    Args:
        family: a key of `families.FAMILIES`.
        nbytes: total size of the weight files, which limits the sizes in the config.

    Raises:
        BadCheckpoint: names the file, the field, its value and what is valid.
    """
    schema = SCHEMAS.get(family)
    if schema is not None:
        schema(raw).check(raw, path, nbytes)
    else:
        check_general(raw, path, nbytes)


def check_general(raw: ConfigValues, path: Path, nbytes: int | None, depth: int = 0) -> None:
    """`check_config` for a model that transformers runs."""
    for name, value in raw.items():
        row = GENERAL_FIELDS.get(name)
        if row is not None and value is not None:
            row.check(value, path)
        elif isinstance(value, dict) and depth < MAX_DEPTH:
            check_general(value, path, nbytes, depth + 1)
        elif isinstance(value, float) and value != value:
            ConfigField(name, NUMBER_RANGE).check(value, path)
        elif type(value) is int:
            is_count = any(word in name for word in COUNT_WORDS)
            ConfigField(name, COUNT_RANGE if is_count else NUMBER_RANGE).check(value, path)
        if row is not None and isinstance(value, dict) and depth < MAX_DEPTH:
            check_general(value, path, nbytes, depth + 1)
    _check_sizes(raw, path, nbytes)


def _check_sizes(raw: ConfigValues, path: Path, nbytes: int | None) -> None:
    heads, groups = raw.get("num_attention_heads"), raw.get("num_key_value_heads")
    if isinstance(heads, int) and isinstance(groups, int):
        found = must_divide("num_key_value_heads", "num_attention_heads")(raw)
        if found is not None:
            name, expected = found
            raise field_error(path, name, groups, expected)
    layers, hidden = raw.get("num_hidden_layers"), raw.get("hidden_size")
    if nbytes is not None and isinstance(layers, int) and isinstance(hidden, int):
        # Every layer has at least one vector of this size, of at least one byte per weight.
        check_weight_count(layers * hidden, 1, nbytes, path)
