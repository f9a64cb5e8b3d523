"""Writes checkpoints of real size with random weights, for tests of memory and speed.

    python tests/support/large_checkpoints.py FOLDER [--layers 28] [--ends bin]

writes a ChatGLM-6B-Slim with the hub's tensor names (28 layers: 13.4 GB).
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
    """The size of a ChatGLM-6B; the defaults are those of the released model."""

    layers: int = 28
    hidden: int = 4096
    heads: int = 32
    vocab: int = 130_528

    def tensors(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Names and shapes of the tensors, in the order of the hub's files."""
        hidden = self.hidden
        yield "transformer.word_embeddings.weight", (self.vocab, hidden)
        for n in range(self.layers):
            prefix = f"transformer.layers.{n}"
            for name, rows, columns in (
                ("attention.query_key_value", 3 * hidden, hidden),
                ("attention.dense", hidden, hidden),
                ("mlp.dense_h_to_4h", 4 * hidden, hidden),
                ("mlp.dense_4h_to_h", hidden, 4 * hidden),
            ):
                yield f"{prefix}.{name}.weight", (rows, columns)
                yield f"{prefix}.{name}.bias", (rows,)
            for name in ("input_layernorm", "post_attention_layernorm"):
                yield f"{prefix}.{name}.weight", (hidden,)
                yield f"{prefix}.{name}.bias", (hidden,)
        yield "transformer.final_layernorm.weight", (hidden,)
        yield "transformer.final_layernorm.bias", (hidden,)
        yield "lm_head.weight", (self.vocab, hidden)


def write_chatglm(
    folder: Path, shape: Shape, *, ends: str = "safetensors", shard_bytes: int = 2**31
) -> int:
    """Writes the model in float16, one shard in memory at a time. Returns its size in bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    shards: list[dict[str, tuple[int, ...]]] = [{}]
    free = shard_bytes
    for name, size in shape.tensors():
        nbytes = 2 * prod(size)
        if nbytes > free and shards[-1]:
            shards.append({})
            free = shard_bytes
        shards[-1][name] = size
        free -= nbytes
    stem = "model" if ends == "safetensors" else "pytorch_model"
    weight_map = {}
    for n, shard in enumerate(shards, 1):
        file = f"{stem}-{n:05}-of-{len(shards):05}.{ends}"
        tensors = {name: _random_tensor(name, size) for name, size in shard.items()}
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


def _random_tensor(name: str, size: tuple[int, ...]) -> Tensor:
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
