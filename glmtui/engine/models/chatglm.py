"""ChatGLM-6B, original and Slim: a prefix language model.

Tensor names are those of THUDM/chatglm-6b on the hub. The factor of the residual and the rounded
rotary frequencies are in its code only.
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
from glmtui.engine.catalog.family_fields import read_fields
from glmtui.engine.checkpoint.checkpoint import WeightSource
from glmtui.engine.models.chatglm_rounds import TRAINING_DATE, split_rounds
from glmtui.engine.models.prefix_lm import MarkerIds, Prefix, PrefixLMCache
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

IMAGE_ROWS = 20_000  # image tokens at the start of the first revision's vocabulary
SLIM_PAD_ID = 3
ALPHA = math.sqrt(2 * 28)  # the same in every checkpoint, whatever its number of layers
MISSING_LOGIT = -65504.0  # logit of a token whose row is not in memory: the minimum of float16


@dataclass(frozen=True, slots=True)
class Config:
    """The shape of the model. All ids are those of the checkpoint.

    Attributes:
        vocab: rows of embedding and head in the checkpoint.
        image_rows: how many of these, at the start, are image tokens; 0 in the Slim vocabulary.
        slim: whether to leave the image rows out of memory.
    """

    layers: int
    hidden: int
    inner: int
    heads: int
    vocab: int
    context_length: int
    layer_norm_eps: float
    markers: MarkerIds
    image_rows: int
    slim: bool = True

    @property
    def head_dim(self) -> int:
        return self.hidden // self.heads

    @property
    def skipped_rows(self) -> int:
        """Rows at the start of embedding and head, which are one tensor, that are not loaded."""
        return self.image_rows if self.slim else 0


def load_config(raw: Mapping[str, Any]) -> Config:
    """From a config.json of either vocabulary. Raises BadCheckpoint, UnsupportedModel."""
    fields = read_fields(raw, "chatglm")
    first = image_rows(raw)
    gmask, mask = fields["gmask_token_id"], fields["mask_token_id"]
    return Config(
        layers=fields["num_layers"],
        hidden=fields["hidden_size"],
        inner=fields["inner_hidden_size"],
        heads=fields["num_attention_heads"],
        vocab=fields["vocab_size"],
        context_length=fields["max_sequence_length"],
        layer_norm_eps=fields["layernorm_epsilon"],
        markers=MarkerIds(
            # the first releases have these two in their code only
            gmask=130_001 + first if gmask is None else gmask,
            mask=130_000 + first if mask is None else mask,
            sop=fields["bos_token_id"],
        ),
        image_rows=first,
    )


def image_rows(raw: Mapping[str, Any]) -> int:
    """How many image tokens precede the text tokens in the vocabulary of a config.json."""
    pad = raw.get("pad_token_id")
    if isinstance(pad, int) and pad >= SLIM_PAD_ID:
        return pad - SLIM_PAD_ID
    return IMAGE_ROWS if raw["bos_token_id"] > 130_004 else 0


# ---- the model


class LayerNorm(nn.Module):
    """(x - mean) / sqrt(variance + eps) * weight + bias (arXiv:1607.06450)."""

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
        # Query, key and value of a head are adjacent, and so are the two halves of each: the first
        # half is rotated by the position in the text, the second by the position in the block.
        shape = (*x.shape[:2], self.heads, 3, 2, self.head_dim // 2)
        qk, v = self.qkv(x).view(shape).split((2, 1), dim=3)
        q, k = rotate_halves(qk, cos, sin).flatten(4).transpose(1, 2).unbind(3)
        v = v.flatten(3).transpose(1, 2)
        if cache is not None:
            k, v = cache.update(self.layer, k, v)
        # the mask of a prefix has four dimensions
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
        # the residual is the normalised input, scaled as in DeepNorm (arXiv:2203.00555)
        x = self.attention_norm(x)
        x = x * ALPHA + self.attention(x, cos, sin, mask, cache)
        x = self.mlp_norm(x)
        y: Tensor = x * ALPHA + self.down(F.gelu(self.up(x), approximate="tanh"))
        return y


class Model(Decoder):
    causal = False

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        rows = config.vocab - config.skipped_rows
        self.embedding = Embedding(rows, config.hidden)
        self.layers = nn.ModuleList(Layer(config, i) for i in range(config.layers))
        self.norm = LayerNorm(config.hidden, config.layer_norm_eps)
        self.head = LinearPlaceholder(config.hidden, rows)
        self.rotary: RotaryTable | None = None

    def prepare(self, length: int, dtype: torch.dtype, device: torch.device) -> None:
        # the original was trained with these frequencies rounded to float16
        inv_freq = inverse_frequencies(self.config.head_dim // 2, 10_000.0).half()
        table = RotaryTable(inv_freq, length + 1, dtype=dtype, device=device)
        table.cos = torch.cat((table.cos, table.cos), dim=-1)
        table.sin = torch.cat((-table.sin, table.sin), dim=-1)
        self.rotary = table

    @property
    def first_token_id(self) -> int:
        """Image tokens come first and may be left out."""
        rows: int = self.config.skipped_rows
        return rows

    @property
    def skipped_bytes(self) -> int:
        """Memory saved by leaving out the image rows of the embedding."""
        saved: int = self.config.skipped_rows * self.embedding.weight[0].nbytes
        return saved

    def _make_cache(
        self, capacity: int, dtype: torch.dtype, device: torch.device, batch: int
    ) -> PrefixLMCache:
        c = self.config
        return PrefixLMCache(
            c.layers, c.heads, c.head_dim, capacity, dtype=dtype, device=device, batch=batch
        )

    def reusable_prefix(self, old: Sequence[int], new: Sequence[int]) -> int:
        """How many cached ids can be reused: none unless the contexts up to <sop> are equal.

        Attention is bidirectional up to <sop>, so one more token there changes the keys and values
        of all the others, and each new turn needs a full prefill. After <sop> attention is causal:
        the same prompt reuses its context, and a continued reply its context and itself.
        """
        shared = common_prefix(old, new)
        return shared if self.config.markers.sop in new[:shared] else 0

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
            ids: int64 [batch, S], ids of the checkpoint even if its image rows are left out.
                Without a cache or with an empty one they are whole contexts, including <sop>.
                With a cache they follow its tokens.
            last_only: compute the logits of the last position only.
            padding: int64 [batch], number of padding tokens at the start; given with the context.

        Returns:
            float32 [batch, S or 1, vocab]. Tokens whose rows are left out have MISSING_LOGIT, so
            that they are never sampled.

        Raises:
            EngineError: the context has no <sop>, or neither [gMASK] nor [MASK].
        """
        assert self.rotary is not None, "prepare() was not called"
        c = self.config
        start = 0 if cache is None else cache.offset
        prefix = cache.prefix if isinstance(cache, PrefixLMCache) and start else None
        if prefix is None:
            prefix = Prefix.from_ids(ids, c.markers, padding)
        fixed_position = cache.position if cache is not None else None
        positions = prefix.positions(
            start if fixed_position is None else fixed_position, ids.shape[1]
        )
        # [batch, S, 1 head, 1 for q and k, 2 halves, head_dim / 2]
        cos = self.rotary.cos[positions][:, :, None, None]
        sin = self.rotary.sin[positions][:, :, None, None]
        if cache is not None and fixed_position is not None:
            mask: Tensor | None = cache.visible_mask()
        else:
            mask = self._mask(prefix, start, ids.shape[1], cos.dtype)
        x = self.embedding(ids - c.skipped_rows if c.skipped_rows else ids).to(cos.dtype)
        for layer in self.layers:
            x = layer(x, cos, sin, mask, cache)
        if isinstance(cache, PrefixLMCache):
            cache.prefix = prefix
            cache.advance(ids.shape[1])
        if last_only:
            x = x[:, -1:]
        logits: Tensor = self.head(self.norm(x)).float()
        if c.skipped_rows:
            logits = F.pad(logits, (c.skipped_rows, 0), value=MISSING_LOGIT)
        return logits

    @staticmethod
    def _mask(prefix: Prefix, start: int, length: int, dtype: torch.dtype) -> Tensor | None:
        if length > 1 and prefix.ends_before(start):
            return chunk_mask(length, start, dtype=dtype, device=prefix.length.device)
        return prefix.mask(start, length, dtype)


