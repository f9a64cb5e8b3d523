"""Small models of classes that transformers has built in, saved by it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    CONFIG_MAPPING,
    AutoModelForCausalLM,
    PreTrainedModel,
)

from glmtui.engine.model_info import LoadOptions
from support.checkpoints import MERGES, TEMPLATE, TOKENS

SMALL: dict[str, Any] = {
    "vocab_size": len(TOKENS),
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 2,
    "initializer_range": 0.2,
}


LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10_000.0,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}


KINDS: dict[str, dict[str, Any]] = {
    "qwen2": {**SMALL, "num_key_value_heads": 2},
    "gpt_neox": SMALL,
    "gpt2": {
        **{key: SMALL[key] for key in ("vocab_size", "bos_token_id", "eos_token_id")},
        "n_embd": 64,
        "n_layer": 2,
        "n_head": 4,
        "n_positions": 256,
    },
    "mistral": {**SMALL, "num_key_value_heads": 2, "sliding_window": 16},
    "llama": {**SMALL, "rope_parameters": LLAMA3},
    "mamba": {**SMALL, "state_size": 8},
}


OPTIONS = LoadOptions(device="cpu", dtype="float32", quant=None)


def write_model(folder: Path, kind: str) -> tuple[Path, PreTrainedModel]:
    torch.manual_seed(0)
    config = CONFIG_MAPPING[kind](**KINDS[kind])
    theirs = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    theirs.save_pretrained(folder)
    vocabulary = {token: i for i, token in enumerate(TOKENS)}
    fast = Tokenizer(models.BPE(vocabulary, [tuple(merge.split(" ")) for merge in MERGES]))
    fast.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    fast.decoder = decoders.ByteLevel()
    fast.add_special_tokens([AddedToken(token, special=True) for token in TOKENS[:3]])
    fast.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": TEMPLATE}))
    return folder, theirs
