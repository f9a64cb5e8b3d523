"""Folders of tiny models of classes that transformers has built in: random weights, a tokenizer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedModel

from glmtui.engine.model_info import LoadOptions
from support.tiny_llama import MERGES, TEMPLATE, TOKENS

SIZES: dict[str, Any] = {
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
GQA_SIZES = SIZES | {"intermediate_size": 96, "num_key_value_heads": 2, "head_dim": 16}
GLM4_MARKERS = ("[gMASK]", "<sop>", "<|system|>", "<|user|>", "<|assistant|>", "<|observation|>")
LLAMA3_SCALING = {
    "rope_type": "llama3",
    "rope_theta": 10_000.0,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
KINDS: dict[str, dict[str, Any]] = {
    "qwen2": {**SIZES, "num_key_value_heads": 2},
    "gpt_neox": SIZES,
    "gpt2": {
        **{key: SIZES[key] for key in ("vocab_size", "bos_token_id", "eos_token_id")},
        "n_embd": 64,
        "n_layer": 2,
        "n_head": 4,
        "n_positions": 256,
    },
    "mistral": {**SIZES, "num_key_value_heads": 2, "sliding_window": 16},
    "llama": {**SIZES, "rope_parameters": LLAMA3_SCALING},
    "mamba": {**SIZES, "state_size": 8},
}
OPTIONS = LoadOptions(device="cpu", dtype="float32", quant=None)


def write_model(folder: Path, kind: str) -> tuple[Path, PreTrainedModel]:
    """Writes the model that `KINDS` describes; returns the folder and the model."""
    return folder, _write(folder, kind, KINDS[kind])


def write_transformers_model(folder: Path, kind: str, **fields: Any) -> PreTrainedModel:
    """Writes a model of transformers' `kind` with `GQA_SIZES` and these fields."""
    return _write(folder, kind, GQA_SIZES | fields)


def _write(folder: Path, kind: str, fields: dict[str, Any]) -> PreTrainedModel:
    torch.manual_seed(0)
    config = CONFIG_MAPPING[kind](**fields)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):  # transformers starts with zeros, which would hide a wrong bias
            torch.nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(folder)
    write_tokenizer(folder, GLM4_MARKERS if kind == "glm" else ())
    return model


def write_tokenizer(folder: Path, markers: tuple[str, ...] = ()) -> None:
    """A byte-level tokenizer and a chat template.

    Args:
        markers: special tokens; they replace the last words of the vocabulary.
    """
    tokens = [*TOKENS[: len(TOKENS) - len(markers)], *markers]
    vocabulary = {token: i for i, token in enumerate(tokens)}
    pairs = [(a, b) for a, b in (merge.split(" ") for merge in MERGES) if a + b in vocabulary]
    tokenizer = Tokenizer(models.BPE(vocabulary, pairs))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = [*TOKENS[:3], *markers]
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in special])
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": TEMPLATE}))


def edit_json(folder: Path, name: str = "config.json", **entries: Any) -> None:
    """Changes entries of a JSON file; `...` removes one."""
    path = folder / name
    content = {**(json.loads(path.read_bytes()) if path.exists() else {}), **entries}
    path.write_text(json.dumps({k: v for k, v in content.items() if v is not ...}))
