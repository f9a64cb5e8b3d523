"""GLM-4-9B: ChatGLM3 with a tiktoken vocabulary, JSON tool calls, and a second layout.

Reads THUDM/glm-4-9b-chat on the hub in its original layout, and -chat-hf with the tensor names and
the config of Hugging Face's ``GlmForCausalLM``. The decoder is the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from glmtui.chat import Message, SamplingParams
from glmtui.engine.api import ToolCall
from glmtui.engine.catalog.family_fields import GLM4_STOP_IDS, read_fields
from glmtui.engine.checkpoint.checkpoint import WeightSource
from glmtui.engine.models import chatglm2
from glmtui.engine.models.chatglm2 import ROPE_BASE, Config, Model, make_config
from glmtui.engine.models.chatglm3 import ROLE_TOKENS, RoleFormat
from glmtui.engine.tokenization.generation_config import eos_ids, read_eos_ids
from glmtui.engine.tokenization.hf_tokenizer import HFTokenizer
from glmtui.engine.tokenization.protocols import ChatFormat, Tokenizer
from glmtui.engine.tokenization.tiktoken_tokenizer import TiktokenTokenizer
from glmtui.engine.tokenization.tool_calls import (
    ToolDeclaration,
    glm4_tools_prompt,
    parse_json_arguments,
    parse_tool_call,
)

__all__ = [
    "Config",
    "Model",
    "chat_format",
    "load_config",
    "load_tokenizer",
    "sampling_defaults",
    "stop_ids",
    "weight_sources",
]

SPECIAL_TOKENS = ("<|endoftext|>", "[MASK]", "[gMASK]", "[sMASK]", "<sop>", "<eop>", *ROLE_TOKENS)
# how text is split into words before pieces are merged; the same as OpenAI's cl100k
SPLIT_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
MAX_LENGTH = 8192  # tokens; the default of the original `model.chat`, though the context is longer


def load_config(raw: Mapping[str, Any]) -> Config:
    """From a config.json of either layout. Raises BadCheckpoint, UnsupportedModel."""
    fields = read_fields(raw, "glm4")
    if "padded_vocab_size" not in raw:
        return _hf_config(fields)
    return make_config(
        fields,
        context_length=fields["seq_length"],
        rope_base=ROPE_BASE * fields["rope_ratio"],
    )


def _hf_config(fields: Mapping[str, Any]) -> Config:
    heads = fields["num_attention_heads"]
    return Config(
        layers=fields["num_hidden_layers"],
        hidden=fields["hidden_size"],
        inner=fields["intermediate_size"],
        heads=heads,
        kv_heads=fields["num_key_value_heads"],
        head_dim=fields["head_dim"] or fields["hidden_size"] // heads,
        vocab=fields["vocab_size"],
        context_length=fields["max_position_embeddings"],
        rms_norm_eps=fields["rms_norm_eps"],
        qkv_bias=fields["attention_bias"],
        out_bias=False,
        rope_base=fields["rope_theta"],
        hf_names=True,
    )


def weight_sources(config: Config) -> dict[str, WeightSource]:
    """The checkpoint tensors of each parameter, by the parameter's name."""
    if not config.hf_names:
        return chatglm2.weight_sources(config)
    sources = {
        "embedding.weight": WeightSource("model.embed_tokens.weight"),
        "norm.weight": WeightSource("model.norm.weight"),
        "head.weight": WeightSource("lm_head.weight"),
    }
    for i in range(config.layers):
        source, target = f"model.layers.{i}", f"layers.{i}"
        sources |= {
            f"{target}.attention_norm.weight": WeightSource(f"{source}.input_layernorm.weight"),
            f"{target}.attention.out.weight": WeightSource(f"{source}.self_attn.o_proj.weight"),
            f"{target}.mlp_norm.weight": WeightSource(f"{source}.post_attention_layernorm.weight"),
            f"{target}.gate_up.weight": WeightSource(f"{source}.mlp.gate_up_proj.weight"),
            f"{target}.down.weight": WeightSource(f"{source}.mlp.down_proj.weight"),
        }
        for kind in ("weight", "bias") if config.qkv_bias else ("weight",):
            sources[f"{target}.attention.qkv.{kind}"] = WeightSource(
                *(f"{source}.self_attn.{x}_proj.{kind}" for x in "qkv")
            )
    return sources


# ---- text


class JsonToolFormat(RoleFormat):
    """GLM-4's prompts: ChatGLM3's, with JSON arguments of tool calls."""

    def tool_call(self, message: Message, *, declared: bool = True) -> ToolCall | None:
        return parse_tool_call(message, parse_json_arguments, declared=declared)

    def tools_prompt(self, tools: Sequence[ToolDeclaration], prompt: str | None = None) -> str:
        return glm4_tools_prompt(tools, prompt)


def load_tokenizer(folder: Path, raw: Mapping[str, Any]) -> Tokenizer | None:
    """The tokenizer of a folder; None if neither layout's file is there. Raises BadCheckpoint."""
    return HFTokenizer.load(folder) or TiktokenTokenizer.load(
        folder / "tokenizer.model", SPECIAL_TOKENS, SPLIT_PATTERN
    )


def chat_format(tokenizer: Tokenizer, folder: Path, raw: Mapping[str, Any]) -> ChatFormat:
    assert isinstance(tokenizer, (HFTokenizer, TiktokenTokenizer))
    return JsonToolFormat(tokenizer, ("[gMASK]", "<sop>"), stop_ids(raw) | read_eos_ids(folder))


def stop_ids(raw: Mapping[str, Any]) -> frozenset[int]:
    """Ids that end a reply, from config.json, or else those of the releases."""
    return frozenset(GLM4_STOP_IDS) if raw.get("eos_token_id") is None else eos_ids(raw)


def sampling_defaults(folder: Path, raw: Mapping[str, Any]) -> SamplingParams:
    """The defaults of the original `model.chat`; top_k is the default of `generate`."""
    return SamplingParams(
        temperature=0.8, top_k=50, top_p=0.8, do_sample=True, max_length=MAX_LENGTH
    )
