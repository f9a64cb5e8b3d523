"""ChatGLM2-6B: a causal decoder with grouped-query attention. ChatGLM3 and GLM-4 build on it.

Tensor names are those of THUDM/chatglm2-6b on the hub.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

from glmtui.chat import Message, SamplingParams
from glmtui.engine.catalog.family_fields import read_fields
from glmtui.engine.checkpoint.checkpoint import WeightSource
from glmtui.engine.models.chatglm_rounds import TRAINING_DATE, split_rounds
from glmtui.engine.models.gqa_decoder import GqaConfig, GqaDecoder
from glmtui.engine.nn.layers import RotaryTable, inverse_frequencies, rotate_pairs
from glmtui.engine.tokenization.generation_config import eos_ids, read_eos_ids
from glmtui.engine.tokenization.protocols import ChatFormat, Tokenizer
from glmtui.engine.tokenization.sentencepiece_tokenizer import (
    SentencePieceTokenizer,
    load_sentencepiece,
)

TRAINED_LENGTH = 8192  # tokens ChatGLM2-6B was trained on; its config.json says 32768
ROPE_BASE = 10_000.0
SPECIAL_TOKENS = ("[MASK]", "[gMASK]", "[sMASK]", "sop", "eop")


@dataclass(frozen=True, slots=True)
class Config(GqaConfig):
    """The shape of the model.

    Attributes:
        rope_base: base of the rotary frequencies; they rotate the first half of each head.
        position_scale: divides the positions (arXiv:2306.15595).
        hf_names: whether tensor names are those of Hugging Face's ``GlmForCausalLM``.
    """

    rope_base: float = ROPE_BASE
    position_scale: float = 1.0
    hf_names: bool = False


def load_config(raw: Mapping[str, Any]) -> Config:
    """From a config.json of ChatGLM2-6B or -32k. Raises BadCheckpoint, UnsupportedModel."""
    fields = read_fields(raw, "chatglm2")
    return make_config(
        fields,
        context_length=context_length(raw),
        position_scale=float(fields["rope_ratio"]),
    )


def context_length(raw: Mapping[str, Any]) -> int:
    """Maximum context in tokens: seq_length only for -32k, which is known by its rope_ratio."""
    length: int = raw["seq_length"]
    return length if "rope_ratio" in raw else min(length, TRAINED_LENGTH)


def make_config(
    fields: Mapping[str, Any],
    *,
    context_length: int,
    rope_base: float = ROPE_BASE,
    position_scale: float = 1.0,
) -> Config:
    """The config of the original layout, which ChatGLM2, ChatGLM3 and GLM-4 share.

    Args:
        fields: the result of `family_fields.read_fields`.
    """
    return Config(
        layers=fields["num_layers"],
        hidden=fields["hidden_size"],
        inner=fields["ffn_hidden_size"],
        heads=fields["num_attention_heads"],
        kv_heads=fields["multi_query_group_num"],
        head_dim=fields["kv_channels"],
        vocab=fields["padded_vocab_size"],
        context_length=context_length,
        rms_norm_eps=fields["layernorm_epsilon"],
        qkv_bias=fields["add_qkv_bias"],
        out_bias=False,
        rope_base=rope_base,
        position_scale=position_scale,
    )


# ---- the model


class Model(GqaDecoder):
    rotate = staticmethod(rotate_pairs)

    def prepare(self, length: int, dtype: torch.dtype, device: torch.device) -> None:
        size = self.config.head_dim // 2
        inv_freq = inverse_frequencies(size, self.config.rope_base) / self.config.position_scale
        table = RotaryTable(inv_freq, length, dtype=dtype, device=device)
        cos = table.cos.repeat_interleave(2, dim=-1)
        sin = torch.stack((-table.sin, table.sin), dim=-1).flatten(-2)
        # the second half of each head is not rotated: cosine 1, sine 0
        table.cos, table.sin = F.pad(cos, (0, size), value=1.0), F.pad(sin, (0, size))
        self.rotary = table


def weight_sources(config: Config) -> dict[str, WeightSource]:
    """The checkpoint tensors of each parameter, by the parameter's name."""
    sources = {
        "embedding.weight": WeightSource("transformer.embedding.word_embeddings.weight"),
        "norm.weight": WeightSource("transformer.encoder.final_layernorm.weight"),
        "head.weight": WeightSource("transformer.output_layer.weight"),
    }
    for i in range(config.layers):
        source, target = f"transformer.encoder.layers.{i}", f"layers.{i}"
        sources |= {
            f"{target}.attention_norm.weight": WeightSource(f"{source}.input_layernorm.weight"),
            f"{target}.attention.qkv.weight": WeightSource(
                f"{source}.self_attention.query_key_value.weight"
            ),
            f"{target}.attention.out.weight": WeightSource(f"{source}.self_attention.dense.weight"),
            f"{target}.mlp_norm.weight": WeightSource(f"{source}.post_attention_layernorm.weight"),
            f"{target}.gate_up.weight": WeightSource(f"{source}.mlp.dense_h_to_4h.weight"),
            f"{target}.down.weight": WeightSource(f"{source}.mlp.dense_4h_to_h.weight"),
        }
        if config.qkv_bias:
            bias = f"{source}.self_attention.query_key_value.bias"
            sources[f"{target}.attention.qkv.bias"] = WeightSource(bias)
    return sources


# ---- text


class RoundFormat:
    """ChatGLM2's prompts: two markers, then rounds counted from 1.

    There is no system role: a system prompt is written before the first round.
    """

    def __init__(self, tokenizer: SentencePieceTokenizer, stop_ids: frozenset[int]) -> None:
        self.tokenizer = tokenizer
        self.stop_ids = stop_ids
        self._marker_ids = [tokenizer.special["[gMASK]"], tokenizer.special["sop"]]

    def encode(self, messages: Sequence[Message]) -> list[int]:
        system, rounds = split_rounds(messages)
        parts = [f"[Round {i}]\n\n问：{q}\n\n答：{a}" for i, (q, a) in enumerate(rounds, start=1)]
        text = "\n\n".join([system, *parts] if system else parts)
        return self._marker_ids + self.tokenizer.encode(text)

    def postprocess(self, text: str) -> str:
        """A finished reply as the original shows it."""
        return text.strip().replace(*TRAINING_DATE)


def load_tokenizer(folder: Path, raw: Mapping[str, Any]) -> Tokenizer | None:
    """The tokenizer of a folder; None without tokenizer.model. Raises BadCheckpoint."""
    sandboxed = load_sentencepiece(folder / "tokenizer.model")
    if sandboxed is None:
        return None
    return SentencePieceTokenizer(sandboxed, SPECIAL_TOKENS, decode_special=False)


def chat_format(tokenizer: Tokenizer, folder: Path, raw: Mapping[str, Any]) -> ChatFormat:
    assert isinstance(tokenizer, SentencePieceTokenizer)
    return RoundFormat(tokenizer, stop_ids(raw) | read_eos_ids(folder))


def stop_ids(raw: Mapping[str, Any]) -> frozenset[int]:
    """Ids that end a reply, from config.json."""
    return eos_ids(raw)


def sampling_defaults(folder: Path, raw: Mapping[str, Any]) -> SamplingParams:
    """The defaults of the original `model.chat`; top_k is the default of `generate`."""
    return SamplingParams(
        temperature=0.8, top_k=50, top_p=0.8, do_sample=True, max_length=context_length(raw)
    )
