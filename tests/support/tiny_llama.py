"""A tiny Llama with random weights, as a Hugging Face folder or a GGUF file. Imports no torch."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from gguf import GGMLQuantizationType, GGUFWriter
from gguf.quants import quantize
from safetensors.numpy import save
from tokenizers import Tokenizer, models, pre_tokenizers

from glmtui.engine.checkpoint.gguf.prepared_folder import LAYER_TENSORS

Array = npt.NDArray[Any]

HIDDEN, INNER, HEADS, KEY_HEADS, HEAD, LAYERS = 64, 96, 4, 2, 16, 2
ALPHABET = sorted(pre_tokenizers.ByteLevel.alphabet())
MERGES = ["h e", "l l", "he ll", "hell o", "Ġ w", "1 2"]
TOKENS = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    *ALPHABET,
    *("".join(m.split()) for m in MERGES),
]
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
)

HUB_NAMES = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}

LLAMA_CONFIG: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": HIDDEN,
    "intermediate_size": INNER,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KEY_HEADS,
    "head_dim": HEAD,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "max_position_embeddings": 256,
    "vocab_size": len(TOKENS),
    "tie_word_embeddings": True,
    "eos_token_id": 2,
    "torch_dtype": "float16",
}


def llama_tensors(vocabulary: int = len(TOKENS)) -> dict[str, Array]:
    """float32 weights with GGUF names and Hugging Face's row order."""
    rng = np.random.default_rng(0)

    def matrix(rows: int, columns: int) -> Array:
        return (rng.standard_normal((rows, columns)) * 0.2).astype(np.float32)

    tensors: dict[str, Array] = {"token_embd.weight": matrix(vocabulary, HIDDEN)}
    for n in range(LAYERS):
        tensors |= {
            f"blk.{n}.attn_norm.weight": np.ones(HIDDEN, np.float32) + matrix(1, HIDDEN)[0],
            f"blk.{n}.attn_q.weight": matrix(HEADS * HEAD, HIDDEN),
            f"blk.{n}.attn_k.weight": matrix(KEY_HEADS * HEAD, HIDDEN),
            f"blk.{n}.attn_v.weight": matrix(KEY_HEADS * HEAD, HIDDEN),
            f"blk.{n}.attn_output.weight": matrix(HIDDEN, HEADS * HEAD),
            f"blk.{n}.ffn_norm.weight": np.ones(HIDDEN, np.float32),
            f"blk.{n}.ffn_gate.weight": matrix(INNER, HIDDEN),
            f"blk.{n}.ffn_up.weight": matrix(INNER, HIDDEN),
            f"blk.{n}.ffn_down.weight": matrix(HIDDEN, INNER),
        }
    return tensors | {"output_norm.weight": np.ones(HIDDEN, np.float32)}


def hub_name(name: str) -> str:
    """The Hugging Face name of a GGUF tensor."""
    if not name.startswith("blk."):
        return HUB_NAMES[name.removesuffix(".weight")] + ".weight"
    _, layer, rest, _ = name.split(".")
    ours = {theirs: ours for theirs, ours, _ in LAYER_TENSORS}
    return f"model.layers.{layer}.{ours[rest]}.weight"


def dequantize_stored(stored: dict[str, Any], name: str) -> Any:
    """A weight of a prepared folder in float32."""
    q = stored[name]
    if f"{name}.scale" not in stored:
        return q.astype(np.float32)
    scale = stored[f"{name}.scale"].astype(np.float32)
    if q.dtype == np.uint8:
        q = np.stack([q & 15, q >> 4], axis=-1).reshape(len(q), -1)
    weight = q.reshape(*scale.shape, -1).astype(np.float32) * scale[..., None]
    if f"{name}.zero" in stored:
        weight = weight + stored[f"{name}.zero"].astype(np.float32)[..., None]
    return weight.reshape(len(q), -1)


