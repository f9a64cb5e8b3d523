"""Checkpoints of real size with random weights, written in pieces: for what only size shows.

    python tests/support/large_checkpoints.py FOLDER [--layers 28] [--ends bin]

writes a ChatGLM-6B-Slim under the hub's tensor names (28 layers: 13.4 GB). It answers nothing.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor


@dataclass(frozen=True)
class Shape:
    """The size of a ChatGLM-6B; as released unless told otherwise."""

    layers: int = 28
    hidden: int = 4096
    heads: int = 32
    vocab: int = 130_528

    def tensors(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Names and shapes, in the hub's order."""
        wide = self.hidden
        yield "transformer.word_embeddings.weight", (self.vocab, wide)
        for n in range(self.layers):
            at = f"transformer.layers.{n}"
            for name, rows, columns in (
                ("attention.query_key_value", 3 * wide, wide),
                ("attention.dense", wide, wide),
                ("mlp.dense_h_to_4h", 4 * wide, wide),
                ("mlp.dense_4h_to_h", wide, 4 * wide),
            ):
                yield f"{at}.{name}.weight", (rows, columns)
                yield f"{at}.{name}.bias", (rows,)
            for name in ("input_layernorm", "post_attention_layernorm"):
                yield f"{at}.{name}.weight", (wide,)
                yield f"{at}.{name}.bias", (wide,)
        yield "transformer.final_layernorm.weight", (wide,)
        yield "transformer.final_layernorm.bias", (wide,)
        yield "lm_head.weight", (self.vocab, wide)


def write_chatglm(
    folder: Path, shape: Shape, *, ends: str = "safetensors", shard_bytes: int = 2**31
) -> int:
    """Writes the model in float16, one shard in memory at a time. Returns its bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    shards: list[dict[str, tuple[int, ...]]] = [{}]
    room = shard_bytes
    for name, size in shape.tensors():
        nbytes = 2 * prod(size)
        if nbytes > room and shards[-1]:
            shards.append({})
            room = shard_bytes
        shards[-1][name] = size
        room -= nbytes
    stem = "model" if ends == "safetensors" else "pytorch_model"
    weight_map = {}
    for n, shard in enumerate(shards, 1):
        file = f"{stem}-{n:05}-of-{len(shards):05}.{ends}"
        tensors = {name: _random(name, size) for name, size in shard.items()}
        (save_file if ends == "safetensors" else torch.save)(tensors, folder / file)
        weight_map |= dict.fromkeys(tensors, file)
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / f"{stem}.{ends}.index.json").write_text(json.dumps(index))
    config = {
        "model_type": "chatglm",
        "num_layers": shape.layers,
        "hidden_size": shape.hidden,
        "inner_hidden_size": 4 * shape.hidden,
        "num_attention_heads": shape.heads,
        "vocab_size": shape.vocab,
        "max_sequence_length": 2048,
        "layernorm_epsilon": 1e-5,
        "gmask_token_id": shape.vocab - 527,
        "mask_token_id": shape.vocab - 528,
        "bos_token_id": shape.vocab - 524,
        "eos_token_id": shape.vocab - 523,
        "pad_token_id": 3,
        "torch_dtype": "float16",
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    return sum(path.stat().st_size for path in folder.glob(f"*.{ends}"))


def _random(name: str, size: tuple[int, ...]) -> Tensor:
    if "norm" in name and name.endswith("weight"):
        return torch.ones(size, dtype=torch.float16)
    return torch.empty(size, dtype=torch.float16).normal_(0, 0.02)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--layers", type=int, default=28)
    parser.add_argument("--ends", choices=("safetensors", "bin"), default="safetensors")
    args = parser.parse_args()
    nbytes = write_chatglm(args.folder, Shape(layers=args.layers), ends=args.ends)
    print(f"{args.folder}: {nbytes / 1e9:.2f} GB")
