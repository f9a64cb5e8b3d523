"""How many bytes a model will take, by what is asked for, before its weights are read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import nn

from glmtui.engine.catalog.registry import Quant
from glmtui.engine.checkpoint.checkpoint import Checkpoint, WeightSource
from glmtui.engine.loading.placement import FIRST_TOKENS, Sizes, scratch_bytes
from glmtui.engine.loading.weight_filler import VOCAB_MODULES
from glmtui.engine.nn.decoder import Decoder
from glmtui.engine.nn.layers import LinearPlaceholder
from glmtui.engine.nn.packed_weight import PackedWeight

POSITIONS = 64  # that stand for all when the size of position tables is measured


def estimate_sizes(
    model: Decoder,
    checkpoint: Checkpoint,
    sources: Mapping[str, WeightSource],
    dtype: torch.dtype,
    quant: Quant | Literal["auto"] | None,
    context_length: int | None = None,
) -> Sizes:
    """What the parts of a model on the meta device will take.

    Args:
        dtype: of what is not packed.
        quant: how linear layers are to be held; of "auto" one that is stored stands for all.
        context_length: that is asked for; left out, the model's own.

    Raises:
        BadCheckpoint, UnsupportedModel: that one cannot be read.
    """
    each = _bytes_per_weight(model, checkpoint, sources, dtype, quant)
    taken: dict[str, float] = {}
    for path, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            packed = (
                isinstance(module, LinearPlaceholder)
                and path not in VOCAB_MODULES
                and name == "weight"
            )
            part = part_of(path)
            nbytes = parameter.numel() * (each if packed else dtype.itemsize)
            taken[part] = taken.get(part, 0) + nbytes
    if has_tied_embeddings(sources):
        del taken["head"]
    layers = [name for name in taken if name.startswith("layers.")]
    cache = model.new_cache(1, dtype, torch.device("meta")).nbytes
    context = min(context_length or model.config.context_length, model.config.context_length)
    length = min(context, FIRST_TOKENS)
    kv = cache * length // max(len(layers), 1)
    linear = [  # without the head, which multiplies one token and is never packed
        module.weight.shape
        for path, module in model.named_modules()
        if isinstance(module, LinearPlaceholder) and path not in VOCAB_MODULES
    ]
    return Sizes(
        round(taken["embedding"]) + _position_bytes(model, context, dtype),
        tuple(round(taken[f"layers.{i}"]) + kv for i in range(len(layers))),
        round(taken["norm"] + taken.get("head", 0)),
        scratch_bytes(
            linear, model.vocab_size, dtype.itemsize, packed=quant is not None, tokens=length
        ),
    )


def _position_bytes(model: Decoder, length: int, dtype: torch.dtype) -> int:
    """Of what `Decoder.prepare` makes for so many positions."""
    # not on the meta device, where torch would import its compiler: seconds and 0.1 GB
    model.prepare(POSITIONS, dtype, torch.device("cpu"))
    if model.rotary is None:
        return 0
    nbytes = model.rotary.cos.nbytes + model.rotary.sin.nbytes
    return -(-nbytes * length // POSITIONS)


def part_of(path: str) -> str:
    """The part of a model, as `placement` divides it, that a module is in: "layers.3"."""
    return ".".join(path.split(".")[:2])


def devices_of_parts(
    sources: Mapping[str, WeightSource], places: tuple[str, ...]
) -> dict[str, str]:
    """The device of each part by name, from those of `Sizes.parts`."""
    first, *layers, last = places
    named = {f"layers.{i}": place for i, place in enumerate(layers)}
    head = first if has_tied_embeddings(sources) else last
    return {"embedding": first, **named, "norm": last, "head": head}


def has_tied_embeddings(sources: Mapping[str, WeightSource]) -> bool:
    """Whether embedding and head are one tensor."""
    return sources["head.weight"] == sources["embedding.weight"]


def _bytes_per_weight(
    model: nn.Module,
    checkpoint: Checkpoint,
    sources: Mapping[str, WeightSource],
    dtype: torch.dtype,
    quant: Quant | Literal["auto"] | None,
) -> float:
    """Of linear layers."""
    if isinstance(quant, Quant):
        return quant.bytes_per_weight
    if quant == "auto":
        for path, module in model.named_modules():
            if isinstance(module, LinearPlaceholder) and path not in VOCAB_MODULES:
                stored = checkpoint.read_weight(sources[f"{path}.weight"].names[0])
                checkpoint.close()
                if isinstance(stored, PackedWeight):
                    return stored.nbytes / stored.shape.numel()
                break
    return dtype.itemsize
