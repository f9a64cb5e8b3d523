"""Whether a transformers model fits into memory, and on which device, before it is loaded.

It must fit on one device, because transformers' layers are not split over GPUs here. Sizes are
counted on the meta device, so that no field of its config has to be known.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import torch
from torch import nn
from transformers import PreTrainedModel

from glmtui.engine.catalog.config_rules import BAD_CONFIG_HINT, check_weight_count
from glmtui.engine.catalog.quants import QUANTS, Quant
from glmtui.engine.hardware.machine import Snapshot
from glmtui.engine.loading.placement import (
    FIRST_TOKENS,
    MemoryEstimate,
    plan_placement,
    scratch_bytes,
)
from glmtui.errors import BadCheckpoint, EngineError, OutOfMemory
from glmtui.language import _

# Bytes of buffers that a model computes, such as tables of cosines. Larger ones mean a malicious or
# damaged config.json.
MAX_TABLE_BYTES = 1 << 30


def choose_device(
    name: str,
    device: torch.device,
    model: PreTrainedModel,
    kv_bytes: int | None,
    stored: str,
    dtype: torch.dtype,
    quant: Quant | Literal["auto"] | None,
    machine: Snapshot,
) -> torch.device:
    """The device with room for the whole model.

    Args:
        name: the user's setting; `device` is what `loader.pick_device` made of it.
        model: on the meta device, in `dtype`.
        kv_bytes: of the keys and values of a token; None if memory does not grow per token.
        stored: dtype of the checkpoint, as in config.json.

    Raises:
        EngineError: the setting asks to split the model over several GPUs.
        OutOfMemory: it does not fit; the hint names a setting with which it would.
    """
    if name == "balanced" and len(machine.gpus) > 1:
        raise EngineError(
            _("This model is run by transformers, on one device: it cannot be balanced over GPUs."),
            _('Set load.device to "auto", which takes the GPU with the most free memory.'),
        )
    _check_conversion_memory(model, stored, dtype, machine)
    cache = (kv_bytes or 0) * FIRST_TOKENS
    head = model.get_output_embeddings()
    vocabulary = len(head.weight) if isinstance(head, nn.Linear) else 0
    linear = [m.weight.shape for m in model.modules() if type(m) is nn.Linear and m is not head]

    def estimate(key: str | None) -> MemoryEstimate:
        chosen = quant if key is None else QUANTS[key]
        buffers = scratch_bytes(
            linear, vocabulary, dtype.itemsize, packed=isinstance(chosen, Quant)
        )
        return MemoryEstimate(weight_bytes(model, chosen) + cache, (), 0, buffers)

    name = "cpu" if device.type == "cpu" else name
    return torch.device(plan_placement(name, estimate, machine)[0])


def packable_layers(model: PreTrainedModel, quant: Quant) -> Mapping[str, nn.Linear]:
    """The linear layers that can be quantised, by path: all except the head."""
    head = model.get_output_embeddings()
    return {
        path: module
        for path, module in model.named_modules()
        if type(module) is nn.Linear
        and module is not head
        and module.in_features % (quant.group or 1) == 0
    }


def check_size(model: PreTrainedModel, nbytes: int | None, path: Path) -> None:
    """Checks that the weight files can hold the model, and that its tables are not too large.

    Args:
        model: on the meta device.
        nbytes: of the weight files; None if unknown.
        path: its config.json.

    Raises:
        BadCheckpoint: config.json describes a larger model.
    """
    check_weight_count(sum(p.numel() for p in model.parameters()), 1, nbytes, path)
    tables = sum(buffer.nbytes for buffer in model.buffers())
    if tables > MAX_TABLE_BYTES:
        raise BadCheckpoint(
            _(
                "{path} describes a model with {tables:,} bytes of tables besides its weights; "
                "at most {most:,} are allowed."
            ).format(path=path, tables=tables, most=MAX_TABLE_BYTES),
            _(BAD_CONFIG_HINT),
        )


def weight_bytes(model: PreTrainedModel, quant: Quant | Literal["auto"] | None) -> int:
    """Memory of the weights with linear layers quantised; "auto" and None quantise nothing."""
    nbytes: int = sum(parameter.nbytes for parameter in model.parameters())
    if not isinstance(quant, Quant):
        return nbytes
    weights = [module.weight for module in packable_layers(model, quant).values()]
    saved = sum(w.nbytes - w.numel() * quant.bytes_per_weight for w in weights)
    return nbytes - round(saved)


def _check_conversion_memory(
    model: PreTrainedModel, stored: str, dtype: torch.dtype, machine: Snapshot
) -> None:
    """Raises OutOfMemory if the weights must be converted and main memory is too small for that.

    Weights that are stored in `dtype` stay in memory-mapped files; others are all converted first.
    """
    needed, free = weight_bytes(model, None), machine.memory.available
    if stored == str(dtype).removeprefix("torch.") or free is None or needed <= free:
        return
    raise OutOfMemory(
        _(
            "Converting the model from {dtype} needs {needed} GB of main memory; {free} GB are "
            "free."
        ).format(dtype=stored, needed=f"{needed / 1e9:.1f}", free=f"{free / 1e9:.1f}"),
        _('Set load.dtype = "{dtype}" to load it without conversion.').format(dtype=stored),
    )
