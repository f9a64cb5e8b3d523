"""SHAPES: models that can be measured with random weights, and the memory that they need."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from glmtui.engine.bench.bench_engine import BenchTarget
from glmtui.engine.catalog.known_models import known_model
from glmtui.engine.catalog.quants import QUANTS
from glmtui.engine.hardware.machine import Snapshot, fits
from glmtui.engine.model_info import LoadOptions
from glmtui.errors import OutOfMemory
from glmtui.language import _

SCRATCH_BYTES = 5e8  # per engine, for libraries and activations; a rough upper limit


@dataclass(frozen=True, slots=True)
class Shape:
    """A released model.

    Attributes:
        known: its name in `known_models.MODELS`, which has its sizes.
        config: the keys of its config.json that define its shape.
    """

    family: str
    known: str
    config: Mapping[str, Any]


_CHATGLM2 = {
    "model_type": "chatglm",
    "num_layers": 28,
    "hidden_size": 4096,
    "ffn_hidden_size": 13696,
    "num_attention_heads": 32,
    "multi_query_group_num": 2,
    "kv_channels": 128,
    "padded_vocab_size": 65024,
    "seq_length": 32768,
    "layernorm_epsilon": 1e-5,
    "add_qkv_bias": True,
    "eos_token_id": 2,
}
_GLM4 = {
    "num_layers": 40,
    "padded_vocab_size": 151552,
    "seq_length": 131072,
    "layernorm_epsilon": 1.5625e-7,
    "rope_ratio": 500,
    "eos_token_id": [151329, 151336, 151338],
}
_CHATGLM = {
    "model_type": "chatglm",
    "num_layers": 28,
    "hidden_size": 4096,
    "inner_hidden_size": 16384,
    "num_attention_heads": 32,
    "vocab_size": 130528,
    "max_sequence_length": 2048,
    "layernorm_epsilon": 1e-5,
    "pad_token_id": 3,
    "bos_token_id": 130004,
    "eos_token_id": 130005,
    "mask_token_id": 130000,
    "gmask_token_id": 130001,
}
_SMOLLM2 = {
    "model_type": "llama",
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "head_dim": 64,
    "rms_norm_eps": 1e-5,
    "rope_theta": 1e5,
    "max_position_embeddings": 8192,
    "vocab_size": 49152,
    "tie_word_embeddings": True,
    "eos_token_id": 2,
}
SHAPES: Mapping[str, Shape] = MappingProxyType(
    {
        "chatglm-6b": Shape("chatglm", "silver/chatglm-6b-slim", _CHATGLM),
        "chatglm2-6b": Shape("chatglm2", "THUDM/chatglm2-6b", _CHATGLM2),
        "chatglm3-6b": Shape("chatglm3", "THUDM/chatglm3-6b", _CHATGLM2 | {"seq_length": 8192}),
        "glm-4-9b": Shape("glm4", "THUDM/glm-4-9b-chat", _CHATGLM2 | _GLM4),
        "smollm2": Shape("llama", "smollm2", _SMOLLM2),
    }
)


def check_memory(targets: tuple[BenchTarget, ...], machine: Snapshot) -> None:
    """Checks that the random weights of all engines fit into memory at the same time.

    Raises:
        OutOfMemory: they certainly do not fit.
    """
    needed = sum(map(_needed_bytes, targets))
    options = targets[0].options
    if options.device == "cpu":
        machine = replace(machine, gpus=())
    found = fits(needed, machine)
    if found.fits is False:
        names = " and ".join(target.engine for target in targets)
        raise OutOfMemory(
            _("{model} in {names} {what}.").format(
                model=targets[0].synthetic, names=names, what=found.text
            ),
            _("Use -s load.quant=int4 or a shorter load.context_length."),
        )


def _needed_bytes(target: BenchTarget) -> int:
    model = known_model(SHAPES[target.synthetic].known)
    assert model is not None, "every shape is that of a known model"
    asked = target.options.quant if target.engine == "glmtui" else None
    quant = asked if asked in QUANTS else None
    factor = 2 if target.options.dtype == "float32" and quant is None else 1  # known for 16 bits
    return factor * model.memory_nbytes(quant, target.context_length) + int(SCRATCH_BYTES)


def synthetic_options(options: LoadOptions) -> LoadOptions:
    """The options with a quantisation of "auto" replaced by None, as the released weights are."""
    return replace(options, quant=None) if options.quant == "auto" else options
