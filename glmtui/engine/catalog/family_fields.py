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
    Field,
    Flag,
    Layout,
    OneOf,
    OneOrMore,
    Real,
    Relation,
    Table,
    Text,
    Values,
    Whole,
    shown,
)
from glmtui.engine.catalog.transformers_fields import transformers_fields
from glmtui.errors import UnsupportedModel
from glmtui.language import N_, _

CONFIG = Path("config.json")

# Bounds: several times the largest release, and small enough for a model without weights.
LAYERS = Whole(1, 1024)
HEADS = Whole(1, 1024)
HEAD_DIM = Whole(2, 1024)
HIDDEN = Whole(1, 1 << 17)
INNER = Whole(1, 1 << 20)
VOCABULARY = Whole(1, 1 << 22)
CONTEXT = Whole(1, 1 << 23)  # tokens
POSITION_TABLE = 1 << 29  # numbers of a table of cosines: tokens x head_dim; 4M x 128 is released
EPSILON = Real(0.0, 1.0, closed=True)
ROPE_BASE = Real(0.0, 1e15)
RATIO = Real(0.0, 1e6)
TOKEN = Whole(-1, 1 << 22)
TOKENS = OneOrMore(TOKEN, most=1000)


# ---- what must hold between fields


def divides(name: str, whole: str) -> Relation:
    """`name` must divide `whole`; a field without a value is left out."""

    def relation(values: Values) -> tuple[str, str] | None:
        part = values[name]
        if part is None or values[whole] % part == 0:
            return None
        text = _("a divisor of {other} ({value})")
        return name, text.format(other=whole, value=values[whole])

    return relation


def head_size(
    hidden: str, heads: str, named: str | None, step: int, context: str
) -> tuple[Relation, Relation]:
    """A head's size is a multiple of `step`, and a table of positions of that size is bounded.

    Args:
        named: the field that has it; None, or null there, for hidden / heads.
    """

    def size(values: Values) -> int | None:
        said = values[named] if named else None
        if said is not None:
            return int(said)
        return None if values[hidden] % values[heads] else values[hidden] // values[heads]

    def divided(values: Values) -> tuple[str, str] | None:
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

    def bounded(values: Values) -> tuple[str, str] | None:
        most = POSITION_TABLE // (size(values) or 1)
        if values[context] <= most:
            return None
        return context, _("at most {most:,} with heads of this size").format(most=most)

    return divided, bounded


def image_rows_fit(values: Values) -> tuple[str, str] | None:
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


def _hub_weights(v: Values) -> int:
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


def _original_weights(v: Values) -> int:
    return _gated(
        v["num_layers"],
        v["hidden_size"],
        v["ffn_hidden_size"],
        v["num_attention_heads"],
        v["multi_query_group_num"],
        v["kv_channels"],
        2 * v["padded_vocab_size"],
    )


def _chatglm_weights(v: Values) -> int:
    hidden, inner = v["hidden_size"], v["inner_hidden_size"]
    layer: int = 4 * hidden**2 + 2 * hidden * inner
    rows: int = v["vocab_size"] * hidden
    count: int = rows + v["num_layers"] * layer
    return count


# ---- rotary positions, which newer files have in a table of their own


def _with_rope(raw: Values) -> Values:
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


ROTARY = (
    N_("config.json asks for rotary positions of another kind ({value}), which is not built in."),
    N_("Pick a model with plain rotary positions."),
)


def _rope(turned: float) -> tuple[Field, ...]:
    """The fields of rotary positions, for a family that turns such a part of each head."""
    return (
        Field("rope_scaling", Table(), None),
        Field("rope_parameters", Table(), None),
        Field("rope_type", Text(), "default", honoured=("default",), refusal=ROTARY),
        Field("rope_theta", ROPE_BASE, 10_000.0),
        Field("partial_rotary_factor", Real(0.0, 1.0), turned, honoured=(turned,), refusal=ROTARY),
    )


