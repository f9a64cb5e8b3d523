"""ChatGLM2-6B: Config, Model, prompt form. ChatGLM3 and GLM-4 build on it.

A causal decoder with few key/value heads. Follows the tensor names of the hub's
THUDM/chatglm2-6b, original layout.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

from glmtui.chat import Message, SamplingParams
from glmtui.chat.rounds import TRAINING_TIME, rounds
from glmtui.engine.catalog.family_fields import read_fields
from glmtui.engine.checkpoint.checkpoint import WeightSource
from glmtui.engine.models.gqa_decoder import GqaDecoder, Shape
from glmtui.engine.nn.layers import RotaryTable, inverse_frequencies, rotate_pairs
from glmtui.engine.tokenization.hf_tokenizer import generation_ends
from glmtui.engine.tokenization.protocols import ChatFormat, Tokenizer
from glmtui.engine.tokenization.sentencepiece_tokenizer import SentencePieceTokenizer, load_pieces

TRAINED_LENGTH = 8192  # what ChatGLM2-6B was trained on; its config.json says 32768
ROPE_BASE = 10_000.0
SPECIALS = ("[MASK]", "[gMASK]", "[sMASK]", "sop", "eop")


@dataclass(frozen=True, slots=True)
class Config(Shape):
    """What of config.json decides the shape of the model.

    Attributes:
        rope_base: of the rotary frequencies, which turn the first half of each head.
        position_scale: positions are divided by it (arXiv:2306.15595).
        hf_names: whether tensors are named as in Hugging Face's ``GlmForCausalLM``.
    """

    rope_base: float = ROPE_BASE
    position_scale: float = 1.0
    hf_names: bool = False


def load_config(raw: Mapping[str, Any]) -> Config:
    """The shape from a config.json of ChatGLM2-6B or -32k."""
    known = read_fields(raw, "chatglm2")
    return original_config(
        known,
        context_length=context_length(raw),
        position_scale=float(known["rope_ratio"]),
    )


def context_length(raw: Mapping[str, Any]) -> int:
    """The longest context in tokens: that of the -32k version is all it says."""
    said: int = raw["seq_length"]
    return said if "rope_ratio" in raw else min(said, TRAINED_LENGTH)


def original_config(
    known: Mapping[str, Any],
    *,
    context_length: int,
    rope_base: float = ROPE_BASE,
    position_scale: float = 1.0,
) -> Config:
    """The shape in the layout that ChatGLM2, 3 and GLM-4 share.

    Args:
        known: the values that `family_fields.read_fields` gave.
    """
    return Config(
        layers=known["num_layers"],
        hidden=known["hidden_size"],
        inner=known["ffn_hidden_size"],
        heads=known["num_attention_heads"],
        kv_heads=known["multi_query_group_num"],
        head_dim=known["kv_channels"],
        vocab=known["padded_vocab_size"],
        context_length=context_length,
        rms_norm_eps=known["layernorm_epsilon"],
        qkv_bias=known["add_qkv_bias"],
        out_bias=False,
        rope_base=rope_base,
        position_scale=position_scale,
    )


# ---- the model


class Model(GqaDecoder):
    """ChatGLM2, ChatGLM3 and GLM-4 as the engine wants them."""

    rotate = staticmethod(rotate_pairs)

    def prepare(self, length: int, dtype: torch.dtype, device: torch.device) -> None:
        size = self.config.head_dim // 2
        inv_freq = inverse_frequencies(size, self.config.rope_base) / self.config.position_scale
        table = RotaryTable(inv_freq, length, dtype=dtype, device=device)
        cos = table.cos.repeat_interleave(2, dim=-1)
        sin = torch.stack((-table.sin, table.sin), dim=-1).flatten(-2)
        # the second half of each head does not turn: cosine 1, sine 0
        table.cos, table.sin = F.pad(cos, (0, size), value=1.0), F.pad(sin, (0, size))
        self.rotary = table


def sources(config: Config) -> dict[str, WeightSource]:
    """Which checkpoint tensors make each of our parameters, by name."""
    found = {
        "embedding.weight": WeightSource("transformer.embedding.word_embeddings.weight"),
        "norm.weight": WeightSource("transformer.encoder.final_layernorm.weight"),
        "head.weight": WeightSource("transformer.output_layer.weight"),
    }
    for i in range(config.layers):
        theirs, ours = f"transformer.encoder.layers.{i}", f"layers.{i}"
        found |= {
            f"{ours}.attention_norm.weight": WeightSource(f"{theirs}.input_layernorm.weight"),
            f"{ours}.attention.qkv.weight": WeightSource(
                f"{theirs}.self_attention.query_key_value.weight"
            ),
            f"{ours}.attention.out.weight": WeightSource(f"{theirs}.self_attention.dense.weight"),
            f"{ours}.mlp_norm.weight": WeightSource(f"{theirs}.post_attention_layernorm.weight"),
            f"{ours}.gate_up.weight": WeightSource(f"{theirs}.mlp.dense_h_to_4h.weight"),
            f"{ours}.down.weight": WeightSource(f"{theirs}.mlp.dense_4h_to_h.weight"),
        }
        if config.qkv_bias:
            bias = f"{theirs}.self_attention.query_key_value.bias"
            found[f"{ours}.attention.qkv.bias"] = WeightSource(bias)
    return found


# ---- text


class RoundFormat:
    """ChatGLM2's prompts: two marks, then rounds counted from 1.

    There is no system role: a system prompt stands before the first round.
    """

    def __init__(self, tokenizer: SentencePieceTokenizer, stop_ids: frozenset[int]) -> None:
        self.tokenizer = tokenizer
        self.stop_ids = stop_ids
        self._marks = [tokenizer.special["[gMASK]"], tokenizer.special["sop"]]

    def encode(self, messages: Sequence[Message]) -> list[int]:
        system, talk = rounds(messages)
        written = [f"[Round {i}]\n\n问：{q}\n\n答：{a}" for i, (q, a) in enumerate(talk, start=1)]
        text = "\n\n".join([system, *written] if system else written)
        return self._marks + self.tokenizer.encode(text)

    def postprocess(self, text: str) -> str:
        """A finished reply as the original shows it."""
        return text.strip().replace(*TRAINING_TIME)


def load_tokenizer(folder: Path, raw: Mapping[str, Any]) -> Tokenizer | None:
    """The tokenizer of a folder, or None where it has no tokenizer.model."""
    processor = load_pieces(folder / "tokenizer.model")
    return (
        None if processor is None else SentencePieceTokenizer(processor, SPECIALS, readable=False)
    )


def chat_format(tokenizer: Tokenizer, folder: Path, raw: Mapping[str, Any]) -> ChatFormat:
    assert isinstance(tokenizer, SentencePieceTokenizer)
    return RoundFormat(tokenizer, stop_ids(raw) | generation_ends(folder))


def stop_ids(raw: Mapping[str, Any]) -> frozenset[int]:
    """Ids that end a reply, as config.json says."""
    eos = raw["eos_token_id"]
    return frozenset(eos if isinstance(eos, list) else [eos])


def defaults(folder: Path, raw: Mapping[str, Any]) -> SamplingParams:
    """The sampling parameters of the original's `model.chat`; top_k is generate's own."""
    return SamplingParams(
        temperature=0.8, top_k=50, top_p=0.8, do_sample=True, max_length=context_length(raw)
    )
