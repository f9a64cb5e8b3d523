"""The parts of a decoder, for placing them on devices: embedding, each layer, norm and head.

Every family uses these module names, so any model can be divided without knowing its family.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from torch import nn

from glmtui.engine.checkpoint.checkpoint import WeightSource
from glmtui.engine.nn.layers import LinearPlaceholder

LAYERS = "layers"
VOCAB_MODULES = ("embedding", "head")  # their weights have one row per token


def part_of(path: str) -> str:
    """The part that contains the module at `path`: "layers.3" for "layers.3.attention.qkv"."""
    return ".".join(path.split(".")[:2])


def linear_layers(model: nn.Module) -> Iterator[tuple[str, LinearPlaceholder]]:
    """Path and module of every linear layer that can be quantised: all but the head."""
    for path, module in model.named_modules():
        if isinstance(module, LinearPlaceholder) and path not in VOCAB_MODULES:
            yield path, module


def has_tied_embeddings(sources: Mapping[str, WeightSource]) -> bool:
    """Whether the embedding and the head share one weight."""
    return sources["head.weight"] == sources["embedding.weight"]


def devices_of_parts(sources: Mapping[str, WeightSource], devices: Sequence[str]) -> dict[str, str]:
    """The device of each part by name.

    Args:
        devices: in the order of `MemoryEstimate.parts`.
    """
    first, *layers, last = devices
    by_name = {f"{LAYERS}.{i}": device for i, device in enumerate(layers)}
    head = first if has_tied_embeddings(sources) else last
    return {"embedding": first, **by_name, "norm": last, "head": head}
