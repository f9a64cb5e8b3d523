"""Llama-shaped models, SmolLM2 (the embedded default) among them: Config, Model, Tokenizer, format.

Follows the tensor names and rotary layout of Hugging Face's ``LlamaForCausalLM``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from glmtui.chat import SamplingParams
from glmtui.engine.catalog.family_fields import read_fields
from glmtui.engine.checkpoint.checkpoint import WeightSource
from glmtui.engine.models.gqa_decoder import GqaDecoder, Shape
from glmtui.engine.nn.layers import RotaryTable, inverse_frequencies, rotate_halves
from glmtui.engine.tokenization.hf_tokenizer import TemplateFormat, TokenizerJson, hub_defaults
from glmtui.engine.tokenization.protocols import ChatFormat, Tokenizer


@dataclass(frozen=True, slots=True)
class Config(Shape):
    """What of config.json decides the shape of the model."""

    rope_base: float
    tied: bool


def load_config(raw: Mapping[str, Any]) -> Config:
    """The shape from a config.json.

    Raises:
        BadCheckpoint: a field is not valid, or is missing.
        UnsupportedModel: it asks for a variation that is not built in, such as scaled positions.
    """
    known = read_fields(raw, "llama")
    heads = known["num_attention_heads"]
    return Config(
        layers=known["num_hidden_layers"],
        hidden=known["hidden_size"],
        inner=known["intermediate_size"],
        heads=heads,
        kv_heads=known["num_key_value_heads"] or heads,
        head_dim=known["head_dim"] or known["hidden_size"] // heads,
        vocab=known["vocab_size"],
        context_length=known["max_position_embeddings"],
        rms_norm_eps=known["rms_norm_eps"],
        qkv_bias=known["attention_bias"],
        out_bias=known["attention_bias"],
        rope_base=known["rope_theta"],
        tied=known["tie_word_embeddings"],
    )


class Model(GqaDecoder):
    """Llama as the engine wants it."""

    rotate = staticmethod(rotate_halves)

    def prepare(self, length: int, dtype: torch.dtype, device: torch.device) -> None:
        inv_freq = inverse_frequencies(self.config.head_dim, self.config.rope_base)
        table = RotaryTable(inv_freq, length, dtype=dtype, device=device)
        table.cos = torch.cat((table.cos, table.cos), dim=-1)
        table.sin = torch.cat((-table.sin, table.sin), dim=-1)
        self.rotary = table


def sources(config: Config) -> dict[str, WeightSource]:
    """Which checkpoint tensors make each of our parameters, by name."""
    found = {
        "embedding.weight": WeightSource("model.embed_tokens.weight"),
        "norm.weight": WeightSource("model.norm.weight"),
        "head.weight": WeightSource(
            "model.embed_tokens.weight" if config.tied else "lm_head.weight"
        ),
    }
    kinds = ("weight", "bias") if config.qkv_bias else ("weight",)
    for i in range(config.layers):
        theirs, ours = f"model.layers.{i}", f"layers.{i}"
        found |= {
            f"{ours}.attention_norm.weight": WeightSource(f"{theirs}.input_layernorm.weight"),
            f"{ours}.mlp_norm.weight": WeightSource(f"{theirs}.post_attention_layernorm.weight"),
            f"{ours}.gate_up.weight": WeightSource(
                f"{theirs}.mlp.gate_proj.weight", f"{theirs}.mlp.up_proj.weight"
            ),
            f"{ours}.down.weight": WeightSource(f"{theirs}.mlp.down_proj.weight"),
        }
        for kind in kinds:
            found[f"{ours}.attention.qkv.{kind}"] = WeightSource(
                *(f"{theirs}.self_attn.{x}_proj.{kind}" for x in "qkv")
            )
            found[f"{ours}.attention.out.{kind}"] = WeightSource(
                f"{theirs}.self_attn.o_proj.{kind}"
            )
    return found


def load_tokenizer(folder: Path, raw: Mapping[str, Any]) -> Tokenizer | None:
    """The tokenizer of a folder; None where it has neither tokenizer.json nor tokenizer.model.

    It is loaded beside what comes next, which is the chat template.
    """
    return TokenizerJson.load(folder, wait=False) or TokenizerJson.load_pieces(folder)


def chat_format(tokenizer: Tokenizer, folder: Path, raw: Mapping[str, Any]) -> ChatFormat:
    """The folder's own chat template."""
    assert isinstance(tokenizer, TokenizerJson)
    return TemplateFormat.load(tokenizer, folder, raw)


def stop_ids(raw: Mapping[str, Any]) -> frozenset[int]:
    """Ids that end a reply, as config.json says."""
    eos = raw.get("eos_token_id")
    ids = eos if isinstance(eos, list) else [eos]
    return frozenset(i for i in ids if isinstance(i, int))


def defaults(folder: Path, raw: Mapping[str, Any]) -> SamplingParams:
    """The sampling parameters of the folder's generation_config.json."""
    return hub_defaults(folder)
