"""From a GGUF file to a prepared model folder, weights repacked without loss.

Tensors are converted some two million weights at a time and written as they come, so memory stays
small whatever the model's size. Llama-shaped models only. Knows how a GGUF file and a Hugging Face
folder name the same things; where the folder belongs, `pull` knows.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from types import MappingProxyType
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from glmtui.engine.checkpoint.gguf.blocks import WIDTH, Array, StoredPart, stored_kind, stored_parts
from glmtui.engine.checkpoint.gguf.file import GGUFFile, GGUFTensor, read_gguf
from glmtui.engine.checkpoint.gguf.tokenizer import build_tokenizer
from glmtui.engine.progress import Progress, ProgressHook
from glmtui.errors import BadCheckpoint, UnsupportedModel
from glmtui.language import _

PIECE = 2**21  # weights converted at a time

# GGUF's name within a block, Hugging Face's name within a layer, and which shape it has
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
        parts: how it is stored.
        rows: where each of our rows lies in the file; None where the order is the same.
    """

    name: str
    tensor: GGUFTensor
    parts: tuple[StoredPart, ...]
    rows: npt.NDArray[np.intp] | None = None


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
        BadCheckpoint: the file is damaged or contradicts itself.
        UnsupportedModel: it is sound, but no Llama-shaped model or of an unknown tokenizer.
        OSError: the disk is full or may not be written.
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
    return _stored(tensors)


def _llama_config(file: GGUFFile) -> dict[str, Any]:
    """A Hugging Face Llama config.json from a GGUF file's metadata."""
    architecture = file.need("general.architecture", str)
    if architecture != "llama":
        raise UnsupportedModel(
            _("{path}: GGUF files of the kind {architecture!r} are not read, only 'llama'.").format(
                path=file.path, architecture=architecture
            ),
            _("Use the model's own folder from the hub (config.json and safetensors) instead."),
        )
    scaling = file.get("llama.rope.scaling.type", str)
    if scaling not in (None, "none") or "rope_freqs.weight" in file.tensors:
        raise UnsupportedModel(
            _("{path}: it scales its rotary angles, which is not read.").format(path=file.path)
        )
    if file.get("llama.expert_count", int):
        raise UnsupportedModel(
            _("{path}: it is a mixture of experts, which is not read.").format(path=file.path)
        )
    hidden = file.need("llama.embedding_length", int)
    heads = file.need("llama.attention.head_count", int)
    key_heads = file.get("llama.attention.head_count_kv", int) or heads
    if heads < 1 or key_heads < 1 or heads % key_heads:
        raise BadCheckpoint(
            _("{path}: {heads} heads cannot share {key_heads} heads of keys.").format(
                path=file.path, heads=heads, key_heads=key_heads
            )
        )
    head = file.get("llama.rope.dimension_count", int) or hidden // heads
    if head < 2 or head % 2:
        raise BadCheckpoint(
            _("{path}: heads of {head} columns cannot be rotated.").format(
                path=file.path, head=head
            )
        )
    ends = [file.get(f"tokenizer.ggml.{name}_token_id", int) for name in ("eos", "eot", "eom")]
    if ends[0] is None and file.need("tokenizer.ggml.model", str) == "llama":
        ends[0] = 2  # </s>, as llama.cpp has it
    several = list(dict.fromkeys(end for end in ends if end is not None))
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": hidden,
        "intermediate_size": file.need("llama.feed_forward_length", int),
        "num_hidden_layers": file.need("llama.block_count", int),
        "num_attention_heads": heads,
        "num_key_value_heads": key_heads,
        "head_dim": head,
        "hidden_act": "silu",
        "rms_norm_eps": _shortest(file.need("llama.attention.layer_norm_rms_epsilon", float)),
        "rope_theta": _shortest(file.get("llama.rope.freq_base", float) or 10000.0),
        "max_position_embeddings": file.need("llama.context_length", int),
        "vocab_size": len(file.need("tokenizer.ggml.tokens", list)),
        "tie_word_embeddings": "output.weight" not in file.tensors,
        "bos_token_id": file.get("tokenizer.ggml.bos_token_id", int),
        "eos_token_id": several if len(several) > 1 else next(iter(several), None),
        "pad_token_id": file.get("tokenizer.ggml.padding_token_id", int),
        "torch_dtype": "float16",
    }


def _shortest(value: float) -> float:
    """The shortest decimal that is this float32: 1e-05, not 9.999999747378752e-06."""
    return float(str(np.float32(value)))


