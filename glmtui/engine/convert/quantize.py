"""A checkpoint quantised once and kept: a prepared folder that loads as a plain read.

Linear layers are written in 4 or 8 bits, everything else as it is, tensor by tensor, so memory
holds little more than one of them. The folder appears whole or not at all. What a prepared folder
looks like, `weights.Checkpoint` knows.
"""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from glmtui.engine.catalog.model_folder import (
    INDEXES,
    MANIFEST,
    Manifest,
    inspect_folder,
    read_config,
)
from glmtui.engine.catalog.registry import CPM_FILE, EMBEDDING_BYTES, QUANTS, Quant
from glmtui.engine.checkpoint.checkpoint import GPTQ_CONFIG, Checkpoint, WeightSource
from glmtui.engine.checkpoint.safetensors_writer import SafetensorsWriter
from glmtui.engine.convert.calibration import column_importance
from glmtui.engine.loading.loader import build_model, family_module
from glmtui.engine.loading.weight_filler import VOCAB_MODULES
from glmtui.engine.model_info import LoadOptions, ModelInfo
from glmtui.engine.nn.layers import LinearPlaceholder
from glmtui.engine.nn.packed_weight import PackedWeight, quantize
from glmtui.engine.progress import ProgressHook
from glmtui.engine.pull import pull
from glmtui.engine.pull.staging import (
    TARGET_SPACE_HINT,
    Job,
    convert_disk_errors,
    install_folder,
    require_space,
    work_folder,
)
from glmtui.errors import UsageError
from glmtui.language import _

SMALL_FILES = ("*.json", "*.model", "*.jinja", "*.txt", "*LICENSE*", CPM_FILE)
OTHER_PACKINGS = ("quantization_bit", "quantization_embeddings", "quantization_config")
SMALL_BYTES = 64 << 20  # room for the files that hold no weights


def quantize_checkpoint(
    source: ModelInfo,
    target: Path,
    bits: int,
    *,
    on_progress: ProgressHook = lambda progress: None,
    cancelled: threading.Event | None = None,
) -> ModelInfo:
    """Writes a model with linear layers of `bits` bits into `target`, and lists it with the others.

    Layers that are stored in as few bits already stay as they are.

    Args:
        target: a folder that does not exist yet, or is empty.
        bits: 4 or 8.

    Raises:
        UsageError: there is something in `target`.
        BadCheckpoint, UnsupportedModel: the source cannot be read.
        DownloadError: the disk is full or may not be written, or (`staging.PullCancelled`)
            `cancelled` was set.
    """
    target = target.resolve()
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UsageError(
            _("{target} is there already.").format(target=target),
            _("Name a folder that is new or empty."),
        )
    job = Job(target.name, on_progress, cancelled or threading.Event())
    quant = next(quant for quant in QUANTS.values() if quant.bits == bits)
    raw = read_config(source.path)
    family = family_module(source.family)
    config, model = build_model(family, raw, source.path, LoadOptions())
    checkpoint = Checkpoint(source.path, raw)
    with convert_disk_errors(target, _(TARGET_SPACE_HINT)), work_folder(target) as work:
        require_space(work, _nbytes(model, quant) + SMALL_BYTES, target.name, _(TARGET_SPACE_HINT))
        folder = work / "model"
        folder.mkdir()
        _copy_small_files(source.path, folder, raw)
        sources = family.sources(config)
        matters: dict[str, Tensor] = {}
        if bits == 4:
            found = column_importance(
                source, lambda seen: job.report(seen.what, seen.done, seen.total)
            )
            for path, columns in found.items():
                matters |= dict.fromkeys(sources[f"{path}.weight"].names, columns)
        stored = _write_weights(
            checkpoint, folder / "model.safetensors", sources, model, quant, matters, job
        )
        files = {
            path.name: {"size": path.stat().st_size, "sha256": job.sha256(path)}
            for path in folder.iterdir()
        }
        origin = f"folder:{source.path}"
        title = source.title or source.name
        Manifest(target.name, source.family, title, origin, stored, files).write(folder)
        inspect_folder(folder)
        install_folder(folder, target)
    return pull(str(target))


def _nbytes(model: nn.Module, quant: Quant) -> int:
    """About what the weights will take."""
    packed = sum(module.weight.numel() for _, module in _linear_layers(model))
    others = sum(parameter.numel() for parameter in model.parameters()) - packed
    return round(packed * quant.bytes_per_weight) + others * EMBEDDING_BYTES


def _linear_layers(model: nn.Module) -> Iterator[tuple[str, LinearPlaceholder]]:
    for path, module in model.named_modules():
        if isinstance(module, LinearPlaceholder) and path not in VOCAB_MODULES:
            yield path, module


def _copy_small_files(source: Path, folder: Path, raw: Mapping[str, Any]) -> None:
    """Neither weights nor code that runs; config.json no longer speaks of another packing."""
    left_out = {*INDEXES, MANIFEST, GPTQ_CONFIG}
    for pattern in SMALL_FILES:
        for path in source.glob(pattern):
            if path.is_file() and path.name not in left_out:
                shutil.copyfile(path, folder / path.name)
    config = {key: value for key, value in raw.items() if key not in OTHER_PACKINGS}
    text = json.dumps(config, indent=2, ensure_ascii=False) + "\n"
    (folder / "config.json").write_text(text, encoding="utf-8")


def _write_weights(
    checkpoint: Checkpoint,
    target: Path,
    sources: Mapping[str, WeightSource],
    model: nn.Module,
    quant: Quant,
    matters: Mapping[str, Tensor],
    job: Job,
) -> str:
    """Writes every tensor the model is made of.

    Args:
        matters: how much each column does, by the names of the tensors.

    Returns:
        How linear layers are stored now.
    """
    linear = {name for path, _ in _linear_layers(model) for name in sources[f"{path}.weight"].names}
    names = list(dict.fromkeys(name for rows in sources.values() for name in rows.names))
    kinds: dict[str, None] = {}
    parts = [f"{name}{part}" for name in names for part in ("", ".scale", ".zero", ".order")]
    total, done = checkpoint.nbytes, 0
    with SafetensorsWriter(target, parts) as file:
        for name in names:
            job.report(_("quantising"), min(done, total), total)
            stored = checkpoint.read_weight(name)
            weight = _quantised(stored, quant, matters.get(name)) if name in linear else stored
            for suffix, tensor in _parts(weight):
                file.add(name + suffix, tensor)
            if name in linear:
                kinds[_kind(weight)] = None
            done += stored.nbytes
            checkpoint.close()  # lets go of the tensor's memory
    return " + ".join(kinds)


def _quantised(
    weight: Tensor | PackedWeight, quant: Quant, matters: Tensor | None
) -> Tensor | PackedWeight:
    if isinstance(weight, PackedWeight):
        if weight.bits <= quant.bits:
            return weight
        weight = weight.dequantize(weight.scale.dtype)
    return quantize(weight, quant.bits, quant.group, matters)


def _kind(weight: Tensor | PackedWeight) -> str:
    assert isinstance(weight, PackedWeight)
    return weight.kind


def _parts(weight: Tensor | PackedWeight) -> Iterator[tuple[str, Tensor]]:
    """What of a prepared folder's naming a weight is stored as."""
    if isinstance(weight, Tensor):
        yield "", weight
        return
    yield "", weight.q
    yield ".scale", weight.scale
    if weight.zero is not None:
        yield ".zero", weight.zero
    if weight.order is not None:
        yield ".order", weight.order
