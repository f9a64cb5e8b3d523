"""convert_gguf: a Llama-shaped GGUF file to a model folder in Hugging Face's layout.

Tensors are converted and written in pieces, so memory stays small whatever the model's size.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from types import MappingProxyType
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from glmtui.engine.checkpoint.gguf.blocks import (
    ITEM_BYTES,
    Array,
    StoredPart,
    stored_kind,
    stored_parts,
)
from glmtui.engine.checkpoint.gguf.file import GGUFFile, GGUFTensor, read_gguf
from glmtui.engine.checkpoint.gguf.tokenizer import build_tokenizer
from glmtui.engine.checkpoint.safetensors_header import TensorEntry, encode_header
from glmtui.engine.progress import Progress, ProgressHook
from glmtui.errors import BadCheckpoint, UnsupportedModel
from glmtui.language import _

PIECE_WEIGHTS = 2**21  # converted at a time; 8 MB in float32

# GGUF's name in a block, Hugging Face's name in a layer, and the key of its shape
LAYER_TENSORS = (
    ("attn_norm", "input_layernorm", "norm"),
    ("attn_q", "self_attn.q_proj", "q"),
    ("attn_k", "self_attn.k_proj", "k"),
    ("attn_v", "self_attn.v_proj", "k"),
    ("attn_output", "self_attn.o_proj", "o"),
    ("ffn_norm", "post_attention_layernorm", "norm"),
    ("ffn_gate", "mlp.gate_proj", "up"),
    ("ffn_up", "mlp.up_proj", "up"),
    ("ffn_down", "mlp.down_proj", "down"),
)


@dataclass(frozen=True, slots=True)
class ConvertedTensor:
    """A GGUF tensor under its Hugging Face name.

    Attributes:
        parts: the tensors to store for it.
        row_order: the row in the file of each row to store; None if the order is the same.
    """

    name: str
    tensor: GGUFTensor
    parts: tuple[StoredPart, ...]
    row_order: npt.NDArray[np.intp] | None = None


def convert_gguf(
    source: Path,
    folder: Path,
    on_progress: ProgressHook = lambda progress: None,
    sampling: Mapping[str, Any] = MappingProxyType({}),
) -> str:
    """Writes config, tokenizer and weights of a GGUF file into `folder`, which must exist.

    Args:
        sampling: recommended parameters for generation_config.json; a GGUF file has none.

    Returns:
        How the weights are stored, such as "int4 g32 + int8 g32".

    Raises:
        BadCheckpoint: the file is damaged or inconsistent.
        UnsupportedModel: the model is not Llama-shaped, or its tokenizer is not supported.
        OSError: the disk is full or not writable.
    """
    file = read_gguf(source)
    config = _llama_config(file)
    tensors = _llama_tensors(file, config)
    tokenizer = build_tokenizer(file)
    ends = {key: config[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
    for name, content in (
        ("config.json", config),
        ("generation_config.json", {**ends, **sampling}),
        ("tokenizer_config.json", _tokenizer_config(file)),
    ):
        text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
        (folder / name).write_text(text, encoding="utf-8")
    (folder / "tokenizer.json").write_text(tokenizer.to_str(), encoding="utf-8")
    with (folder / "model.safetensors").open("wb") as out:
        _write_safetensors(source, tensors, out, on_progress)
    return _stored_kinds(tensors)


def _llama_config(file: GGUFFile) -> dict[str, Any]:
    """A Hugging Face Llama config.json from a GGUF file's metadata."""
    architecture = file.require("general.architecture", str)
    if architecture != "llama":
        raise UnsupportedModel(
            _(
                "{path}: the GGUF architecture {architecture!r} is not supported, only 'llama'."
            ).format(path=file.path, architecture=architecture),
            _("Use the model's folder from the hub instead (config.json and safetensors)."),
        )
    scaling = file.get("llama.rope.scaling.type", str)
    if scaling not in (None, "none") or "rope_freqs.weight" in file.tensors:
        raise UnsupportedModel(
            _("{path}: scaled rotary positions are not supported.").format(path=file.path)
        )
    if file.get("llama.expert_count", int):
        raise UnsupportedModel(
            _("{path}: a mixture of experts is not supported.").format(path=file.path)
        )
    hidden = file.require("llama.embedding_length", int)
    heads = file.require("llama.attention.head_count", int)
    key_heads = file.get("llama.attention.head_count_kv", int) or heads
    if heads < 1 or key_heads < 1 or heads % key_heads:
        raise BadCheckpoint(
            _("{path}: {heads} attention heads cannot share {key_heads} key/value heads.").format(
                path=file.path, heads=heads, key_heads=key_heads
            )
        )
    head = file.get("llama.rope.dimension_count", int) or hidden // heads
    if head < 2 or head % 2:
        raise BadCheckpoint(
            _("{path}: rotary positions need an even head size, not {head}.").format(
                path=file.path, head=head
            )
        )
    ends = [file.get(f"tokenizer.ggml.{name}_token_id", int) for name in ("eos", "eot", "eom")]
    if ends[0] is None and file.require("tokenizer.ggml.model", str) == "llama":
        ends[0] = 2  # </s>, llama.cpp's default
    end_ids = list(dict.fromkeys(end for end in ends if end is not None))
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": hidden,
        "intermediate_size": file.require("llama.feed_forward_length", int),
        "num_hidden_layers": file.require("llama.block_count", int),
        "num_attention_heads": heads,
        "num_key_value_heads": key_heads,
        "head_dim": head,
        "hidden_act": "silu",
        "rms_norm_eps": _shortest(file.require("llama.attention.layer_norm_rms_epsilon", float)),
        "rope_theta": _shortest(file.get("llama.rope.freq_base", float) or 10000.0),
        "max_position_embeddings": file.require("llama.context_length", int),
        "vocab_size": len(file.require("tokenizer.ggml.tokens", list)),
        "tie_word_embeddings": "output.weight" not in file.tensors,
        "bos_token_id": file.get("tokenizer.ggml.bos_token_id", int),
        "eos_token_id": end_ids if len(end_ids) > 1 else next(iter(end_ids), None),
        "pad_token_id": file.get("tokenizer.ggml.padding_token_id", int),
        "torch_dtype": "float16",
    }


