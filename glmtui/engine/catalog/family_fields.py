"""SCHEMAS: for each family, the fields of config.json with their valid and supported values.

A config with a value that the native engine does not support is run by transformers if it has the
same model, and refused otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from glmtui.engine.catalog.config_rules import (
    Boolean,
    ConfigField,
    ConfigSchema,
    ConfigValues,
    FloatRange,
    IntRange,
    JsonObject,
    OneOf,
    OneOrList,
    Relation,
    String,
    format_value,
)
from glmtui.engine.catalog.transformers_fields import transformers_fields
from glmtui.errors import UnsupportedModel
from glmtui.language import N_, _

# Ranges of sizes: several times the largest released model, and small enough that a model of these
# sizes can be built without weights.
LAYERS = IntRange(1, 1024)
HEADS = IntRange(1, 1024)
HEAD_DIM = IntRange(2, 1024)
HIDDEN = IntRange(1, 1 << 17)
INNER = IntRange(1, 1 << 20)
VOCABULARY = IntRange(1, 1 << 22)
CONTEXT = IntRange(1, 1 << 23)  # tokens
# Most entries of a table of rotary positions: tokens * head_dim. The largest release has 4M * 128.
MAX_POSITION_ENTRIES = 1 << 29
EPSILON = FloatRange(0.0, 1.0, closed=True)
ROPE_BASE = FloatRange(0.0, 1e15)
ROPE_RATIO = FloatRange(0.0, 1e6)
TOKEN = IntRange(-1, 1 << 22)
TOKENS = OneOrList(TOKEN, max_length=1000)


# ---- relations between fields


def must_divide(name: str, whole: str) -> Relation:
    """The relation that `name`, if it has a value, divides `whole`."""

    def relation(values: ConfigValues) -> tuple[str, str] | None:
        part = values[name]
        if part is None or values[whole] % part == 0:
            return None
        text = _("a divisor of {other} ({value})")
        return name, text.format(other=whole, value=values[whole])

    return relation


def head_size_relations(
    hidden: str, heads: str, head_dim: str | None, multiple: int, context: str
) -> tuple[Relation, Relation]:
    """The relations that a head's size is a multiple of `multiple`, and its position table bounded.

    Args:
        hidden, heads, context: names of the fields with these sizes.
        head_dim: name of the field with the head's size; if it is None or has no value, the size
            is hidden / heads.
    """

    def size(values: ConfigValues) -> int | None:
        declared = values[head_dim] if head_dim else None
        if declared is not None:
            return int(declared)
        return None if values[hidden] % values[heads] else values[hidden] // values[heads]

    def is_multiple(values: ConfigValues) -> tuple[str, str] | None:
        found = size(values)
        if found is None:
            text = _("a multiple of {other} ({value})")
            return hidden, text.format(other=heads, value=values[heads])
        if found % multiple == 0:
            return None
        if head_dim and values[head_dim] is not None:
            return head_dim, _("a multiple of {number}").format(number=multiple)
        text = _("a multiple of {number} for each of {other} ({value})")
        return hidden, text.format(number=multiple, other=heads, value=values[heads])

    def is_bounded(values: ConfigValues) -> tuple[str, str] | None:
        maximum = MAX_POSITION_ENTRIES // (size(values) or 1)
        if values[context] <= maximum:
            return None
        return context, _("at most {maximum:,} with heads of this size").format(maximum=maximum)

    return is_multiple, is_bounded


def pad_token_in_vocabulary(values: ConfigValues) -> tuple[str, str] | None:
    """ChatGLM-6B's image tokens come first in its vocabulary; the padding token follows them."""
    pad = values["pad_token_id"]
    if pad is None or pad < values["vocab_size"]:
        return None
    return "pad_token_id", _("less than vocab_size ({value})").format(value=values["vocab_size"])


# ---- the least number of weights


def _gated_decoder_weights(
    layers: int, hidden: int, inner: int, heads: int, kv_heads: int, head_dim: int, rows: int
) -> int:
    """Weights of a decoder with gated MLPs; `rows` are those of embedding and head together."""
    attention = hidden * (2 * heads + 2 * kv_heads) * head_dim
    return rows * hidden + layers * (attention + 3 * hidden * inner)


