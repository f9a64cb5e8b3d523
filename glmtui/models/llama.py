"""Llama-shaped models, SmolLM2 (the embedded default) among them: Config, Model, Tokenizer, format.

Follows the tensor names and rotary layout of Hugging Face's ``LlamaForCausalLM``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from glmtui.chat import SamplingParams
from glmtui.engine.api import ChatFormat, Tokenizer
from glmtui.engine.cache import KVCache
from glmtui.engine.decoder import Decoder
from glmtui.engine.layers import (
    Embedding,
    RMSNorm,
    RotaryTable,
    Slot,
    causal_attention,
    causal_mask,
    inverse_frequencies,
    rotate_halves,
    swiglu,
)
from glmtui.engine.weights import Rows
from glmtui.errors import UnsupportedModel
from glmtui.models.hub_format import TemplateFormat, TokenizerJson, hub_defaults, refuse_packed


@dataclass(frozen=True, slots=True)
class Config:
    """What of config.json decides the shape of the model."""

    layers: int
    hidden: int
    inner: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    context_length: int
    rms_norm_eps: float
    rope_base: float
    attention_bias: bool
    tied: bool


def load_config(raw: Mapping[str, Any]) -> Config:
    """The shape from a config.json.

    Raises:
        UnsupportedModel: rotary positions are scaled, or weights packed by another program.
    """
    refuse_packed(raw)
    rope = raw.get("rope_parameters") or raw.get("rope_scaling") or {}
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind != "default":
        raise UnsupportedModel(
            f"This model scales its rotary positions in the way {kind!r}, which is not built in.",
            "Pick a model with plain rotary positions.",
        )
    heads = raw["num_attention_heads"]
    return Config(
        layers=raw["num_hidden_layers"],
        hidden=raw["hidden_size"],
        inner=raw["intermediate_size"],
        heads=heads,
        kv_heads=raw.get("num_key_value_heads") or heads,
        head_dim=raw.get("head_dim") or raw["hidden_size"] // heads,
        vocab=raw["vocab_size"],
        context_length=raw.get("max_position_embeddings", 2048),
        rms_norm_eps=raw.get("rms_norm_eps", 1e-6),
        rope_base=rope.get("rope_theta") or raw.get("rope_theta") or 10000.0,
        attention_bias=raw.get("attention_bias", False),
        tied=raw.get("tie_word_embeddings", False),
    )


class Attention(nn.Module):
    def __init__(self, config: Config, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.heads, self.kv_heads = config.heads, config.kv_heads
        self.head_dim = config.head_dim
        self.qkv = Slot(
            config.hidden,
            (config.heads + 2 * config.kv_heads) * config.head_dim,
            bias=config.attention_bias,
        )
        self.out = Slot(config.heads * config.head_dim, config.hidden, bias=config.attention_bias)

    def forward(
        self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor | None, cache: KVCache | None
    ) -> Tensor:
        batch, length, _ = x.shape
        qkv = self.qkv(x).view(batch, length, -1, self.head_dim).transpose(1, 2)
        # queries and keys turn together: they are neighbours in the fused projection
        qk, v = qkv.split_with_sizes([self.heads + self.kv_heads, self.kv_heads], dim=1)
        turned = rotate_halves(qk, cos, sin)
        q, k = turned.split_with_sizes([self.heads, self.kv_heads], dim=1)
        if cache is not None:
            k, v = cache.update(self.layer, k, v)
        y: Tensor = self.out(causal_attention(q, k, v, mask))
        return y


class Layer(nn.Module):
    def __init__(self, config: Config, layer: int) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(config.hidden, config.rms_norm_eps)
        self.attention = Attention(config, layer)
        self.mlp_norm = RMSNorm(config.hidden, config.rms_norm_eps)
        self.gate_up = Slot(config.hidden, 2 * config.inner)
        self.down = Slot(config.inner, config.hidden)

    def forward(
        self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor | None, cache: KVCache | None
    ) -> Tensor:
        x = x + self.attention(self.attention_norm(x), cos, sin, mask, cache)
        y: Tensor = x + self.down(swiglu(self.gate_up(self.mlp_norm(x))))
        return y


class Model(Decoder):
    """Llama as the engine wants it."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.embedding = Embedding(config.vocab, config.hidden)
        self.layers = nn.ModuleList(Layer(config, i) for i in range(config.layers))
        self.norm = RMSNorm(config.hidden, config.rms_norm_eps)
        self.head = Slot(config.hidden, config.vocab)
        self.rotary: RotaryTable | None = None

    def prepare(self, length: int, dtype: torch.dtype, device: torch.device) -> None:
        inv_freq = inverse_frequencies(self.config.head_dim, self.config.rope_base)
        table = RotaryTable(inv_freq, length, dtype=dtype, device=device)
        table.cos = torch.cat((table.cos, table.cos), dim=-1)
        table.sin = torch.cat((-table.sin, table.sin), dim=-1)
        self.rotary = table

    def new_cache(
        self, capacity: int, dtype: torch.dtype, device: torch.device, batch: int = 1
    ) -> KVCache:
        c = self.config
        return KVCache(
            c.layers, c.kv_heads, c.head_dim, capacity, dtype=dtype, device=device, batch=batch
        )

    def forward(
        self,
        ids: Tensor,
        cache: KVCache | None = None,
        *,
        last_only: bool = False,
        padding: Tensor | None = None,
    ) -> Tensor:
        assert padding is None, "batches of different lengths are not needed here"
        assert self.rotary is not None, "prepare() was not called"
        length = ids.shape[1]
        offset = cache.offset if cache is not None else 0
        cos = self.rotary.cos[offset : offset + length]
        sin = self.rotary.sin[offset : offset + length]
        mask = causal_mask(length, offset, dtype=cos.dtype, device=ids.device)
        x = self.embedding(ids).to(cos.dtype)
        for layer in self.layers:
            x = layer(x, cos, sin, mask, cache)
        if cache is not None:
            cache.advance(length)
        if last_only:
            x = x[:, -1:]
        logits: Tensor = self.head(self.norm(x))
        return logits.float()


def sources(config: Config) -> dict[str, Rows]:
    """Which checkpoint tensors make each of our parameters, by name."""
    found = {
        "embedding.weight": Rows("model.embed_tokens.weight"),
        "norm.weight": Rows("model.norm.weight"),
        "head.weight": Rows("model.embed_tokens.weight" if config.tied else "lm_head.weight"),
    }
    kinds = ("weight", "bias") if config.attention_bias else ("weight",)
    for i in range(config.layers):
        theirs, ours = f"model.layers.{i}", f"layers.{i}"
        found |= {
            f"{ours}.attention_norm.weight": Rows(f"{theirs}.input_layernorm.weight"),
            f"{ours}.mlp_norm.weight": Rows(f"{theirs}.post_attention_layernorm.weight"),
            f"{ours}.gate_up.weight": Rows(
                f"{theirs}.mlp.gate_proj.weight", f"{theirs}.mlp.up_proj.weight"
            ),
            f"{ours}.down.weight": Rows(f"{theirs}.mlp.down_proj.weight"),
        }
        for kind in kinds:
            found[f"{ours}.attention.qkv.{kind}"] = Rows(
                *(f"{theirs}.self_attn.{x}_proj.{kind}" for x in "qkv")
            )
            found[f"{ours}.attention.out.{kind}"] = Rows(f"{theirs}.self_attn.o_proj.{kind}")
    return found


def load_tokenizer(folder: Path, raw: Mapping[str, Any]) -> Tokenizer | None:
    """The tokenizer of a folder, or None where it has no tokenizer.json."""
    return TokenizerJson.load(folder)


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