def weight_sources(config: Config) -> dict[str, WeightSource]:
    """The checkpoint tensors of each parameter, by the parameter's name.

    ``lm_head.weight`` equals the embedding, so it is stored once.
    """
    embedding = WeightSource("transformer.word_embeddings.weight", start=config.skipped_rows)
    sources = {"embedding.weight": embedding, "head.weight": embedding}
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
    for target, source in modules.items():
        for kind in ("weight", "bias"):
            sources[f"{target}.{kind}"] = WeightSource(f"transformer.{source}.{kind}")
    return sources


# ---- text


class RoundFormat:
    """ChatGLM-6B's prompts: a single question as it is, or rounds counted from 0; then two markers.

    There is no system role: a system prompt becomes the lines before the first round. A reply to
    be continued follows <sop>.
    """

    def __init__(self, tokenizer: IceTokenizer) -> None:
        self.tokenizer = tokenizer
        self.stop_ids = frozenset({tokenizer.special["<eop>"]})
        self._marker_ids = [tokenizer.special["[gMASK]"], tokenizer.special["<sop>"]]

    def encode(self, messages: Sequence[Message]) -> list[int]:
        system, (*history, last) = split_rounds(messages)
        text = last.question
        if history or system:
            text = f"{system}\n" if system else ""
            for i, (question, answer) in enumerate(history):
                text += f"[Round {i}]\n问：{question}\n答：{answer}\n"
            text += f"[Round {len(history)}]\n问：{last.question}\n答："
        return self.tokenizer.encode(text) + self._marker_ids + self.tokenizer.encode(last.answer)

    def postprocess(self, text: str) -> str:
        """A finished reply as the original shows it: full-width punctuation next to Chinese."""
        text = text.strip().replace(*TRAINING_DATE)
        return _PUNCTUATION_BY_CHINESE.sub(lambda match: _FULL_WIDTH[match[0]], text)


