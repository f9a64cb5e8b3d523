"""Every number of a config.json is checked here, for every family, before anything is allocated.

A model that is too large to be, heads that do not divide, or a list where a table belongs end as a
BadCheckpoint that names the field. Imports no torch.
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
    relation_error,
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

EXPERTS = IntRange(0, 4096)  # of a layer
# Fields of models of transformers' own, as they are named there, wherever in the file they are.
GENERAL_RULES: tuple[tuple[Rule, tuple[str, ...]], ...] = (
    (LAYERS, ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "num_decoder_layers")),
    (HEADS, ("num_attention_heads", "n_head", "n_heads")),
    (HIDDEN, ("hidden_size", "n_embd", "d_model")),
    (VOCABULARY, ("vocab_size",)),
    (TOKENS, ("eos_token_id",)),
    # some releases have one of these for each layer
    (OneOrList(HEADS, gaps=True), ("num_key_value_heads", "num_kv_heads", "n_head_kv")),
    (
        OneOrList(INNER, gaps=True),
        ("intermediate_size", "ffn_dim", "n_inner", "moe_intermediate_size"),
    ),
    (OneOrList(HEAD_DIM, gaps=True), ("head_dim",)),
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
COUNT_WORDS = ("layer", "expert", "head", "block")  # in the name of a count of modules
COUNT_RANGE = IntRange(-1, 1 << 16)
NUMBER_RANGE = IntRange(-(1 << 53), 1 << 53)  # of anything else; more is no number of a model
MAX_DEPTH = 20


def check_config(raw: ConfigValues, family: str, path: Path, nbytes: int | None = None) -> None:
    """Checks every number of a config.json before anything is made of it.

    Args:
        family: a key of `families.FAMILIES`.
        nbytes: size of the weight files, which the config's sizes have to fit.

    Raises:
        BadCheckpoint: names the file, the field, its value and what is allowed.
    """
    layout = SCHEMAS.get(family)
    if layout is not None:
        layout(raw).check(raw, path, nbytes)
    else:
        check_general(raw, path, nbytes)


def check_general(raw: ConfigValues, path: Path, nbytes: int | None, deep: int = 0) -> None:
    """`check_config` for a model of transformers' own."""
    for name, value in raw.items():
        row = GENERAL_FIELDS.get(name)
        if row is not None and value is not None:
            row.check(value, path)
        elif isinstance(value, dict) and deep < MAX_DEPTH:
            check_general(value, path, nbytes, deep + 1)
        elif isinstance(value, float) and value != value:
            ConfigField(name, NUMBER_RANGE).check(value, path)
        elif type(value) is int:
            counted = any(part in name for part in COUNT_WORDS)
            ConfigField(name, COUNT_RANGE if counted else NUMBER_RANGE).check(value, path)
        if row is not None and isinstance(value, dict) and deep < MAX_DEPTH:
            check_general(value, path, nbytes, deep + 1)
    _check_sizes(raw, path, nbytes)


def _check_sizes(raw: ConfigValues, path: Path, nbytes: int | None) -> None:
    heads, groups = raw.get("num_attention_heads"), raw.get("num_key_value_heads")
    if isinstance(heads, int) and isinstance(groups, int):
        found = must_divide("num_key_value_heads", "num_attention_heads")(raw)
        if found is not None:
            raise relation_error(path, found[0], groups, found[1])
    layers, hidden = raw.get("num_hidden_layers"), raw.get("hidden_size")
    if nbytes is not None and isinstance(layers, int) and isinstance(hidden, int):
        # every layer has at least one vector of this size
        check_weight_count(layers * hidden, 1, nbytes, path)
