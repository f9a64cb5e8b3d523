"""Folders of tiny models with random weights, made by transformers and with a tokenizer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedModel

from support.checkpoints import MERGES, TEMPLATE, TOKENS

SMALL: dict[str, Any] = {
    "vocab_size": len(TOKENS),
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 256,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 2,
    "initializer_range": 0.2,
}
GLM4_MARKS = ("[gMASK]", "<sop>", "<|system|>", "<|user|>", "<|assistant|>", "<|observation|>")


def make(folder: Path, kind: str, **fields: Any) -> PreTrainedModel:
    """Writes a model of transformers' `kind`, in float32, and returns it."""
    torch.manual_seed(0)
    config = CONFIG_MAPPING[kind](**{**SMALL, **fields})
    theirs = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    for name, parameter in theirs.named_parameters():
        if name.endswith("bias"):  # transformers begins with zeros, which would show nothing
            torch.nn.init.normal_(parameter, std=0.2)
    theirs.save_pretrained(folder)
    write_tokenizer(folder, GLM4_MARKS if kind == "glm" else ())
    return theirs


def write_tokenizer(folder: Path, marks: tuple[str, ...] = ()) -> None:
    """A byte-level tokenizer with a chat template; `marks` are special tokens in place of words."""
    tokens = [*TOKENS[: len(TOKENS) - len(marks)], *marks]
    vocabulary = {token: i for i, token in enumerate(tokens)}
    pairs = [(a, b) for a, b in (merge.split(" ") for merge in MERGES) if a + b in vocabulary]
    fast = Tokenizer(models.BPE(vocabulary, pairs))
    fast.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    fast.decoder = decoders.ByteLevel()
    special = [*TOKENS[:3], *marks]
    fast.add_special_tokens([AddedToken(token, special=True) for token in special])
    fast.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": TEMPLATE}))


def change(folder: Path, name: str = "config.json", **entries: Any) -> None:
    """Changes entries of a JSON file; `...` takes one away."""
    path = folder / name
    content = {**(json.loads(path.read_bytes()) if path.exists() else {}), **entries}
    path.write_text(json.dumps({k: v for k, v in content.items() if v is not ...}))
