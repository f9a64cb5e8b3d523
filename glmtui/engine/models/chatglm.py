"""ChatGLM-6B, original and Slim: Config, Model, prompt form. (Its tokenizer: `pieces`.)

A prefix language model (`prefix`). Follows the tensor names of the hub's THUDM/chatglm-6b, and
what only its code says: the residual's factor, the rounded rotary frequencies.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from glmtui.chat import Message, SamplingParams
from glmtui.chat.rounds import TRAINING_TIME, rounds
from glmtui.engine.catalog.family_fields import read_fields
from glmtui.engine.checkpoint.checkpoint import WeightSource
from glmtui.engine.models.prefix_lm import Marks, Prefix, PrefixLMCache
from glmtui.engine.nn.decoder import Decoder, common_prefix
from glmtui.engine.nn.kv_cache import KVCache
from glmtui.engine.nn.layers import (
    Embedding,
    LinearPlaceholder,
    RotaryTable,
    attention,
    causal_attention,
    chunk_mask,
    inverse_frequencies,
    rotate_halves,
)
from glmtui.engine.tokenization.protocols import ChatFormat, Tokenizer
from glmtui.engine.tokenization.sentencepiece_tokenizer import IceTokenizer, load_ice_text

IMAGE_ROWS = 20_000  # of the first revision's vocabulary; no text token is among them
SLIM_PAD_ID = 3
ALPHA = math.sqrt(2 * 28)  # of every ChatGLM-6B, however many layers it has
UNREACHABLE = -65504.0  # logit of a token that is not in memory: the least float16


@dataclass(frozen=True, slots=True)
class Config:
    """What of config.json decides the shape of the model. Ids are the checkpoint's own.

    Attributes:
        vocab: rows of embedding and head in the checkpoint.
        image_rows: how many first rows stand for image tokens; 0 in the Slim vocabulary.
        slim: whether to leave those rows out of memory.
    """

    layers: int
    hidden: int
    inner: int
    heads: int
    vocab: int
    context_length: int
    layer_norm_eps: float
    marks: Marks
    image_rows: int
    slim: bool = True

    @property
    def head_dim(self) -> int:
        return self.hidden // self.heads

    @property
    def cut(self) -> int:
        """Rows left out at the beginning of embedding and head, which are one tensor."""
        return self.image_rows if self.slim else 0


def load_config(raw: Mapping[str, Any]) -> Config:
    """The shape from a config.json of either vocabulary. Raises BadCheckpoint, UnsupportedModel."""
    known = read_fields(raw, "chatglm")
    first = image_rows(raw)
    gmask, mask = known["gmask_token_id"], known["mask_token_id"]
    return Config(
        layers=known["num_layers"],
        hidden=known["hidden_size"],
        inner=known["inner_hidden_size"],
        heads=known["num_attention_heads"],
        vocab=known["vocab_size"],
        context_length=known["max_sequence_length"],
        layer_norm_eps=known["layernorm_epsilon"],
        marks=Marks(
            # the first releases have these two in their code alone
            gmask=130_001 + first if gmask is None else gmask,
            mask=130_000 + first if mask is None else mask,
            sop=known["bos_token_id"],
        ),
        image_rows=first,
    )


def image_rows(raw: Mapping[str, Any]) -> int:
    """How many image tokens precede the text tokens of a config.json's vocabulary."""
    pad = raw.get("pad_token_id")
    if isinstance(pad, int) and pad >= SLIM_PAD_ID:
        return pad - SLIM_PAD_ID
    return IMAGE_ROWS if raw["bos_token_id"] > 130_004 else 0


# ---- the model


