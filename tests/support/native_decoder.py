"""A small decoder whose layers run in the compiled kernels."""

from __future__ import annotations

from typing import Any

import torch

from glmtui.engine.models import chatglm2, llama
from glmtui.engine.models.gqa_decoder import GqaConfig, GqaDecoder
from glmtui.engine.nn.linear import NativeEmbedding, NativeLinear
from glmtui.engine.nn.packed_weight import quantize

CPU = torch.device("cpu")


SIZES: dict[str, int] = {"layers": 2, "hidden": 64, "inner": 128, "heads": 4, "kv_heads": 2}


REST: dict[str, Any] = {"vocab": 96, "context_length": 300, "rms_norm_eps": 1e-5}


def shape_of(family: Any, **more: Any) -> Any:
    sizes: dict[str, Any] = SIZES | REST | {"head_dim": 32, "out_bias": False} | more
    return family.Config(**sizes)


SHAPES = {
    "llama": (llama, {"qkv_bias": False, "rope_base": 1e4, "tied": False}),
    "chatglm2": (chatglm2, {"qkv_bias": True, "rope_base": 1e4, "position_scale": 1.0}),
}


def decoder(key: str, bits: int, group: int | None, **sizes: int) -> GqaDecoder:
    """A small decoder of random weights, packed, ready for 300 tokens."""
    family, more = SHAPES[key]
    shape: GqaConfig = shape_of(family, **more | sizes)
    torch.manual_seed(1)
    model: GqaDecoder = family.Model(shape)
    for parameter in model.parameters():
        parameter.normal_(0, 0.2)
    for path, slot in list(model.named_modules()):
        if type(slot).__name__ != "Slot":
            continue
        parent, _, name = path.rpartition(".")
        bias = None if slot.bias is None else slot.bias.bfloat16()
        weight = slot.weight.half() if name == "head" else quantize(slot.weight, bits, group)
        setattr(model.get_submodule(parent), name, NativeLinear(weight, bias))
    table = model.embedding.weight  # a CPU holds most in float16, those of GGUF files as they are
    if bits == 8:
        model.embedding = NativeEmbedding(quantize(table, 8, 32))  # type: ignore[assignment]
    else:
        table.data = table.half()
    model.prepare(300, torch.bfloat16, CPU)
    return model
