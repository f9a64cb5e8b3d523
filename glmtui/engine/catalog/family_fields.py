"""The table of fields: for each family, what of config.json the native engine computes with.

A field that changes the function is in a family's table with its valid values and with those that
are honoured. Others are left to transformers, where it has the same model, or refused. Imports no
torch.
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

CONFIG = Path("config.json")

# Bounds: several times the largest release, and small enough for a model without weights.
LAYERS = IntRange(1, 1024)
HEADS = IntRange(1, 1024)
HEAD_DIM = IntRange(2, 1024)
HIDDEN = IntRange(1, 1 << 17)
INNER = IntRange(1, 1 << 20)
VOCABULARY = IntRange(1, 1 << 22)
CONTEXT = IntRange(1, 1 << 23)  # tokens
POSITION_TABLE = 1 << 29  # numbers of a table of cosines: tokens x head_dim; 4M x 128 is released
EPSILON = FloatRange(0.0, 1.0, closed=True)
ROPE_BASE = FloatRange(0.0, 1e15)
RATIO = FloatRange(0.0, 1e6)
TOKEN = IntRange(-1, 1 << 22)
TOKENS = OneOrList(TOKEN, most=1000)


# ---- what must hold between fields


def must_divide(name: str, whole: str) -> Relation:
    """`name` must divide `whole`; a field without a value is left out."""

    def relation(values: ConfigValues) -> tuple[str, str] | None:
        part = values[name]
        if part is None or values[whole] % part == 0:
            return None
        text = _("a divisor of {other} ({value})")
        return name, text.format(other=whole, value=values[whole])

    return relation


def head_size_relations(
    hidden: str, heads: str, named: str | None, step: int, context: str
) -> tuple[Relation, Relation]:
    """A head's size is a multiple of `step`, and a table of positions of that size is bounded.

    Args:
        named: the field that has it; None, or null there, for hidden / heads.
    """

    def size(values: ConfigValues) -> int | None:
        said = values[named] if named else None
        if said is not None:
            return int(said)
        return None if values[hidden] % values[heads] else values[hidden] // values[heads]

    def divided(values: ConfigValues) -> tuple[str, str] | None:
        found = size(values)
        if found is None:
            text = _("a multiple of {other} ({value})")
            return hidden, text.format(other=heads, value=values[heads])
        if found % step == 0:
            return None
        if named and values[named] is not None:
            return named, _("a multiple of {step}").format(step=step)
        text = _("a multiple of {step} for each of {other} ({value})")
        return hidden, text.format(step=step, other=heads, value=values[heads])

    def bounded(values: ConfigValues) -> tuple[str, str] | None:
        most = POSITION_TABLE // (size(values) or 1)
        if values[context] <= most:
            return None
        return context, _("at most {most:,} with heads of this size").format(most=most)

    return divided, bounded


def pad_token_in_vocabulary(values: ConfigValues) -> tuple[str, str] | None:
    """ChatGLM-6B's image tokens, which its padding follows, are fewer than all tokens."""
    pad = values["pad_token_id"]
    if pad is None or pad < values["vocab_size"]:
        return None
    return "pad_token_id", _("below vocab_size ({value})").format(value=values["vocab_size"])


# ---- how many weights there are at least


def _gated(
    layers: int, hidden: int, inner: int, heads: int, kv_heads: int, size: int, rows: int
) -> int:
    attention = hidden * (2 * heads + 2 * kv_heads) * size
    return rows * hidden + layers * (attention + 3 * hidden * inner)


def _hub_weights(v: ConfigValues) -> int:
    heads, hidden = v["num_attention_heads"], v["hidden_size"]
    return _gated(
        v["num_hidden_layers"],
        hidden,
        v["intermediate_size"],
        heads,
        v["num_key_value_heads"] or heads,
        v["head_dim"] or hidden // heads,
        v["vocab_size"] * (1 if v["tie_word_embeddings"] else 2),
    )


