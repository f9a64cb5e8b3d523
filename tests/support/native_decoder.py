"""A small decoder whose layers run in the compiled kernels."""

from __future__ import annotations

from typing import Any

import torch

from glmtui.engine.models import chatglm2, llama
from glmtui.engine.models.gqa_decoder import GqaDecoder, Shape
from glmtui.engine.nn.layers import LinearPlaceholder
from glmtui.engine.nn.linear import NativeEmbedding, NativeLinear
from glmtui.engine.nn.packed_weight import quantize

CPU = torch.device("cpu")

SIZES = {"layers": 2, "hidden": 64, "inner": 128, "heads": 4, "kv_heads": 2, "head_dim": 32}
CONFIG = SIZES | {"vocab": 96, "context_length": 300, "rms_norm_eps": 1e-5, "out_bias": False}
FAMILIES = {  # with the rest of their configs
    "llama": (llama, {"qkv_bias": False, "rope_base": 1e4, "tied": False}),
    "chatglm2": (chatglm2, {"qkv_bias": True, "rope_base": 1e4, "position_scale": 1.0}),
}


def make_decoder(key: str, bits: int, group: int | None, **sizes: int) -> GqaDecoder:
    """A decoder with random packed weights, prepared for 300 tokens.

    Args:
        key: of FAMILIES.
        sizes: replace those of CONFIG.
    """
    family: Any
    family, config = FAMILIES[key]
    shape: Shape = family.Config(**CONFIG | config | sizes)
    torch.manual_seed(1)
    model: GqaDecoder = family.Model(shape)
    for parameter in model.parameters():
        parameter.normal_(0, 0.2)
    for path, layer in list(model.named_modules()):
        if not isinstance(layer, LinearPlaceholder):
            continue
        parent, _, name = path.rpartition(".")
        bias = None if layer.bias is None else layer.bias.bfloat16()
        weight = layer.weight.half() if name == "head" else quantize(layer.weight, bits, group)
        setattr(model.get_submodule(parent), name, NativeLinear(weight, bias))
    # as the loader does on a CPU: most tables are in float16, those of 8-bit GGUF files stay packed
    table = model.embedding.weight
    if bits == 8:
        model.embedding = NativeEmbedding(quantize(table, 8, 32))  # type: ignore[assignment]
    else:
        table.data = table.half()
    model.prepare(300, torch.bfloat16, CPU)
    return model