def _llama_weights(v: ConfigValues) -> int:
    heads, hidden = v["num_attention_heads"], v["hidden_size"]
    return _gated_decoder_weights(
        v["num_hidden_layers"],
        hidden,
        v["intermediate_size"],
        heads,
        v["num_key_value_heads"] or heads,
        v["head_dim"] or hidden // heads,
        v["vocab_size"] * (1 if v["tie_word_embeddings"] else 2),
    )


def _chatglm2_weights(v: ConfigValues) -> int:
    return _gated_decoder_weights(
        v["num_layers"],
        v["hidden_size"],
        v["ffn_hidden_size"],
        v["num_attention_heads"],
        v["multi_query_group_num"],
        v["kv_channels"],
        2 * v["padded_vocab_size"],
    )


def _chatglm_weights(v: ConfigValues) -> int:
    hidden, inner = v["hidden_size"], v["inner_hidden_size"]
    layer: int = 4 * hidden**2 + 2 * hidden * inner
    rows: int = v["vocab_size"] * hidden
    count: int = rows + v["num_layers"] * layer
    return count


# ---- rotary position embeddings (RoPE)


def _flatten_rope(raw: ConfigValues) -> ConfigValues:
    """A config with the entries of its RoPE object among the other fields.

    As in transformers, the object's entries take precedence over top-level fields, and the older
    name of the object over the newer one.
    """
    tables = [raw.get(name) for name in ("rope_scaling", "rope_parameters")]
    rope: Mapping[str, Any] = next((t for t in tables if isinstance(t, dict) and t), {})
    return {
        **raw,
        "rope_type": rope.get("rope_type", rope.get("type")),
        **{name: rope.get(name, raw.get(name)) for name in ("rope_theta", "partial_rotary_factor")},
    }


ROPE_REFUSAL = (
    N_("config.json asks for an unsupported kind of rotary position embedding: {value}."),
    N_("Use a model with the default rotary position embedding."),
)


def _rope_fields(rotary_fraction: float) -> tuple[ConfigField, ...]:
    """The fields of RoPE, for a family that rotates this fraction of each head."""
    return (
        ConfigField("rope_scaling", JsonObject(), None),
        ConfigField("rope_parameters", JsonObject(), None),
        ConfigField("rope_type", String(), "default", supported=("default",), refusal=ROPE_REFUSAL),
        ConfigField("rope_theta", ROPE_BASE, 10_000.0),
        ConfigField(
            "partial_rotary_factor",
            FloatRange(0.0, 1.0),
            rotary_fraction,
            supported=(rotary_fraction,),
            refusal=ROPE_REFUSAL,
        ),
    )


# ---- the schemas

QUANTIZATION_BIT = ConfigField("quantization_bit", OneOf((0, 4, 8)), None)  # read by `Checkpoint`
PRE_SEQ_LEN = ConfigField(  # P-tuning, arXiv:2110.07602
    "pre_seq_len",
    IntRange(0, 1 << 20),
    None,
    supported=(0,),
    refusal=(
        N_(
            "The checkpoint was made by P-tuning (pre_seq_len: {value}). Its learned prefix is "
            "not supported."
        ),
        N_("Use a fully fine-tuned model, or one with LoRA merged into the weights."),
    ),
)
NAME_FIELDS = ("model_type", "architectures", "auto_map", "_name_or_path", "torch_dtype", "dtype")
TRAINING_FIELDS = (
    "attention_dropout",
    "hidden_dropout",
    "initializer_range",
    "bias_dropout_fusion",
)
OTHER_FIELDS = ("use_cache", "transformers_version", "quantization_config", "classifier_dropout")