def _original_weights(v: ConfigValues) -> int:
    return _gated(
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


# ---- rotary positions, which newer files have in a table of their own


def _with_rope(raw: ConfigValues) -> ConfigValues:
    """A config with what its table of rotary positions says beside the other fields.

    Read in transformers' order: the older table first, then what stands beside it.
    """
    tables = [raw.get(name) for name in ("rope_scaling", "rope_parameters")]
    rope: Mapping[str, Any] = next((t for t in tables if isinstance(t, dict) and t), {})
    kind = rope.get("rope_type", rope.get("type"))
    beside = ("rope_theta", "partial_rotary_factor")
    return {
        **raw,
        "rope_type": kind,
        **{name: rope.get(name, raw.get(name)) for name in beside},
    }


ROPE_REFUSAL = (
    N_("config.json asks for rotary positions of another kind ({value}), which is not built in."),
    N_("Pick a model with plain rotary positions."),
)


def _rope(turned: float) -> tuple[ConfigField, ...]:
    """The fields of rotary positions, for a family that turns such a part of each head."""
    return (
        ConfigField("rope_scaling", JsonObject(), None),
        ConfigField("rope_parameters", JsonObject(), None),
        ConfigField("rope_type", String(), "default", honoured=("default",), refusal=ROPE_REFUSAL),
        ConfigField("rope_theta", ROPE_BASE, 10_000.0),
        ConfigField(
            "partial_rotary_factor",
            FloatRange(0.0, 1.0),
            turned,
            honoured=(turned,),
            refusal=ROPE_REFUSAL,
        ),
    )


# ---- the families

QUANTIZATION_BIT = ConfigField(
    "quantization_bit", OneOf((0, 4, 8)), None
)  # read by `weights.Checkpoint`
PRE_SEQ_LEN = ConfigField(  # P-tuning, arXiv:2110.07602
    "pre_seq_len",
    IntRange(0, 1 << 20),
    None,
    honoured=(0,),
    refusal=(
        N_(
            "The checkpoint was made by P-tuning (pre_seq_len: {value}): it needs learned "
            "keys and values before every text, which is not built in."
        ),
        N_("Take a model that was fine-tuned as a whole, or one into which LoRA was merged."),
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
        ConfigField("hidden_act", String(), "silu", honoured=("silu", "swish")),
        ConfigField("attention_bias", Boolean(), False),
        ConfigField("mlp_bias", Boolean(), False, honoured=(False,)),
        ConfigField("tie_word_embeddings", Boolean(), False),
        ConfigField("eos_token_id", TOKENS, None),
        *_rope(1.0),
    ),
    # pretraining_tp only split a sum, and transformers has dropped it
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
    weights=_hub_weights,
    model_type="llama",
    view=_with_rope,
)
GLM4_STOP_IDS = [151329, 151336, 151338]  # of every release
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
        ConfigField("hidden_act", String(), "silu", honoured=("silu", "swish")),
        ConfigField("attention_bias", Boolean(), True),
        ConfigField("tie_word_embeddings", Boolean(), False, honoured=(False,)),
        ConfigField("eos_token_id", TOKENS, GLM4_STOP_IDS),
        *_rope(0.5),
    ),
    no_effect=(*NAME_FIELDS, *TRAINING_FIELDS, *OTHER_FIELDS, "pad_token_id", "bos_token_id"),
    relations=(
        *head_size_relations(
            "hidden_size", "num_attention_heads", "head_dim", 4, "max_position_embeddings"
        ),
        must_divide("num_key_value_heads", "num_attention_heads"),
    ),
    weights=_hub_weights,
    model_type="glm",
    view=_with_rope,
)
CHATGLM2_SCHEMA = ConfigSchema(  # ChatGLM2, ChatGLM3 and GLM_SCHEMA-4 as they were released
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
        ConfigField("rope_ratio", RATIO, 1),
        ConfigField("multi_query_attention", Boolean(), True, honoured=(True,)),
        ConfigField("rmsnorm", Boolean(), True, honoured=(True,)),
        ConfigField("post_layer_norm", Boolean(), True, honoured=(True,)),
        ConfigField("add_bias_linear", Boolean(), False, honoured=(False,)),
        ConfigField(
            "apply_residual_connection_post_layernorm", Boolean(), False, honoured=(False,)
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
        "num_hidden_layers",  # num_layers once more
        "vocab_size",  # padded_vocab_size once more
        "tie_word_embeddings",  # the released code never tied them, whatever it says
        "prefix_projection",  # of P-tuning
        "original_rope",  # read by the released code, and used nowhere
        # how numbers are rounded on the way, not what is computed
        "apply_query_key_layer_scaling",
        "attention_softmax_in_fp32",
        "fp32_residual_connection",
    ),
    relations=(
        *head_size_relations("hidden_size", "num_attention_heads", "kv_channels", 4, "seq_length"),
        must_divide("multi_query_group_num", "num_attention_heads"),
    ),
    weights=_original_weights,
)
CHATGLM_SCHEMA = ConfigSchema(  # ChatGLM-6B, original and Slim
    fields=(
        ConfigField("hidden_size", HIDDEN),
        ConfigField("inner_hidden_size", INNER),
        ConfigField("num_layers", LAYERS),
        ConfigField("num_attention_heads", HEADS),
        ConfigField("vocab_size", VOCABULARY),
        ConfigField("max_sequence_length", CONTEXT, 2048),
        ConfigField("layernorm_epsilon", EPSILON, 1e-5),
        ConfigField("position_encoding_2d", Boolean(), True, honoured=(True,)),
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
        "quantization_embeddings",  # seen in the weights themselves
        "prefix_projection",
        "tie_word_embeddings",  # always are
    ),
    relations=(
        *head_size_relations("hidden_size", "num_attention_heads", None, 4, "max_sequence_length"),
    ),
    of_files=(pad_token_in_vocabulary,),
    weights=_chatglm_weights,
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
    """The fields of a config, and their values, that a family of ours would compute wrongly.

    A field that is in no table of ours counts if transformers knows it for the same model, with
    another default. Of fields that nobody knows nothing can be said.
    """
    layout = SCHEMAS[family](raw)
    found = layout.others(raw)
    unknown = raw.keys() - layout.known
    if layout.model_type and unknown:
        theirs = transformers_fields(layout.model_type)
        for name in sorted(unknown & theirs.keys()):
            if raw[name] is not None and raw[name] != theirs[name]:
                found[name] = raw[name]
    return found


def read_fields(raw: ConfigValues, family: str, path: Path = CONFIG) -> dict[str, Any]:
    """The value of each field in a family's table, with its default where it is missing.

    Raises:
        BadCheckpoint: a field is missing, is not valid, or does not fit the others.
        UnsupportedModel: a field changes the function in a way that is not built in.
    """
    layout = SCHEMAS[family](raw)
    values = layout.read(raw, path)
    refusals = {row.name: row.refusal for row in layout.fields}
    for name, value in unsupported_fields(raw, family).items():
        said = refusals.get(name)
        if said is not None:
            raise UnsupportedModel(_(said[0]).format(value=format_value(value)), _(said[1]))
        raise UnsupportedModel(
            _("{path} says {field}: {value}, which this family does not compute with.").format(
                path=path, field=name, value=format_value(value)
            ),
            _("Only checkpoints of the released shape can be run."),
        )
    return values