class LayerNorm(nn.Module):
    """(x - mean) / deviation * weight + bias, computed in float32 (arXiv:1607.06450)."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(size), requires_grad=False)
        self.bias = nn.Parameter(torch.empty(size), requires_grad=False)
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias, self.eps)


class Attention(nn.Module):
    def __init__(self, config: Config, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.heads, self.head_dim = config.heads, config.head_dim
        self.qkv = LinearPlaceholder(config.hidden, 3 * config.hidden, bias=True)
        self.out = LinearPlaceholder(config.hidden, config.hidden, bias=True)

    def forward(
        self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor | None, cache: KVCache | None
    ) -> Tensor:
        # a head's query, key and value are neighbours, and so are the halves of each: the first
        # turns with the place in the text, the second with the place in the block
        shape = (*x.shape[:2], self.heads, 3, 2, self.head_dim // 2)
        qk, v = self.qkv(x).view(shape).split((2, 1), dim=3)
        q, k = rotate_halves(qk, cos, sin).flatten(4).transpose(1, 2).unbind(3)
        v = v.flatten(3).transpose(1, 2)
        if cache is not None:
            k, v = cache.update(self.layer, k, v)
        # the context's mask has four dimensions
        causal = mask is None or mask.dim() == 2
        y: Tensor = self.out((causal_attention if causal else attention)(q, k, v, mask))
        return y


class Layer(nn.Module):
    def __init__(self, config: Config, layer: int) -> None:
        super().__init__()
        self.attention_norm = LayerNorm(config.hidden, config.layer_norm_eps)
        self.attention = Attention(config, layer)
        self.mlp_norm = LayerNorm(config.hidden, config.layer_norm_eps)
        self.up = LinearPlaceholder(config.hidden, config.inner, bias=True)
        self.down = LinearPlaceholder(config.inner, config.hidden, bias=True)

    def forward(
        self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor | None, cache: KVCache | None
    ) -> Tensor:
        # the residual is the normalised input (DeepNorm's place for it, arXiv:2203.00555)
        x = self.attention_norm(x)
        x = x * ALPHA + self.attention(x, cos, sin, mask, cache)
        x = self.mlp_norm(x)
        y: Tensor = x * ALPHA + self.down(F.gelu(self.up(x), approximate="tanh"))
        return y


class Model(Decoder):
    """ChatGLM-6B as the engine wants it: a prefix decoder."""

    causal = False

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        rows = config.vocab - config.cut
        self.embedding = Embedding(rows, config.hidden)
        self.layers = nn.ModuleList(Layer(config, i) for i in range(config.layers))
        self.norm = LayerNorm(config.hidden, config.layer_norm_eps)
        self.head = LinearPlaceholder(config.hidden, rows)
        self.rotary: RotaryTable | None = None

    def prepare(self, length: int, dtype: torch.dtype, device: torch.device) -> None:
        # the original keeps these frequencies in float16, and was trained with them so
        inv_freq = inverse_frequencies(self.config.head_dim // 2, 10_000.0).half()
        table = RotaryTable(inv_freq, length + 1, dtype=dtype, device=device)
        table.cos = torch.cat((table.cos, table.cos), dim=-1)
        table.sin = torch.cat((-table.sin, table.sin), dim=-1)
        self.rotary = table

    @property
    def first_token_id(self) -> int:
        """Those of image tokens come first, and may be left out."""
        cut: int = self.config.cut
        return cut

    @property
    def skipped_bytes(self) -> int:
        """What leaving the image tokens' rows out of memory saves."""
        saved: int = self.config.cut * self.embedding.weight[0].nbytes
        return saved

    def new_cache(
        self, capacity: int, dtype: torch.dtype, device: torch.device, batch: int = 1
    ) -> PrefixLMCache:
        c = self.config
        return PrefixLMCache(
            c.layers, c.heads, c.head_dim, capacity, dtype=dtype, device=device, batch=batch
        )

    def reusable_prefix(self, old: Sequence[int], new: Sequence[int]) -> int:
        """How many cached ids of `old` serve a prompt of `new`: none unless the contexts agree.

        Each token up to <sop> has seen all others up to there, so that a context that is longer by
        one token makes other keys and values for every one of them, and a new turn is read from
        its start. What follows <sop> is causal: the same prompt again reuses its context, and a
        reply that goes on its context and itself.
        """
        shared = common_prefix(old, new)
        return shared if self.config.marks.sop in new[:shared] else 0

    def forward(
        self,
        ids: Tensor,
        cache: KVCache | None = None,
        *,
        last_only: bool = False,
        padding: Tensor | None = None,
    ) -> Tensor:
        """Logits after each token.

        Args:
            ids: int64 [batch, S], the checkpoint's own whether its image rows are in memory or
                not. Without a cache or into an empty one: whole contexts, <sop> included. With a
                cache they stand behind what it holds.
            last_only: compute the logits of the last position alone.
            padding: int64 [batch], how many first tokens are padding; told with the context.

        Returns:
            float32 [batch, S or 1, vocab]. Rows that are not in memory have a logit so low that
            they are never drawn.

        Raises:
            EngineError: a context without <sop>, or without [gMASK] and [MASK].
        """
        assert self.rotary is not None, "prepare() was not called"
        c = self.config
        start = 0 if cache is None else cache.offset
        prefix = cache.prefix if isinstance(cache, PrefixLMCache) and start else None
        if prefix is None:
            prefix = Prefix.of(ids, c.marks, padding)
        fixed = cache.position if cache is not None else None
        positions = prefix.positions(start if fixed is None else fixed, ids.shape[1])
        # [batch, S, 1 head, 1 for q and k, 2 halves, head_dim / 2]
        cos = self.rotary.cos[positions][:, :, None, None]
        sin = self.rotary.sin[positions][:, :, None, None]
        if cache is not None and fixed is not None:
            mask: Tensor | None = cache.visible_mask()
        else:
            mask = self._mask(prefix, start, ids.shape[1], cos.dtype)
        x = self.embedding(ids - c.cut if c.cut else ids).to(cos.dtype)
        for layer in self.layers:
            x = layer(x, cos, sin, mask, cache)
        if isinstance(cache, PrefixLMCache):
            cache.prefix = prefix
            cache.advance(ids.shape[1])
        if last_only:
            x = x[:, -1:]
        logits: Tensor = self.head(self.norm(x)).float()
        return F.pad(logits, (c.cut, 0), value=UNREACHABLE) if c.cut else logits

    @staticmethod
    def _mask(prefix: Prefix, start: int, length: int, dtype: torch.dtype) -> Tensor | None:
        if length > 1 and prefix.ends_before(start):
            return chunk_mask(length, start, dtype=dtype, device=prefix.context.device)
        return prefix.mask(start, length, dtype)