def permute_heads(rows: Array, heads: int) -> Array:
    """The row order of q and k in GGUF files: `permute` of llama.cpp's converter."""
    halves = rows.reshape(heads, 2, rows.shape[0] // heads // 2, *rows.shape[1:])
    return halves.swapaxes(1, 2).reshape(rows.shape)


def write_gguf(
    path: Path,
    kinds: Mapping[str, GGMLQuantizationType] | GGMLQuantizationType = GGMLQuantizationType.F16,
    tensors: Mapping[str, Array] | None = None,
    edit: Callable[[GGUFWriter], None] = lambda writer: None,
    tokenizer: Callable[[GGUFWriter], None] | None = None,
    architecture: str = "llama",
    split: int = 0,
    small_first: bool = False,
) -> Path:
    """A GGUF file as llama.cpp's converter writes them.

    Args:
        kinds: the quantisation of all matrices, or by tensor name (F16 for the others).
        tensors: in Hugging Face's row order; None means `llama_tensors()`.
        edit: adds metadata or tensors.
        split: maximum number of tensors per part; 0 writes one file.
        small_first: the first part has no tensors.
    """
    writer = GGUFWriter(path, architecture, split_max_tensors=split, small_first_shard=small_first)
    writer.add_block_count(LAYERS)
    writer.add_context_length(256)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KEY_HEADS)
    writer.add_rope_dimension_count(HEAD)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_chat_template(TEMPLATE)
    (tokenizer or byte_level_tokenizer)(writer)
    edit(writer)
    for name, values in (tensors if tensors is not None else llama_tensors()).items():
        if ".attn_q." in name or ".attn_k." in name:
            values = permute_heads(values, HEADS if ".attn_q." in name else KEY_HEADS)
        if values.ndim == 1:
            writer.add_tensor(name, values)
            continue
        f16 = GGMLQuantizationType.F16
        kind = kinds.get(name, f16) if isinstance(kinds, Mapping) else kinds
        writer.add_tensor(name, quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def byte_level_tokenizer(writer: GGUFWriter, pre: str = "smollm") -> None:
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(TOKENS)
    writer.add_token_types([3, 3, 3] + [1] * (len(TOKENS) - 3))
    writer.add_token_merges(MERGES)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(2)


def llama_files(shards: int = 1, ends: str = "safetensors") -> dict[str, bytes]:
    """The files of a Hugging Face Llama folder.

    Args:
        ends: the suffix of the weight files, "safetensors" or "bin"; the content is safetensors.
    """
    tensors = {f"model.{name}": value.astype(np.float16) for name, value in llama_tensors().items()}
    vocabulary = {token: n for n, token in enumerate(TOKENS)}
    tokenizer = Tokenizer(models.BPE(vocabulary, [tuple(m.split(" ")) for m in MERGES]))
    files = {
        "config.json": json.dumps(LLAMA_CONFIG).encode(),
        "tokenizer.json": tokenizer.to_str().encode(),
        "tokenizer_config.json": json.dumps({"chat_template": TEMPLATE}).encode(),
    }
    stem = "model" if ends == "safetensors" else "pytorch_model"
    if shards == 1:
        return files | {f"{stem}.{ends}": save(tensors)}
    weight_map = {}
    for n in range(shards):
        shard = f"{stem}-{n + 1:05}-of-{shards:05}.{ends}"
        part = dict(list(tensors.items())[n::shards])
        weight_map |= dict.fromkeys(part, shard)
        files[shard] = save(part)
    index = {"metadata": {}, "weight_map": weight_map}
    return files | {f"{stem}.{ends}.index.json": json.dumps(index).encode()}


def write_folder(folder: Path, files: Mapping[str, bytes]) -> Path:
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def write_llama(folder: Path) -> Path:
    """A Hugging Face Llama folder that can be loaded: random weights in float32."""
    tensors = {hub_name(name): value for name, value in llama_tensors().items()}
    return write_folder(folder, llama_files() | {"model.safetensors": save(tensors)})