def _shortest(value: float) -> float:
    """The shortest decimal for a float32: 1e-05 instead of 9.999999747378752e-06."""
    return float(str(np.float32(value)))


def _tokenizer_config(file: GGUFFile) -> dict[str, Any]:
    tokens = file.require("tokenizer.ggml.tokens", list)
    add_bos = file.get("tokenizer.ggml.add_bos_token", bool)
    if add_bos is None:  # llama.cpp's default: only for SentencePiece
        add_bos = file.require("tokenizer.ggml.model", str) == "llama"
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "model_max_length": file.require("llama.context_length", int),
        "add_bos_token": add_bos,
    }
    for ours, theirs in (("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("pad", "padding")):
        token_id = file.get(f"tokenizer.ggml.{theirs}_token_id", int)
        if token_id is not None and token_id >= len(tokens):
            raise BadCheckpoint(
                _(
                    "{path}: the id of its {ours} token, {token_id}, is not in the vocabulary."
                ).format(path=file.path, ours=ours, token_id=token_id)
            )
        if token_id is not None:
            config[f"{ours}_token"] = tokens[token_id]
    template = file.get("tokenizer.chat_template", str)
    return config if template is None else {**config, "chat_template": template}


def _llama_tensors(file: GGUFFile, config: Mapping[str, Any]) -> list[ConvertedTensor]:
    """Every tensor of the model, under its Hugging Face name.

    Raises:
        BadCheckpoint: a tensor is missing or has the wrong shape.
        UnsupportedModel: there are other tensors, or a tensor cannot be unpacked.
    """
    hidden, head = config["hidden_size"], config["head_dim"]
    heads, key_heads = config["num_attention_heads"], config["num_key_value_heads"]
    shapes: Mapping[str, tuple[int, ...]] = {
        "norm": (hidden,),
        "q": (heads * head, hidden),
        "k": (key_heads * head, hidden),
        "o": (hidden, heads * head),
        "up": (config["intermediate_size"], hidden),
        "down": (hidden, config["intermediate_size"]),
        "vocabulary": (config["vocab_size"], hidden),
    }
    found = []
    for theirs, ours, kind in _tensor_names(config):
        tensor = file.tensors.get(theirs)
        if tensor is None:
            raise BadCheckpoint(
                _("{path}: tensor {theirs} is missing.").format(path=file.path, theirs=theirs)
            )
        if tensor.shape != shapes[kind]:
            raise BadCheckpoint(
                _("{path}: {theirs} has shape {shape} instead of {wanted}.").format(
                    path=file.path, theirs=theirs, shape=tensor.shape, wanted=shapes[kind]
                )
            )
        try:
            parts = stored_parts(tensor.kind)
        except NotImplementedError:
            raise UnsupportedModel(
                _("{path}: {theirs} is stored as {kind}, which cannot be unpacked.").format(
                    path=file.path, theirs=theirs, kind=tensor.kind.name
                )
            ) from None
        is_rotated = theirs.endswith(("attn_q.weight", "attn_k.weight"))
        row_order = _unpermuted_rows(tensor.shape[0], head) if is_rotated else None
        found.append(ConvertedTensor(ours, tensor, parts, row_order))
    unexpected = file.tensors.keys() - {converted.tensor.name for converted in found}
    if unexpected:
        raise UnsupportedModel(
            _("{path}: unexpected tensor {name} in a Llama model.").format(
                path=file.path, name=min(unexpected)
            )
        )
    return found


def _tensor_names(config: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """GGUF's name, Hugging Face's name and the key of the shape of every tensor."""
    yield "token_embd.weight", "model.embed_tokens.weight", "vocabulary"
    for layer in range(config["num_hidden_layers"]):
        for theirs, ours, kind in LAYER_TENSORS:
            yield f"blk.{layer}.{theirs}.weight", f"model.layers.{layer}.{ours}.weight", kind
    yield "output_norm.weight", "model.norm.weight", "norm"
    if not config["tie_word_embeddings"]:
        yield "output.weight", "lm_head.weight", "vocabulary"


def _unpermuted_rows(rows: int, head: int) -> npt.NDArray[np.intp]:
    """For each row of Hugging Face's q or k projection, its row in the GGUF file.

    llama.cpp rotates adjacent columns of a head, Hugging Face its two halves. llama.cpp's converter
    therefore interleaves the halves (`permute` in convert_hf_to_gguf.py); this is the inverse.
    """
    pairs = np.arange(rows).reshape(-1, head // 2, 2)
    halves: npt.NDArray[np.intp] = pairs.transpose(0, 2, 1).reshape(-1)
    return halves


def _stored_kinds(tensors: Sequence[ConvertedTensor]) -> str:
    """How the matrices are stored, the most frequent kind first."""
    weights: dict[str, int] = {}
    for tensor in (converted.tensor for converted in tensors if len(converted.tensor.shape) > 1):
        kind = stored_kind(tensor.kind)
        weights[kind] = weights.get(kind, 0) + prod(tensor.shape)
    return " + ".join(sorted(weights, key=lambda kind: -weights[kind]))


def _write_safetensors(
    source: Path, tensors: Sequence[ConvertedTensor], out: IO[bytes], on_progress: ProgressHook
) -> None:
    entries = []
    for converted in tensors:
        *rows, columns = converted.tensor.shape
        for part in converted.parts:
            shape = [*rows, columns // part.columns_per_item]
            nbytes = prod(shape) * ITEM_BYTES[part.dtype]
            entries.append(TensorEntry(converted.name + part.suffix, part.dtype, shape, nbytes))
    out.write(encode_header(entries))
    total = sum(entry.nbytes for entry in entries)
    done = 0
    for converted in tensors:
        for part in converted.parts:
            for piece in _convert_rows(converted, part):
                if part.dtype == "F16" and not np.isfinite(piece).all():
                    raise BadCheckpoint(
                        _("{source}: {name} has values that are too large for float16.").format(
                            source=source, name=converted.name
                        )
                    )
                out.write(piece.tobytes())
                done += piece.nbytes
                on_progress(Progress(_("converting"), done, total))


def _convert_rows(converted: ConvertedTensor, part: StoredPart) -> Iterator[Array]:
    """The stored tensor, some rows at a time."""
    data = converted.tensor.data.reshape(-1, converted.tensor.data.shape[-1])
    step = max(1, PIECE_WEIGHTS // converted.tensor.shape[-1])
    for start in range(0, len(data), step):
        block = slice(start, start + step)
        with np.errstate(over="ignore"):  # the caller checks for infinities
            order = converted.row_order
            yield part.convert(data[block if order is None else order[block]])
