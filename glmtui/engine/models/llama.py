"""Llama and models of its shape, such as SmolLM2, the default model.

Tensor names and rotary layout are those of Hugging Face's ``LlamaForCausalLM``.
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
from glmtui.engine.models.gqa_decoder import GqaConfig, GqaDecoder
from glmtui.engine.nn.layers import RotaryTable, inverse_frequencies, rotate_halves
from glmtui.engine.tokenization.generation_config import eos_ids, read_sampling_defaults
from glmtui.engine.tokenization.hf_tokenizer import HFTokenizer
from glmtui.engine.tokenization.protocols import ChatFormat, Tokenizer
from glmtui.engine.tokenization.template_format import TemplateFormat


@dataclass(frozen=True, slots=True)
class Config(GqaConfig):
    """The shape of the model.

    Attributes:
        tied: whether the head is the embedding.
    """

    rope_base: float
    tied: bool


def load_config(raw: Mapping[str, Any]) -> Config:
    """From a config.json.

    Raises:
        BadCheckpoint: a field is invalid or missing.
        UnsupportedModel: it needs a variation that is not implemented, such as scaled positions.
    """
    fields = read_fields(raw, "llama")
    heads = fields["num_attention_heads"]
    return Config(
        layers=fields["num_hidden_layers"],
        hidden=fields["hidden_size"],
        inner=fields["intermediate_size"],
        heads=heads,
        kv_heads=fields["num_key_value_heads"] or heads,
        head_dim=fields["head_dim"] or fields["hidden_size"] // heads,
        vocab=fields["vocab_size"],
        context_length=fields["max_position_embeddings"],
        rms_norm_eps=fields["rms_norm_eps"],
        qkv_bias=fields["attention_bias"],
        out_bias=fields["attention_bias"],
        rope_base=fields["rope_theta"],
        tied=fields["tie_word_embeddings"],
    )


class Model(GqaDecoder):
    rotate = staticmethod(rotate_halves)

    def prepare(self, length: int, dtype: torch.dtype, device: torch.device) -> None:
        inv_freq = inverse_frequencies(self.config.head_dim, self.config.rope_base)
        table = RotaryTable(inv_freq, length, dtype=dtype, device=device)
        table.cos = torch.cat((table.cos, table.cos), dim=-1)
        table.sin = torch.cat((-table.sin, table.sin), dim=-1)
        self.rotary = table


def weight_sources(config: Config) -> dict[str, WeightSource]:
    """The checkpoint tensors of each parameter, by the parameter's name."""
    sources = {
        "embedding.weight": WeightSource("model.embed_tokens.weight"),
        "norm.weight": WeightSource("model.norm.weight"),
        "head.weight": WeightSource(
            "model.embed_tokens.weight" if config.tied else "lm_head.weight"
        ),
    }
    kinds = ("weight", "bias") if config.qkv_bias else ("weight",)
    for i in range(config.layers):
        source, target = f"model.layers.{i}", f"layers.{i}"
        sources |= {
            f"{target}.attention_norm.weight": WeightSource(f"{source}.input_layernorm.weight"),
            f"{target}.mlp_norm.weight": WeightSource(f"{source}.post_attention_layernorm.weight"),
            f"{target}.gate_up.weight": WeightSource(
                f"{source}.mlp.gate_proj.weight", f"{source}.mlp.up_proj.weight"
            ),
            f"{target}.down.weight": WeightSource(f"{source}.mlp.down_proj.weight"),
        }
        for kind in kinds:
            sources[f"{target}.attention.qkv.{kind}"] = WeightSource(
                *(f"{source}.self_attn.{x}_proj.{kind}" for x in "qkv")
            )
            sources[f"{target}.attention.out.{kind}"] = WeightSource(
                f"{source}.self_attn.o_proj.{kind}"
            )
    return sources


def load_tokenizer(folder: Path, raw: Mapping[str, Any]) -> Tokenizer | None:
    """The tokenizer of a folder; None without tokenizer.json and tokenizer.model.

    A tokenizer.json loads in the background, while the chat template is read. Raises BadCheckpoint.
    """
    return HFTokenizer.load(folder, wait=False) or HFTokenizer.load_sentencepiece(folder)


def chat_format(tokenizer: Tokenizer, folder: Path, raw: Mapping[str, Any]) -> ChatFormat:
    """The chat template of the folder. Raises UnsupportedModel, BadCheckpoint."""
    assert isinstance(tokenizer, HFTokenizer)
    return TemplateFormat.load(tokenizer, folder, raw)


def stop_ids(raw: Mapping[str, Any]) -> frozenset[int]:
    """Ids that end a reply, from config.json."""
    return eos_ids(raw)


def sampling_defaults(folder: Path, raw: Mapping[str, Any]) -> SamplingParams:
    """Those that the folder's generation_config.json recommends."""
    return read_sampling_defaults(folder)