def sources(config: Config) -> dict[str, WeightSource]:
    """Which checkpoint tensors make each of our parameters, by name.

    ``lm_head.weight`` is the embedding once more, so it is held once.
    """
    words = WeightSource("transformer.word_embeddings.weight", start=config.cut)
    found = {"embedding.weight": words, "head.weight": words}
    modules = {"norm": "final_layernorm"}
    for i in range(config.layers):
        modules |= {
            f"layers.{i}.attention_norm": f"layers.{i}.input_layernorm",
            f"layers.{i}.attention.qkv": f"layers.{i}.attention.query_key_value",
            f"layers.{i}.attention.out": f"layers.{i}.attention.dense",
            f"layers.{i}.mlp_norm": f"layers.{i}.post_attention_layernorm",
            f"layers.{i}.up": f"layers.{i}.mlp.dense_h_to_4h",
            f"layers.{i}.down": f"layers.{i}.mlp.dense_4h_to_h",
        }
    for ours, theirs in modules.items():
        for kind in ("weight", "bias"):
            found[f"{ours}.{kind}"] = WeightSource(f"transformer.{theirs}.{kind}")
    return found


# ---- text


class RoundFormat:
    """ChatGLM-6B's prompts: a lone question as it is, or rounds counted from 0; then two marks.

    There is no system role: a system prompt is put on lines of its own before the first round.
    A reply to be continued follows <sop>, where the model wrote it.
    """

    def __init__(self, tokenizer: IceTokenizer) -> None:
        self.tokenizer = tokenizer
        self.stop_ids = frozenset({tokenizer.special["<eop>"]})
        self._marks = [tokenizer.special["[gMASK]"], tokenizer.special["<sop>"]]

    def encode(self, messages: Sequence[Message]) -> list[int]:
        system, (*history, last) = rounds(messages)
        text = last.question
        if history or system:
            text = f"{system}\n" if system else ""
            for i, (question, answer) in enumerate(history):
                text += f"[Round {i}]\n问：{question}\n答：{answer}\n"
            text += f"[Round {len(history)}]\n问：{last.question}\n答："
        return self.tokenizer.encode(text) + self._marks + self.tokenizer.encode(last.answer)

    def postprocess(self, text: str) -> str:
        """A finished reply as the original shows it: Chinese punctuation next to Chinese."""
        text = text.strip().replace(*TRAINING_TIME)
        return _MARKS_BY_CHINESE.sub(lambda mark: _FULL_WIDTH[mark.group()], text)


_FULL_WIDTH = {",": "，", "!": "！", ":": "：", ";": "；", "?": "？"}
_MARKS_BY_CHINESE = re.compile(r"(?<=[\u4e00-\u9fff])[,!:;?]|[,!:;?](?=[\u4e00-\u9fff])")


def load_tokenizer(folder: Path, raw: Mapping[str, Any]) -> Tokenizer | None:
    """The tokenizer of a folder, or None where it has no ice_text.model."""
    processor = load_ice_text(folder / "ice_text.model")
    return None if processor is None else IceTokenizer(processor, image_rows(raw))


def chat_format(tokenizer: Tokenizer, folder: Path, raw: Mapping[str, Any]) -> ChatFormat:
    assert isinstance(tokenizer, IceTokenizer)
    return RoundFormat(tokenizer)


def stop_ids(raw: Mapping[str, Any]) -> frozenset[int]:
    """Ids that end a reply, for a folder without tokenizer files."""
    return frozenset({raw["eos_token_id"]})


def defaults(folder: Path, raw: Mapping[str, Any]) -> SamplingParams:
    """The sampling parameters of the original's `model.chat`; top_k is generate's own."""
    return SamplingParams(temperature=0.95, top_k=50, top_p=0.7, do_sample=True, max_length=2048)