LLAMA_SCHEMA = ConfigSchema(
    fields=(
        ConfigField("hidden_size", HIDDEN),
        ConfigField("intermediate_size", INNER),
        ConfigField("num_hidden_layers", LAYERS),
        ConfigField("num_attention_heads", HEADS),
        ConfigField("num_key_value_heads", HEADS, None),
        ConfigField("head_dim", HEAD_DIM, None),
        ConfigField("vocab_size", VOCABULARY),
        ConfigField("max_position_embeddings", CONTEXT, 2048),
        ConfigField("rms_norm_eps", EPSILON, 1e-6),
        ConfigField("hidden_act", String(), "silu", supported=("silu", "swish")),
        ConfigField("attention_bias", Boolean(), False),
        ConfigField("mlp_bias", Boolean(), False, supported=(False,)),
        ConfigField("tie_word_embeddings", Boolean(), False),
        ConfigField("eos_token_id", TOKENS, None),
        *_rope_fields(1.0),
    ),
    # pretraining_tp only splits a matrix product; current transformers ignores it.
    no_effect=(
        *NAME_FIELDS,
        *TRAINING_FIELDS,
        *OTHER_FIELDS,
        "pad_token_id",
        "bos_token_id",
        "pretraining_tp",
    ),
    relations=(
        *head_size_relations(
            "hidden_size", "num_attention_heads", "head_dim", 2, "max_position_embeddings"
        ),
        must_divide("num_key_value_heads", "num_attention_heads"),
    ),
    min_weights=_llama_weights,
    model_type="llama",
    flatten=_flatten_rope,
)
GLM4_STOP_IDS = [151329, 151336, 151338]  # the same in every release
# GLM-4 in Hugging Face's layout. The defaults are those of transformers' GlmConfig.
GLM_SCHEMA = ConfigSchema(
    fields=(
        ConfigField("hidden_size", HIDDEN),
        ConfigField("intermediate_size", INNER),
        ConfigField("num_hidden_layers", LAYERS),
        ConfigField("num_attention_heads", HEADS),
        ConfigField("num_key_value_heads", HEADS, 2),
        ConfigField("head_dim", HEAD_DIM, 128, null=None),
        ConfigField("vocab_size", VOCABULARY),
        ConfigField("max_position_embeddings", CONTEXT, 131_072),
        ConfigField("rms_norm_eps", EPSILON, 1.5625e-7),
        ConfigField("hidden_act", String(), "silu", supported=("silu", "swish")),
        ConfigField("attention_bias", Boolean(), True),
        ConfigField("tie_word_embeddings", Boolean(), False, supported=(False,)),
        ConfigField("eos_token_id", TOKENS, GLM4_STOP_IDS),
        *_rope_fields(0.5),
    ),
    no_effect=(*NAME_FIELDS, *TRAINING_FIELDS, *OTHER_FIELDS, "pad_token_id", "bos_token_id"),
    relations=(
        *head_size_relations(
            "hidden_size", "num_attention_heads", "head_dim", 4, "max_position_embeddings"
        ),
        must_divide("num_key_value_heads", "num_attention_heads"),
    ),
    min_weights=_llama_weights,
    model_type="glm",
    flatten=_flatten_rope,
)
# The original layout of ChatGLM2, ChatGLM3 and GLM-4.
CHATGLM2_SCHEMA = ConfigSchema(
    fields=(
        ConfigField("hidden_size", HIDDEN),
        ConfigField("ffn_hidden_size", INNER),
        ConfigField("num_layers", LAYERS),
        ConfigField("num_attention_heads", HEADS),
        ConfigField("multi_query_group_num", HEADS),
        ConfigField("kv_channels", HEAD_DIM),
        ConfigField("padded_vocab_size", VOCABULARY),
        ConfigField("seq_length", CONTEXT),
        ConfigField("layernorm_epsilon", EPSILON),
        ConfigField("add_qkv_bias", Boolean()),
        ConfigField("rope_ratio", ROPE_RATIO, 1),
        ConfigField("multi_query_attention", Boolean(), True, supported=(True,)),
        ConfigField("rmsnorm", Boolean(), True, supported=(True,)),
        ConfigField("post_layer_norm", Boolean(), True, supported=(True,)),
        ConfigField("add_bias_linear", Boolean(), False, supported=(False,)),
        ConfigField(
            "apply_residual_connection_post_layernorm", Boolean(), False, supported=(False,)
        ),
        ConfigField("eos_token_id", TOKENS),
        QUANTIZATION_BIT,
        PRE_SEQ_LEN,
    ),
    no_effect=(
        *NAME_FIELDS,
        *TRAINING_FIELDS,
        *OTHER_FIELDS,
        "pad_token_id",
        "bos_token_id",
        "num_hidden_layers",  # repeats num_layers
        "vocab_size",  # repeats padded_vocab_size
        "tie_word_embeddings",  # the original code ignores it and never ties them
        "prefix_projection",  # part of P-tuning
        "original_rope",  # the original code reads it and does not use it
        # These change rounding only, not what is computed.
        "apply_query_key_layer_scaling",
        "attention_softmax_in_fp32",
        "fp32_residual_connection",
    ),
    relations=(
        *head_size_relations("hidden_size", "num_attention_heads", "kv_channels", 4, "seq_length"),
        must_divide("multi_query_group_num", "num_attention_heads"),
    ),
    min_weights=_chatglm2_weights,
)
# ChatGLM-6B, original and Slim.
CHATGLM_SCHEMA = ConfigSchema(
    fields=(
        ConfigField("hidden_size", HIDDEN),
        ConfigField("inner_hidden_size", INNER),
        ConfigField("num_layers", LAYERS),
        ConfigField("num_attention_heads", HEADS),
        ConfigField("vocab_size", VOCABULARY),
        ConfigField("max_sequence_length", CONTEXT, 2048),
        ConfigField("layernorm_epsilon", EPSILON, 1e-5),
        ConfigField("position_encoding_2d", Boolean(), True, supported=(True,)),
        ConfigField("bos_token_id", TOKEN),
        ConfigField("eos_token_id", TOKEN),
        ConfigField("pad_token_id", TOKEN, None),
        ConfigField("mask_token_id", TOKEN, None),
        ConfigField("gmask_token_id", TOKEN, None),
        QUANTIZATION_BIT,
        PRE_SEQ_LEN,
    ),
    no_effect=(
        *NAME_FIELDS,
        *TRAINING_FIELDS,
        *OTHER_FIELDS,
        "quantization_embeddings",  # the weights themselves show it
        "prefix_projection",
        "tie_word_embeddings",  # always tied
    ),
    relations=(
        *head_size_relations("hidden_size", "num_attention_heads", None, 4, "max_sequence_length"),
    ),
    file_relations=(pad_token_in_vocabulary,),
    min_weights=_chatglm_weights,
)
SCHEMAS: Mapping[str, Callable[[ConfigValues], ConfigSchema]] = MappingProxyType(
    {
        "llama": lambda raw: LLAMA_SCHEMA,
        "chatglm": lambda raw: CHATGLM_SCHEMA,
        "glm4": lambda raw: CHATGLM2_SCHEMA if "padded_vocab_size" in raw else GLM_SCHEMA,
        "chatglm3": lambda raw: CHATGLM2_SCHEMA,
        "chatglm2": lambda raw: CHATGLM2_SCHEMA,
    }
)


