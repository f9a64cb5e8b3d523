"""GLM-4-9B: what differs from ChatGLM3. A tiktoken vocabulary, JSON tool calls, two layouts.

Reads the hub's THUDM/glm-4-9b-chat in its original layout, and its -hf layout with the tensor
names and config of Hugging Face's ``GlmForCausalLM``; the decoder is one and the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from glmtui.chat import Message, SamplingParams
from glmtui.engine.api import ToolCall
from glmtui.engine.catalog.family_fields import GLM4_STOP_IDS, read_fields
from glmtui.engine.catalog.model_folder import MAX_VOCABULARY_BYTES, read_model_file
from glmtui.engine.checkpoint.checkpoint import WeightSource
from glmtui.engine.models import chatglm2
from glmtui.engine.models.chatglm2 import ROPE_BASE, Config, Model, original_config
from glmtui.engine.models.chatglm3 import ROLES, RoleFormat
from glmtui.engine.tokenization.bounded_tokenizer import BoundedTokenizer
from glmtui.engine.tokenization.hf_tokenizer import TokenizerJson, generation_ends
from glmtui.engine.tokenization.protocols import ChatFormat, Tokenizer
from glmtui.engine.tokenization.tool_calls import Tool, declared_for_glm4, json_arguments, read_call
from glmtui.errors import BadCheckpoint
from glmtui.language import _

__all__ = [
    "Config",
    "Model",
    "chat_format",
    "defaults",
    "load_config",
    "load_tokenizer",
    "sources",
    "stop_ids",
]

SPECIALS = ("<|endoftext|>", "[MASK]", "[gMASK]", "[sMASK]", "<sop>", "<eop>", *ROLES)
SPLIT = (  # how text falls into words before pieces are merged: that of OpenAI's cl100k
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


MAX_LENGTH = 8192  # of the original's `model.chat`; the context is far longer


def load_config(raw: Mapping[str, Any]) -> Config:
    """The shape from a config.json of either layout. Raises BadCheckpoint, UnsupportedModel."""
    known = read_fields(raw, "glm4")
    if "padded_vocab_size" not in raw:
        return _hf_config(known)
    return original_config(
        known,
        context_length=known["seq_length"],
        rope_base=ROPE_BASE * known["rope_ratio"],
    )


def _hf_config(known: Mapping[str, Any]) -> Config:
    heads = known["num_attention_heads"]
    return Config(
        layers=known["num_hidden_layers"],
        hidden=known["hidden_size"],
        inner=known["intermediate_size"],
        heads=heads,
        kv_heads=known["num_key_value_heads"],
        head_dim=known["head_dim"] or known["hidden_size"] // heads,
        vocab=known["vocab_size"],
        context_length=known["max_position_embeddings"],
        rms_norm_eps=known["rms_norm_eps"],
        qkv_bias=known["attention_bias"],
        out_bias=False,
        rope_base=known["rope_theta"],
        hf_names=True,
    )


def sources(config: Config) -> dict[str, WeightSource]:
    """Which checkpoint tensors make each of our parameters, by name."""
    if not config.hf_names:
        return chatglm2.sources(config)
    found = {
        "embedding.weight": WeightSource("model.embed_tokens.weight"),
        "norm.weight": WeightSource("model.norm.weight"),
        "head.weight": WeightSource("lm_head.weight"),
    }
    for i in range(config.layers):
        theirs, ours = f"model.layers.{i}", f"layers.{i}"
        found |= {
            f"{ours}.attention_norm.weight": WeightSource(f"{theirs}.input_layernorm.weight"),
            f"{ours}.attention.out.weight": WeightSource(f"{theirs}.self_attn.o_proj.weight"),
            f"{ours}.mlp_norm.weight": WeightSource(f"{theirs}.post_attention_layernorm.weight"),
            f"{ours}.gate_up.weight": WeightSource(f"{theirs}.mlp.gate_up_proj.weight"),
            f"{ours}.down.weight": WeightSource(f"{theirs}.mlp.down_proj.weight"),
        }
        for kind in ("weight", "bias") if config.qkv_bias else ("weight",):
            found[f"{ours}.attention.qkv.{kind}"] = WeightSource(
                *(f"{theirs}.self_attn.{x}_proj.{kind}" for x in "qkv")
            )
    return found


# ---- text


class RankTokenizer:
    """GLM-4's ``tokenizer.model``: a tiktoken file of pieces by rank, as an `api.Tokenizer`.

    Special tokens follow the ranks. Text that spells one stays text; `decode` writes them out.
    """

    strips_leading_space = False

    def __init__(self, bounded: BoundedTokenizer) -> None:
        self._bounded = bounded
        self.special: dict[str, int] = bounded.facts["special"]
        self._end = max(self.special.values()) + 1

    @classmethod
    def load(cls, path: Path) -> RankTokenizer | None:
        """The file at `path`; None where there is none. Raises BadCheckpoint."""
        if not path.is_file():
            return None
        return cls(
            BoundedTokenizer(
                "tiktoken",
                lambda: read_model_file(path, MAX_VOCABULARY_BYTES),
                lambda error: BadCheckpoint(
                    _("{path} is not a tiktoken vocabulary: {error}").format(
                        path=path, error=error
                    ),
                    _("Fetch the model again with: glmtui pull"),
                ),
                split=SPLIT,
                special=SPECIALS,
            )
        )

    def encode(self, text: str) -> list[int]:
        return self._bounded.encode_each([text])[0]

    def decode(self, ids: Sequence[int]) -> str:
        return self._bounded.decode([i for i in ids if 0 <= i < self._end])

    def token_bytes(self, token_id: int) -> bytes:
        return self._bounded.token_bytes(token_id)


class ToolFormat(RoleFormat):
    """GLM-4's prompts: ChatGLM3's form, with tools called by a JSON object."""

    def tool_call(self, message: Message, *, declared: bool = True) -> ToolCall | None:
        return read_call(message, json_arguments, declared=declared)

    def declare(self, tools: Sequence[Tool], prompt: str | None = None) -> str:
        return declared_for_glm4(tools, prompt)


def load_tokenizer(folder: Path, raw: Mapping[str, Any]) -> Tokenizer | None:
    """The tokenizer of a folder, or None where it has neither layout's file."""
    return TokenizerJson.load(folder) or RankTokenizer.load(folder / "tokenizer.model")


def chat_format(tokenizer: Tokenizer, folder: Path, raw: Mapping[str, Any]) -> ChatFormat:
    assert isinstance(tokenizer, (TokenizerJson, RankTokenizer))
    return ToolFormat(tokenizer, ("[gMASK]", "<sop>"), stop_ids(raw) | generation_ends(folder))


def stop_ids(raw: Mapping[str, Any]) -> frozenset[int]:
    """Ids that end a reply, as config.json says, or else those of the releases."""
    eos = raw.get("eos_token_id")
    eos = GLM4_STOP_IDS if eos is None else eos
    return frozenset(eos if isinstance(eos, list) else [eos])


def defaults(folder: Path, raw: Mapping[str, Any]) -> SamplingParams:
    """The sampling parameters of the original's `model.chat`; top_k is generate's own."""
    return SamplingParams(
        temperature=0.8, top_k=50, top_p=0.8, do_sample=True, max_length=MAX_LENGTH
    )