def _tokenizer_config(file: GGUFFile) -> dict[str, Any]:
    tokens = file.need("tokenizer.ggml.tokens", list)
    begins = file.get("tokenizer.ggml.add_bos_token", bool)
    if begins is None:  # llama.cpp begins a SentencePiece prompt with <s> unless told otherwise
        begins = file.need("tokenizer.ggml.model", str) == "llama"
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "model_max_length": file.need("llama.context_length", int),
        "add_bos_token": begins,
    }
    for ours, theirs in (("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("pad", "padding")):
        token_id = file.get(f"tokenizer.ggml.{theirs}_token_id", int)
        if token_id is not None and token_id >= len(tokens):
            raise BadCheckpoint(
                _("{path}: its {ours} token, {token_id}, does not exist.").format(
                    path=file.path, ours=ours, token_id=token_id
                )
            )
        if token_id is not None:
            config[f"{ours}_token"] = tokens[token_id]
    template = file.get("tokenizer.chat_template", str)
    return config if template is None else {**config, "chat_template": template}


def _llama_tensors(file: GGUFFile, config: Mapping[str, Any]) -> list[ConvertedTensor]:
    """Every tensor of a Llama, found and of the right shape, under its Hugging Face name."""
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
    for theirs, ours, kind in _names(config):
        tensor = file.tensors.get(theirs)
        if tensor is None:
            raise BadCheckpoint(
                _("{path}: tensor {theirs} is missing.").format(path=file.path, theirs=theirs)
            )
        if tensor.shape != shapes[kind]:
            raise BadCheckpoint(
                _("{path}: {theirs} has the shape {shape}, not {wanted}.").format(
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
        turned = theirs.endswith(("attn_q.weight", "attn_k.weight"))
        rows = _unpermuted(tensor.shape[0], head) if turned else None
        found.append(ConvertedTensor(ours, tensor, parts, rows))
    strange = file.tensors.keys() - {renamed.tensor.name for renamed in found}
    if strange:
        raise UnsupportedModel(
            _("{path}: a Llama has no tensor {name}.").format(path=file.path, name=min(strange))
        )
    return found


def _names(config: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """GGUF's name, Hugging Face's name, and kind of shape of every tensor."""
    yield "token_embd.weight", "model.embed_tokens.weight", "vocabulary"
    for layer in range(config["num_hidden_layers"]):
        for theirs, ours, kind in LAYER_TENSORS:
            yield f"blk.{layer}.{theirs}.weight", f"model.layers.{layer}.{ours}.weight", kind
    yield "output_norm.weight", "model.norm.weight", "norm"
    if not config["tie_word_embeddings"]:
        yield "output.weight", "lm_head.weight", "vocabulary"


def _unpermuted(rows: int, head: int) -> npt.NDArray[np.intp]:
    """Where each Hugging Face row of q or k lies in the file.

    llama.cpp rotates neighbouring columns, Hugging Face the two halves of a head; its converter
    therefore interleaves each head's halves (`permute` in convert_hf_to_gguf.py). This undoes it.
    """
    pairs = np.arange(rows).reshape(-1, head // 2, 2)
    halves: npt.NDArray[np.intp] = pairs.transpose(0, 2, 1).reshape(-1)
    return halves


def _stored(tensors: Sequence[ConvertedTensor]) -> str:
    """How the matrices are kept, the most common way first."""
    weights: dict[str, int] = {}
    for tensor in (renamed.tensor for renamed in tensors if len(renamed.tensor.shape) > 1):
        kept = stored_kind(tensor.kind)
        weights[kept] = weights.get(kept, 0) + prod(tensor.shape)
    return " + ".join(sorted(weights, key=lambda kept: -weights[kept]))


def _write_safetensors(
    source: Path, tensors: Sequence[ConvertedTensor], out: IO[bytes], on_progress: ProgressHook
) -> None:
    """The safetensors format: length of the header, header in JSON, then the bytes in its order.

    `safetensors.numpy.save_file` would want every tensor in memory at once.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    total = 0
    for renamed in tensors:
        *rows, columns = renamed.tensor.shape
        for part in renamed.parts:
            shape = [*rows, columns // part.per]
            start, total = total, total + prod(shape) * WIDTH[part.dtype]
            described = {"dtype": part.dtype, "shape": shape, "data_offsets": [start, total]}
            header[renamed.name + part.suffix] = described
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    out.write(struct.pack("<Q", len(text)) + text)
    done = 0
    for renamed in tensors:
        for part in renamed.parts:
            for piece in _pieces(renamed, part):
                if part.dtype == "F16" and not np.isfinite(piece).all():
                    raise BadCheckpoint(
                        _("{source}: {name} holds more than float16 can.").format(
                            source=source, name=renamed.name
                        )
                    )
                out.write(piece.tobytes())
                done += piece.nbytes
                on_progress(Progress(_("converting"), done, total))


def _pieces(renamed: ConvertedTensor, part: StoredPart) -> Iterator[Array]:
    """The part, some rows at a time."""
    stored = renamed.tensor.data.reshape(-1, renamed.tensor.data.shape[-1])
    step = max(1, PIECE // renamed.tensor.shape[-1])
    for start in range(0, len(stored), step):
        some = slice(start, start + step)
        with np.errstate(over="ignore"):  # the caller looks for infinities
            yield part.take(stored[some if renamed.rows is None else renamed.rows[some]])