def unsupported_fields(raw: ConfigValues, family: str) -> dict[str, Any]:
    """The fields of a config, with their values, that the family's native model does not support.

    A field that the schema does not list counts as unsupported if transformers has it for the same
    model with another default. Fields that transformers does not have either are ignored.
    """
    schema = SCHEMAS[family](raw)
    found = schema.unsupported(raw)
    unknown = raw.keys() - schema.known_names
    if schema.model_type and unknown:
        defaults = transformers_fields(schema.model_type)
        for name in sorted(unknown & defaults.keys()):
            if raw[name] is not None and raw[name] != defaults[name]:
                found[name] = raw[name]
    return found


def read_fields(raw: ConfigValues, family: str, path: Path = Path("config.json")) -> dict[str, Any]:
    """The value of each field of a family's schema, or its default if it is missing.

    Raises:
        BadCheckpoint: a field is missing, not valid, or does not fit the others.
        UnsupportedModel: a value is valid, but the native model does not support it.
    """
    schema = SCHEMAS[family](raw)
    values = schema.read(raw, path)
    refusals = {row.name: row.refusal for row in schema.fields}
    for name, value in unsupported_fields(raw, family).items():
        refusal = refusals.get(name)
        if refusal is not None:
            message, hint = refusal
            raise UnsupportedModel(_(message).format(value=format_value(value)), _(hint))
        raise UnsupportedModel(
            _("{path}: glmtui does not support {field}: {value} for this model family.").format(
                path=path, field=name, value=format_value(value)
            ),
            _("Only the architecture of the official releases is supported."),
        )
    return values