# ---- the families

PACKED = Field("quantization_bit", OneOf((0, 4, 8)), None)  # read by `weights.Checkpoint`
TUNED = Field(  # P-tuning, arXiv:2110.07602
    "pre_seq_len",
    Whole(0, 1 << 20),
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
NAMES = ("model_type", "architectures", "auto_map", "_name_or_path", "torch_dtype", "dtype")
TRAINING = ("attention_dropout", "hidden_dropout", "initializer_range", "bias_dropout_fusion")
OTHERS = ("use_cache", "transformers_version", "quantization_config", "classifier_dropout")

LLAMA = Layout(
    fields=(
        Field("hidden_size", HIDDEN),
        Field("intermediate_size", INNER),
        Field("num_hidden_layers", LAYERS),
        Field("num_attention_heads", HEADS),
        Field("num_key_value_heads", HEADS, None),
        Field("head_dim", HEAD_DIM, None),
        Field("vocab_size", VOCABULARY),
        Field("max_position_embeddings", CONTEXT, 2048),
        Field("rms_norm_eps", EPSILON, 1e-6),
        Field("hidden_act", Text(), "silu", honoured=("silu", "swish")),
        Field("attention_bias", Flag(), False),
        Field("mlp_bias", Flag(), False, honoured=(False,)),
        Field("tie_word_embeddings", Flag(), False),
        Field("eos_token_id", TOKENS, None),
        *_rope(1.0),
    ),
    # pretraining_tp only split a sum, and transformers has dropped it
    no_effect=(*NAMES, *TRAINING, *OTHERS, "pad_token_id", "bos_token_id", "pretraining_tp"),
    relations=(
        *head_size("hidden_size", "num_attention_heads", "head_dim", 2, "max_position_embeddings"),
        divides("num_key_value_heads", "num_attention_heads"),
    ),
    weights=_hub_weights,
    model_type="llama",
    view=_with_rope,
)
GLM4_ENDS = [151329, 151336, 151338]  # of every release
GLM = Layout(  # GLM-4 in Hugging Face's layout; defaults are those of transformers' GlmConfig
    fields=(
        Field("hidden_size", HIDDEN),
        Field("intermediate_size", INNER),
        Field("num_hidden_layers", LAYERS),
        Field("num_attention_heads", HEADS),
        Field("num_key_value_heads", HEADS, 2),
        Field("head_dim", HEAD_DIM, 128, null=None),
        Field("vocab_size", VOCABULARY),
        Field("max_position_embeddings", CONTEXT, 131_072),
        Field("rms_norm_eps", EPSILON, 1.5625e-7),
        Field("hidden_act", Text(), "silu", honoured=("silu", "swish")),
        Field("attention_bias", Flag(), True),
        Field("tie_word_embeddings", Flag(), False, honoured=(False,)),
        Field("eos_token_id", TOKENS, GLM4_ENDS),
        *_rope(0.5),
    ),
    no_effect=(*NAMES, *TRAINING, *OTHERS, "pad_token_id", "bos_token_id"),
    relations=(
        *head_size("hidden_size", "num_attention_heads", "head_dim", 4, "max_position_embeddings"),
        divides("num_key_value_heads", "num_attention_heads"),
    ),
    weights=_hub_weights,
    model_type="glm",
    view=_with_rope,
)
ORIGINAL = Layout(  # ChatGLM2, ChatGLM3 and GLM-4 as they were released
    fields=(
        Field("hidden_size", HIDDEN),
        Field("ffn_hidden_size", INNER),
        Field("num_layers", LAYERS),
        Field("num_attention_heads", HEADS),
        Field("multi_query_group_num", HEADS),
        Field("kv_channels", HEAD_DIM),
        Field("padded_vocab_size", VOCABULARY),
        Field("seq_length", CONTEXT),
        Field("layernorm_epsilon", EPSILON),
        Field("add_qkv_bias", Flag()),
        Field("rope_ratio", RATIO, 1),
        Field("multi_query_attention", Flag(), True, honoured=(True,)),
        Field("rmsnorm", Flag(), True, honoured=(True,)),
        Field("post_layer_norm", Flag(), True, honoured=(True,)),
        Field("add_bias_linear", Flag(), False, honoured=(False,)),
        Field("apply_residual_connection_post_layernorm", Flag(), False, honoured=(False,)),
        Field("eos_token_id", TOKENS),
        PACKED,
        TUNED,
    ),
    no_effect=(
        *NAMES,
        *TRAINING,
        *OTHERS,
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
        *head_size("hidden_size", "num_attention_heads", "kv_channels", 4, "seq_length"),
        divides("multi_query_group_num", "num_attention_heads"),
    ),
    weights=_original_weights,
)
CHATGLM = Layout(  # ChatGLM-6B, original and Slim
    fields=(
        Field("hidden_size", HIDDEN),
        Field("inner_hidden_size", INNER),
        Field("num_layers", LAYERS),
        Field("num_attention_heads", HEADS),
        Field("vocab_size", VOCABULARY),
        Field("max_sequence_length", CONTEXT, 2048),
        Field("layernorm_epsilon", EPSILON, 1e-5),
        Field("position_encoding_2d", Flag(), True, honoured=(True,)),
        Field("bos_token_id", TOKEN),
        Field("eos_token_id", TOKEN),
        Field("pad_token_id", TOKEN, None),
        Field("mask_token_id", TOKEN, None),
        Field("gmask_token_id", TOKEN, None),
        PACKED,
        TUNED,
    ),
    no_effect=(
        *NAMES,
        *TRAINING,
        *OTHERS,
        "quantization_embeddings",  # seen in the weights themselves
        "prefix_projection",
        "tie_word_embeddings",  # always are
    ),
    relations=(*head_size("hidden_size", "num_attention_heads", None, 4, "max_sequence_length"),),
    of_files=(image_rows_fit,),
    weights=_chatglm_weights,
)
FIELDS: Mapping[str, Callable[[Values], Layout]] = MappingProxyType(
    {
        "llama": lambda raw: LLAMA,
        "chatglm": lambda raw: CHATGLM,
        "glm4": lambda raw: ORIGINAL if "padded_vocab_size" in raw else GLM,
        "chatglm3": lambda raw: ORIGINAL,
        "chatglm2": lambda raw: ORIGINAL,
    }
)


def not_honoured(raw: Values, family: str) -> dict[str, Any]:
    """The fields of a config, and their values, that a family of ours would compute wrongly.

    A field that is in no table of ours counts if transformers knows it for the same model, with
    another default. Of fields that nobody knows nothing can be said.
    """
    layout = FIELDS[family](raw)
    found = layout.others(raw)
    unknown = raw.keys() - layout.known
    if layout.model_type and unknown:
        theirs = transformers_fields(layout.model_type)
        for name in sorted(unknown & theirs.keys()):
            if raw[name] is not None and raw[name] != theirs[name]:
                found[name] = raw[name]
    return found


def read_fields(raw: Values, family: str, path: Path = CONFIG) -> dict[str, Any]:
    """The value of each field in a family's table, with its default where it is missing.

    Raises:
        BadCheckpoint: a field is missing, is not valid, or does not fit the others.
        UnsupportedModel: a field changes the function in a way that is not built in.
    """
    layout = FIELDS[family](raw)
    values = layout.read(raw, path)
    refusals = {row.name: row.refusal for row in layout.fields}
    for name, value in not_honoured(raw, family).items():
        said = refusals.get(name)
        if said is not None:
            raise UnsupportedModel(_(said[0]).format(value=shown(value)), _(said[1]))
        raise UnsupportedModel(
            _("{path} says {field}: {value}, which this family does not compute with.").format(
                path=path, field=name, value=shown(value)
            ),
            _("Only checkpoints of the released shape can be run."),
        )
    return values