_FULL_WIDTH = {",": "，", "!": "！", ":": "：", ";": "；", "?": "？"}
_PUNCTUATION_BY_CHINESE = re.compile(r"(?<=[\u4e00-\u9fff])[,!:;?]|[,!:;?](?=[\u4e00-\u9fff])")


def load_tokenizer(folder: Path, raw: Mapping[str, Any]) -> Tokenizer | None:
    """The tokenizer of a folder; None without ice_text.model. Raises BadCheckpoint."""
    sandboxed = load_ice_text(folder / "ice_text.model")
    return None if sandboxed is None else IceTokenizer(sandboxed, image_rows(raw))


def chat_format(tokenizer: Tokenizer, folder: Path, raw: Mapping[str, Any]) -> ChatFormat:
    assert isinstance(tokenizer, IceTokenizer)
    return RoundFormat(tokenizer)


def stop_ids(raw: Mapping[str, Any]) -> frozenset[int]:
    """Ids that end a reply, for a folder without tokenizer files."""
    return frozenset({raw["eos_token_id"]})


def sampling_defaults(folder: Path, raw: Mapping[str, Any]) -> SamplingParams:
    """The defaults of the original `model.chat`; top_k is the default of `generate`."""
    return SamplingParams(temperature=0.95, top_k=50, top_p=0.7, do_sample=True, max_length=2048)
