"""Every number of a config.json is checked here, for every family, before anything is allocated.

A model that is too large to be, heads that do not divide, or a list where a table belongs end as a
BadCheckpoint that names the field. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from glmtui.engine.catalog.config_rules import (
    Field,
    OneOrMore,
    Real,
    Rule,
    Table,
    Values,
    Whole,
    check_weights,
    misfit,
)
from glmtui.engine.catalog.family_fields import (
    CONTEXT,
    EPSILON,
    FIELDS,
    HEAD_DIM,
    HEADS,
    HIDDEN,
    INNER,
    LAYERS,
    ROPE_BASE,
    TOKENS,
    VOCABULARY,
    divides,
)

EXPERTS = Whole(0, 4096)  # of a layer
# Fields of models of transformers' own, as they are named there, wherever in the file they are.
ROWS: tuple[tuple[Rule, tuple[str, ...]], ...] = (
    (LAYERS, ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "num_decoder_layers")),
    (HEADS, ("num_attention_heads", "n_head", "n_heads")),
    (HIDDEN, ("hidden_size", "n_embd", "d_model")),
    (VOCABULARY, ("vocab_size",)),
    (TOKENS, ("eos_token_id",)),
    # some releases have one of these for each layer
    (OneOrMore(HEADS, gaps=True), ("num_key_value_heads", "num_kv_heads", "n_head_kv")),
    (
        OneOrMore(INNER, gaps=True),
        ("intermediate_size", "ffn_dim", "n_inner", "moe_intermediate_size"),
    ),
    (OneOrMore(HEAD_DIM, gaps=True), ("head_dim",)),
    (CONTEXT, ("max_position_embeddings", "n_positions", "original_max_position_embeddings")),
    (EXPERTS, ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")),
    (ROPE_BASE, ("rope_theta", "rotary_emb_base", "rope_base")),
    (Real(0.0, 1.0, closed=True), ("partial_rotary_factor", "rotary_pct")),
    (Real(0.0, 1e6), ("factor",)),
    (EPSILON, ("rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon", "norm_eps")),
    (Table(), ("rope_scaling", "rope_parameters", "text_config")),
)
GENERAL: Mapping[str, Field] = MappingProxyType(
    {name: Field(name, rule) for rule, names in ROWS for name in names}
)
COUNTED = ("layer", "expert", "head", "block")  # in the name of a count of modules
COUNT = Whole(-1, 1 << 16)
NUMBER = Whole(-(1 << 53), 1 << 53)  # of anything else; more is no number of a model
MOST_DEEP = 20


def check_config(raw: Values, family: str, path: Path, nbytes: int | None = None) -> None:
    """Checks every number of a config.json before anything is made of it.

    Args:
        family: a key of `families.FAMILIES`.
        nbytes: size of the weight files, which the config's sizes have to fit.

    Raises:
        BadCheckpoint: names the file, the field, its value and what is allowed.
    """
    layout = FIELDS.get(family)
    if layout is not None:
        layout(raw).check(raw, path, nbytes)
    else:
        check_general(raw, path, nbytes)


def check_general(raw: Values, path: Path, nbytes: int | None, deep: int = 0) -> None:
    """`check_config` for a model of transformers' own."""
    for name, value in raw.items():
        row = GENERAL.get(name)
        if row is not None and value is not None:
            row.check(value, path)
        elif isinstance(value, dict) and deep < MOST_DEEP:
            check_general(value, path, nbytes, deep + 1)
        elif isinstance(value, float) and value != value:
            Field(name, NUMBER).check(value, path)
        elif type(value) is int:
            counted = any(part in name for part in COUNTED)
            Field(name, COUNT if counted else NUMBER).check(value, path)
        if row is not None and isinstance(value, dict) and deep < MOST_DEEP:
            check_general(value, path, nbytes, deep + 1)
    _check_sizes(raw, path, nbytes)


def _check_sizes(raw: Values, path: Path, nbytes: int | None) -> None:
    heads, groups = raw.get("num_attention_heads"), raw.get("num_key_value_heads")
    if isinstance(heads, int) and isinstance(groups, int):
        found = divides("num_key_value_heads", "num_attention_heads")(raw)
        if found is not None:
            raise misfit(path, found[0], groups, found[1])
    layers, hidden = raw.get("num_hidden_layers"), raw.get("hidden_size")
    if nbytes is not None and isinstance(layers, int) and isinstance(hidden, int):
        # every layer has at least one vector of this size
        check_weights(layers * hidden, 1, nbytes, path)
