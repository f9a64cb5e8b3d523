"""The decoder of Llama, ChatGLM2, ChatGLM3 and GLM-4, which differ in their rotary embedding.

Pre-norm layers of causal grouped-query attention (arXiv:2305.13245) and a gated MLP.
"""

from __future__ import annotations

import functools
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor, nn

from glmtui.engine.nn.decoder import Decoder
from glmtui.engine.nn.kv_cache import KVCache
from glmtui.engine.nn.layers import (
    Embedding,
    LinearPlaceholder,
    RMSNorm,
    RotaryTable,
    attention,
    causal_attention,
    causal_mask,
    chunk_mask,
    rotate_halves,
    swiglu,
)
from glmtui.engine.nn.linear import NativeLinear
from glmtui.engine.nn.native.kernels import (
    DecoderStep,
    LayerWeights,
    NativeWeight,
    is_fastest_for,
    supports_weight,
)

Rotation: TypeAlias = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Rotates heads [batch, heads, S, head_dim] by cosines and sines, each [S, head_dim]."""


@dataclass(frozen=True, slots=True)
class GqaConfig:
    """The sizes of the model; the Config of a family adds its own fields.

    Attributes:
        kv_heads: heads of keys and values, each shared by heads / kv_heads query heads.
        context_length: in tokens.
        qkv_bias, out_bias: whether these projections of the attention have a bias.
    """

    layers: int
    hidden: int
    inner: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    context_length: int
    rms_norm_eps: float
    qkv_bias: bool
    out_bias: bool


class Attention(nn.Module):
    def __init__(self, config: GqaConfig, layer: int, rotate: Rotation) -> None:
        super().__init__()
        self.layer = layer
        self.rotate = rotate
        self.heads, self.kv_heads = config.heads, config.kv_heads
        self.head_dim = config.head_dim
        fused = (config.heads + 2 * config.kv_heads) * config.head_dim
        self.qkv = LinearPlaceholder(config.hidden, fused, bias=config.qkv_bias)
        self.out = LinearPlaceholder(
            config.heads * config.head_dim, config.hidden, bias=config.out_bias
        )

    def forward(
        self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor | None, cache: KVCache | None
    ) -> Tensor:
        qkv = self.qkv(x).view(*x.shape[:2], -1, self.head_dim)
        # queries and keys are adjacent in the fused projection, so they are rotated together
        sizes = [self.heads + self.kv_heads, self.kv_heads]
        qk, v = qkv.transpose(1, 2).split_with_sizes(sizes, dim=1)
        q, k = self.rotate(qk, cos, sin).split_with_sizes([self.heads, self.kv_heads], dim=1)
        if cache is not None:
            k, v = cache.update(self.layer, k, v)
        # a mask of two dimensions is causal; one for padding has more
        causal = mask is None or mask.dim() == 2
        y: Tensor = self.out((causal_attention if causal else attention)(q, k, v, mask))
        return y


class Layer(nn.Module):
    def __init__(self, config: GqaConfig, layer: int, rotate: Rotation) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(config.hidden, config.rms_norm_eps)
        self.attention = Attention(config, layer, rotate)
        self.mlp_norm = RMSNorm(config.hidden, config.rms_norm_eps)
        self.gate_up = LinearPlaceholder(config.hidden, 2 * config.inner)
        self.down = LinearPlaceholder(config.inner, config.hidden)

    def forward(
        self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor | None, cache: KVCache | None
    ) -> Tensor:
        x = x + self.attention(self.attention_norm(x), cos, sin, mask, cache)
        y: Tensor = x + self.down(swiglu(self.gate_up(self.mlp_norm(x))))
        return y


class GqaDecoder(Decoder):
    """A family's Model adds `rotate`, and `prepare` with the tables for it."""

    def __init__(self, config: GqaConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = Embedding(config.vocab, config.hidden)
        self.layers = nn.ModuleList(Layer(config, i, self.rotate) for i in range(config.layers))
        self.norm = RMSNorm(config.hidden, config.rms_norm_eps)
        self.head = LinearPlaceholder(config.hidden, config.vocab)
        self.rotary: RotaryTable | None = None

    @staticmethod
    @abstractmethod
    def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Applies the rotary embedding; see `Rotation`."""

    def _make_cache(
        self, capacity: int, dtype: torch.dtype, device: torch.device, batch: int
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
        assert self.rotary is not None, "prepare() was not called"
        length = ids.shape[1]
        start = cache.offset if cache is not None else 0
        fixed_position = cache.position if cache is not None else None
        positions: slice | Tensor = slice(start, start + length)
        if fixed_position is not None:
            positions = fixed_position
        if padding is not None:
            positions = padded_positions(padding, start, length)
        cos, sin = self.rotary.cos[positions], self.rotary.sin[positions]
        if cache is not None and padding is None and self._native and can_run_native(ids, cache):
            keys, values = cache.reserve(length)
            logits = self._native(ids[0], cos, sin, keys, values, start, last_only=last_only)
            cache.advance(length)
            return logits[None]
        x = self.embedding(ids).to(cos.dtype)
        if cache is not None and fixed_position is not None:
            mask: Tensor | None = cache.visible_mask()
        elif padding is not None:
            causal = causal_mask(length, start, dtype=cos.dtype, device=ids.device)
            mask = padded_mask(causal, padding, start, length, cos.dtype)
        else:
            mask = chunk_mask(length, start, dtype=cos.dtype, device=ids.device)
        for layer in self.layers:
            x = layer(x, cos, sin, mask, cache)
        if cache is not None:
            cache.advance(length)
        if last_only:
            x = x[:, -1:]
        output: Tensor = self.head(self.norm(x))
        return output.float()

    @functools.cached_property
    def _native(self) -> DecoderStep | None:
        """The decoder in the compiled kernels; None if they cannot compute all of it."""
        config = self.config
        native = {path: m.native for path, m in self.named_modules() if isinstance(m, NativeLinear)}
        table = self.embedding.weight
        complete = len(native) >= 4 * config.layers + 1
        if not (
            complete and DecoderStep.supports_head_size(config.head_dim) and supports_weight(table)
        ):
            return None
        layers = [
            LayerWeights(
                self.get_parameter(f"layers.{i}.attention_norm.weight"),
                native[f"layers.{i}.attention.qkv"],
                native[f"layers.{i}.attention.out"],
                self.get_parameter(f"layers.{i}.mlp_norm.weight"),
                native[f"layers.{i}.gate_up"],
                native[f"layers.{i}.down"],
            )
            for i in range(config.layers)
        ]
        return DecoderStep(
            NativeWeight(table, None),
            layers,
            self.norm.weight,
            native["head"],
            heads=config.heads,
            kv_heads=config.kv_heads,
            head_size=config.head_dim,
            eps=config.rms_norm_eps,
            rotate_halves=self.rotate is rotate_halves,
        )


def can_run_native(ids: Tensor, cache: KVCache) -> bool:
    """Whether the compiled kernels can compute a step with these ids [batch, S]."""
    return ids.shape[0] == 1 and cache.position is None and is_fastest_for(ids.shape[1])


def padded_positions(padding: Tensor, start: int, length: int) -> Tensor:
    """Positions counted from the end of the padding: int64 [batch, 1, length]."""
    index = torch.arange(start, start + length, device=padding.device)
    return (index - padding[:, None, None]).clamp_min(0)


def padded_mask(
    mask: Tensor | None, padding: Tensor, start: int, length: int, dtype: torch.dtype
) -> Tensor:
    """The mask with the columns of the padding hidden: [batch, 1, length, start + length].

    Padding itself sees everything, because a row of -inf only would make softmax divide by zero.
    """
    columns = torch.arange(start + length, device=padding.device)
    first = padding[:, None, None, None]
    if mask is None:
        mask = torch.zeros((), dtype=dtype, device=padding.device)
    return mask.masked_fill(columns < first, -torch.inf).masked_fill(
        columns[start:, None] < first, 0.0
    )
