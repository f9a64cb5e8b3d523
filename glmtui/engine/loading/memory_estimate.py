"""How much memory a model needs, computed from its shapes before any weight is read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import nn

from glmtui.engine.catalog.quants import Quant
from glmtui.engine.checkpoint.checkpoint import Checkpoint, WeightSource
from glmtui.engine.loading.model_parts import LAYERS, has_tied_embeddings, linear_layers, part_of
from glmtui.engine.loading.placement import FIRST_TOKENS, MemoryEstimate, scratch_bytes
from glmtui.engine.nn.decoder import Decoder
from glmtui.engine.nn.packed_weight import PackedWeight

# The position tables are measured for this many tokens and scaled to the context length.
SAMPLE_POSITIONS = 64


def estimate_memory(
    model: Decoder,
    checkpoint: Checkpoint,
    sources: Mapping[str, WeightSource],
    dtype: torch.dtype,
    quant: Quant | Literal["auto"] | None,
    *,
    context_length: int | None = None,
) -> MemoryEstimate:
    """Estimates the memory of a model on the meta device.

    Args:
        dtype: of the weights that are not packed.
        quant: of linear layers; see `LoadSpec`. For "auto" one stored layer is read as a sample.
        context_length: in tokens; None for the model's own.

    Raises:
        BadCheckpoint, UnsupportedModel: the layer read for "auto" is unreadable.
    """
    bytes_per_weight = _bytes_per_linear_weight(model, checkpoint, sources, dtype, quant)
    linear = dict(linear_layers(model))
    nbytes: dict[str, float] = {}
    for path, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            packed = path in linear and name == "weight"
            part = part_of(path)
            size = parameter.numel() * (bytes_per_weight if packed else dtype.itemsize)
            nbytes[part] = nbytes.get(part, 0) + size
    if has_tied_embeddings(sources):
        del nbytes["head"]
    layers = [name for name in nbytes if name.startswith(f"{LAYERS}.")]
    context = min(context_length or model.config.context_length, model.config.context_length)
    first_tokens = min(context, FIRST_TOKENS)
    kv_per_token = model.new_cache(1, dtype, torch.device("meta")).nbytes
    kv_per_layer = kv_per_token * first_tokens // max(len(layers), 1)
    return MemoryEstimate(
        round(nbytes["embedding"]) + _position_table_bytes(model, context, dtype),
        tuple(round(nbytes[f"{LAYERS}.{i}"]) + kv_per_layer for i in range(len(layers))),
        round(nbytes["norm"] + nbytes.get("head", 0)),
        scratch_bytes(
            # not the head, which is never packed and multiplies only the last token
            [module.weight.shape for module in linear.values()],
            model.vocab_size,
            dtype.itemsize,
            packed=quant is not None,
            tokens=first_tokens,
        ),
    )


def _position_table_bytes(model: Decoder, length: int, dtype: torch.dtype) -> int:
    """Memory of the tables that `Decoder.prepare` computes for `length` tokens."""
    # not on the meta device, where torch would import its compiler (seconds, and 0.1 GB)
    model.prepare(SAMPLE_POSITIONS, dtype, torch.device("cpu"))
    if model.rotary is None:
        return 0
    nbytes = model.rotary.cos.nbytes + model.rotary.sin.nbytes
    return -(-nbytes * length // SAMPLE_POSITIONS)


def _bytes_per_linear_weight(
    model: nn.Module,
    checkpoint: Checkpoint,
    sources: Mapping[str, WeightSource],
    dtype: torch.dtype,
    quant: Quant | Literal["auto"] | None,
) -> float:
    if isinstance(quant, Quant):
        return quant.bytes_per_weight
    if quant == "auto":
        for path, _module in linear_layers(model):
            stored = checkpoint.read_weight(sources[f"{path}.weight"].names[0])
            checkpoint.close()
            if isinstance(stored, PackedWeight):
                return stored.nbytes / stored.shape.numel()
            break
    return dtype.itemsize
