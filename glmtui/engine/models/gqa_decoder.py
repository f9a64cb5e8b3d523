"""The decoder that Llama, ChatGLM2, ChatGLM3 and GLM-4 share; they differ in how heads are turned.

Pre-norm layers of grouped-query attention (arXiv:2305.13245) and a gated MLP, causal throughout.
Knows no checkpoint and no text.
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
"""Heads [batch, heads, S, head_dim] turned by cosines and sines, each [S, head_dim]."""


@dataclass(frozen=True, slots=True)
class Shape:
    """What decides the size of the model; a family's Config says more.

    Attributes:
        kv_heads: heads of keys and values, each serving heads / kv_heads queries.
        context_length: in tokens.
        qkv_bias, out_bias: whether the attention's projections have a bias.
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
    def __init__(self, shape: Shape, layer: int, rotate: Rotation) -> None:
        super().__init__()
        self.layer = layer
        self.rotate = rotate
        self.heads, self.kv_heads = shape.heads, shape.kv_heads
        self.head_dim = shape.head_dim
        fused = (shape.heads + 2 * shape.kv_heads) * shape.head_dim
        self.qkv = LinearPlaceholder(shape.hidden, fused, bias=shape.qkv_bias)
        self.out = LinearPlaceholder(
            shape.heads * shape.head_dim, shape.hidden, bias=shape.out_bias
        )

    def forward(
        self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor | None, cache: KVCache | None
    ) -> Tensor:
        qkv = self.qkv(x).view(*x.shape[:2], -1, self.head_dim)
        # queries and keys turn together: they are neighbours in the fused projection
        parts = [self.heads + self.kv_heads, self.kv_heads]
        qk, v = qkv.transpose(1, 2).split_with_sizes(parts, dim=1)
        q, k = self.rotate(qk, cos, sin).split_with_sizes([self.heads, self.kv_heads], dim=1)
        if cache is not None:
            k, v = cache.update(self.layer, k, v)
        # a mask of two dimensions is the causal one; padding adds more
        causal = mask is None or mask.dim() == 2
        y: Tensor = self.out((causal_attention if causal else attention)(q, k, v, mask))
        return y


class Layer(nn.Module):
    def __init__(self, shape: Shape, layer: int, rotate: Rotation) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(shape.hidden, shape.rms_norm_eps)
        self.attention = Attention(shape, layer, rotate)
        self.mlp_norm = RMSNorm(shape.hidden, shape.rms_norm_eps)
        self.gate_up = LinearPlaceholder(shape.hidden, 2 * shape.inner)
        self.down = LinearPlaceholder(shape.inner, shape.hidden)

    def forward(
        self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor | None, cache: KVCache | None
    ) -> Tensor:
        x = x + self.attention(self.attention_norm(x), cos, sin, mask, cache)
        y: Tensor = x + self.down(swiglu(self.gate_up(self.mlp_norm(x))))
        return y


class GqaDecoder(Decoder):
    """A family's Model gives its `rotate` and the tables for it."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.config = shape
        self.embedding = Embedding(shape.vocab, shape.hidden)
        self.layers = nn.ModuleList(Layer(shape, i, self.rotate) for i in range(shape.layers))
        self.norm = RMSNorm(shape.hidden, shape.rms_norm_eps)
        self.head = LinearPlaceholder(shape.hidden, shape.vocab)
        self.rotary: RotaryTable | None = None

    @staticmethod
    @abstractmethod
    def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Turns heads by their positions; see `Rotation`."""

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
        assert self.rotary is not None, "prepare() was not called"
        length = ids.shape[1]
        start = cache.offset if cache is not None else 0
        fixed = cache.position if cache is not None else None
        at: slice | Tensor = slice(start, start + length) if fixed is None else fixed
        if padding is not None:
            at = padded_positions(padding, start, length)
        cos, sin = self.rotary.cos[at], self.rotary.sin[at]
        if cache is not None and padding is None and self._native and is_plain(ids, cache):
            keys, values = cache.reserve(length)
            said = self._native(ids[0], cos, sin, keys, values, start, last_only=last_only)
            cache.advance(length)
            return said[None]
        x = self.embedding(ids).to(cos.dtype)
        if cache is not None and fixed is not None:
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
        logits: Tensor = self.head(self.norm(x))
        return logits.float()

    @functools.cached_property
    def _native(self) -> DecoderStep | None:
        """All of it as the compiled kernels take it; None if a part is not for them."""
        shape = self.config
        native = {path: m.native for path, m in self.named_modules() if isinstance(m, NativeLinear)}
        table = self.embedding.weight
        whole = len(native) >= 4 * shape.layers + 1
        if not (
            whole and DecoderStep.supports_head_size(shape.head_dim) and supports_weight(table)
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
            for i in range(shape.layers)
        ]
        return DecoderStep(
            NativeWeight(table, None),
            layers,
            self.norm.weight,
            native["head"],
            heads=shape.heads,
            kv_heads=shape.kv_heads,
            head_size=shape.head_dim,
            eps=shape.rms_norm_eps,
            rotate_halves=self.rotate is rotate_halves,
        )


def is_plain(ids: Tensor, cache: KVCache) -> bool:
    """Whether a step over these ids, [batch, S], is one for the compiled kernels."""
    return ids.shape[0] == 1 and cache.position is None and is_fastest_for(ids.shape[1])


def padded_positions(padding: Tensor, start: int, length: int) -> Tensor:
    """Positions that begin after the padding: int64 [batch, 1, length]."""
    at = torch.arange(start, start + length, device=padding.device)
    return (at - padding[:, None, None]).clamp_min(0)


def padded_mask(
    mask: Tensor | None, padding: Tensor, start: int, length: int, dtype: torch.dtype
) -> Tensor:
    """The mask with the padding's columns hidden: [batch, 1, length, start + length].

    Padding itself looks everywhere, since looking nowhere would be a division by zero.
    """
    columns = torch.arange(start + length, device=padding.device)
    first = padding[:, None, None, None]
    seen = torch.zeros((), dtype=dtype, device=padding.device) if mask is None else mask
    return seen.masked_fill(columns < first, -torch.inf).masked_fill(
        columns[start:, None] < first, 0.0
    )
