"""Whether a model of transformers' own fits, and on which device it goes, before it is read.

It goes there whole: transformers' layers are not spread over several GPUs. What it takes is counted
on the meta device, so that nobody has to know what each of its config files calls things.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import torch
from torch import nn
from transformers import PreTrainedModel

from glmtui.engine.catalog.config_rules import OTHER_CONFIG, check_weights
from glmtui.engine.catalog.registry import QUANTS, Quant
from glmtui.engine.hardware.machine import Snapshot
from glmtui.engine.loading.placement import (
    FIRST_TOKENS,
    MemoryEstimate,
    plan_placement,
    scratch_bytes,
)
from glmtui.errors import BadCheckpoint, EngineError, OutOfMemory
from glmtui.language import _

MOST_TABLES = 1 << 30  # bytes of what a model computes for itself, such as cosines of positions


def device_of(
    name: str,
    device: torch.device,
    model: PreTrainedModel,
    kv_bytes: int | None,
    stored: str,
    dtype: torch.dtype,
    quant: Quant | Literal["auto"] | None,
    machine: Snapshot,
) -> torch.device:
    """The device with room for the whole of a model.

    Args:
        name: as asked for; `device` is what `loader.pick_device` made of it.
        model: on the meta device, in `dtype`.
        kv_bytes: of a token's keys and values; None where that is not so much per token.
        stored: the dtype of the checkpoint, as it calls itself.

    Raises:
        EngineError: the model was to be spread over several GPUs.
        OutOfMemory: it does not fit; the hint has a setting with which it would.
    """
    if name == "balanced" and len(machine.gpus) > 1:
        raise EngineError(
            _("Transformers runs this model, and all of it on one device: it cannot be balanced."),
            _('Set load.device to "auto", which takes the GPU with the most free memory.'),
        )
    _refuse_conversion(model, stored, dtype, machine)
    cache = (kv_bytes or 0) * FIRST_TOKENS
    head = model.get_output_embeddings()
    vocabulary = len(head.weight) if isinstance(head, nn.Linear) else 0
    linear = [m.weight.shape for m in model.modules() if type(m) is nn.Linear and m is not head]

    def estimate(key: str | None) -> MemoryEstimate:
        asked = quant if key is None else QUANTS[key]
        beside = scratch_bytes(linear, vocabulary, dtype.itemsize, packed=isinstance(asked, Quant))
        return MemoryEstimate(weight_bytes(model, asked) + cache, (), 0, beside)

    name = "cpu" if device.type == "cpu" else name
    return torch.device(plan_placement(name, estimate, machine)[0])


def packable(model: PreTrainedModel, quant: Quant) -> Mapping[str, nn.Linear]:
    """The linear layers that can be held packed, by path: all but the head."""
    head = model.get_output_embeddings()
    return {
        path: module
        for path, module in model.named_modules()
        if type(module) is nn.Linear
        and module is not head
        and module.in_features % (quant.group or 1) == 0
    }


def check_size(model: PreTrainedModel, nbytes: int | None, path: Path) -> None:
    """Whether weight files can hold a model, and its tables are no larger than such a model's.

    Args:
        model: on the meta device.
        nbytes: of the weight files; None where it is not known.
        path: its config.json.

    Raises:
        BadCheckpoint: config.json describes a larger model.
    """
    check_weights(sum(p.numel() for p in model.parameters()), 1, nbytes, path)
    tables = sum(buffer.nbytes for buffer in model.buffers())
    if tables > MOST_TABLES:
        raise BadCheckpoint(
            _(
                "{path} describes a model with tables of {tables:,} bytes beside its weights; "
                "{most:,} are allowed."
            ).format(path=path, tables=tables, most=MOST_TABLES),
            _(OTHER_CONFIG),
        )


def weight_bytes(model: PreTrainedModel, quant: Quant | Literal["auto"] | None) -> int:
    """What the weights take with linear layers held as `quant` says; "auto" packs none here."""
    nbytes: int = sum(parameter.nbytes for parameter in model.parameters())
    if not isinstance(quant, Quant):
        return nbytes
    whole = [module.weight for module in packable(model, quant).values()]
    saved = sum(w.nbytes - w.numel() * quant.bytes_per_weight for w in whole)
    return nbytes - round(saved)


def _refuse_conversion(
    model: PreTrainedModel, stored: str, dtype: torch.dtype, machine: Snapshot
) -> None:
    """Raises OutOfMemory where the checkpoint is of another dtype and main memory is too small.

    Weights of the dtype asked for stay in their mapped files; others are all converted first.
    """
    needed, free = weight_bytes(model, None), machine.memory.available
    if stored == str(dtype).removeprefix("torch.") or free is None or needed <= free:
        return
    raise OutOfMemory(
        _(
            "Reading the model from {dtype} takes {needed} GB of main memory first; {free} GB are "
            "free."
        ).format(dtype=stored, needed=f"{needed / 1e9:.1f}", free=f"{free / 1e9:.1f}"),
        _('Set load.dtype = "{dtype}", in which it is read as it lies.').format(dtype=stored),
    )
