"""quantize_checkpoint: writes a model folder with quantised weights, which then loads faster.

Linear layers are written in 4 or 8 bits, everything else unchanged, tensor by tensor, so memory
holds little more than one tensor. The folder appears complete or not at all.
"""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from glmtui.engine.catalog.known_models import EMBEDDING_BYTES
from glmtui.engine.catalog.model_folder import (
    INDEXES,
    MANIFEST,
    Manifest,
    inspect_folder,
    read_config,
)
from glmtui.engine.catalog.quants import CPM_FILE, QUANTS, Quant
from glmtui.engine.checkpoint.checkpoint import GPTQ_CONFIG, Checkpoint, WeightSource
from glmtui.engine.checkpoint.safetensors_writer import SafetensorsWriter
from glmtui.engine.convert.calibration import column_importance
from glmtui.engine.loading.loader import build_model
from glmtui.engine.loading.model_parts import linear_layers
from glmtui.engine.model_info import LoadOptions, ModelInfo
from glmtui.engine.models.model_family import import_family
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

# patterns of the files that are copied: no weights, and of Python code only what is never run
SMALL_FILES = ("*.json", "*.model", "*.jinja", "*.txt", "*LICENSE*", CPM_FILE)
QUANTIZATION_KEYS = ("quantization_bit", "quantization_embeddings", "quantization_config")
SMALL_FILES_BYTES = 64 << 20  # upper limit of their size, for the check of free disk space


def quantize_checkpoint(
    source: ModelInfo,
    target: Path,
    bits: int,
    *,
    on_progress: ProgressHook = lambda progress: None,
    cancelled: threading.Event | None = None,
) -> ModelInfo:
    """Writes a model with linear layers of `bits` bits into `target`, and installs it.

    Layers that are already stored in `bits` bits or fewer are copied unchanged.

    Args:
        target: a folder that does not exist yet, or is empty.
        bits: 4 or 8.

    Raises:
        UsageError: `target` is not empty.
        BadCheckpoint, UnsupportedModel: the source cannot be read.
        DownloadError: the disk is full or not writable, or (`staging.PullCancelled`) `cancelled`
            was set.
    """
    target = target.resolve()
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UsageError(
            _("{target} exists already.").format(target=target),
            _("Choose a new or an empty folder."),
        )
    job = Job(target.name, on_progress, cancelled or threading.Event())
    quant = next(quant for quant in QUANTS.values() if quant.bits == bits)
    raw = read_config(source.path)
    family = import_family(source.family)
    config, model = build_model(family, raw, source.path, LoadOptions())
    checkpoint = Checkpoint(source.path, raw)
    with convert_disk_errors(target, _(TARGET_SPACE_HINT)), work_folder(target) as work:
        require_space(
            work,
            _estimated_bytes(model, quant) + SMALL_FILES_BYTES,
            target.name,
            _(TARGET_SPACE_HINT),
        )
        folder = work / "model"
        folder.mkdir()
        _copy_small_files(source.path, folder, raw)
        sources = family.weight_sources(config)
        importance: dict[str, Tensor] = {}
        if bits == 4:
            by_layer = column_importance(
                source, lambda progress: job.report(progress.what, progress.done, progress.total)
            )
            for path, columns in by_layer.items():
                importance |= dict.fromkeys(sources[f"{path}.weight"].names, columns)
        weights = _QuantizedWeights(checkpoint, model, sources, quant, importance)
        stored = _write_weights(weights, folder / "model.safetensors", job)
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


def _estimated_bytes(model: nn.Module, quant: Quant) -> int:
    linear = sum(module.weight.numel() for _, module in linear_layers(model))
    others = sum(parameter.numel() for parameter in model.parameters()) - linear
    return round(linear * quant.bytes_per_weight) + others * EMBEDDING_BYTES


def _copy_small_files(source: Path, folder: Path, raw: Mapping[str, Any]) -> None:
    """Copies the other files that a model needs; removes the source's packing from config.json."""
    excluded = {*INDEXES, MANIFEST, GPTQ_CONFIG}
    for pattern in SMALL_FILES:
        for path in source.glob(pattern):
            if path.is_file() and path.name not in excluded:
                shutil.copyfile(path, folder / path.name)
    config = {key: value for key, value in raw.items() if key not in QUANTIZATION_KEYS}
    text = json.dumps(config, indent=2, ensure_ascii=False) + "\n"
    (folder / "config.json").write_text(text, encoding="utf-8")


class _QuantizedWeights:
    """The weights to write, by the names of the tensors in the source.

    Args:
        importance: of each column of a weight, by the weight's name; see `column_importance`.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        model: nn.Module,
        sources: Mapping[str, WeightSource],
        quant: Quant,
        importance: Mapping[str, Tensor],
    ) -> None:
        self.checkpoint = checkpoint
        self.names = list(dict.fromkeys(name for each in sources.values() for name in each.names))
        self.linear = {
            name for path, _ in linear_layers(model) for name in sources[f"{path}.weight"].names
        }
        self._quant = quant
        self._importance = importance

    def quantize(self, name: str, stored: Tensor | PackedWeight) -> Tensor | PackedWeight:
        if name not in self.linear:
            return stored
        bits, group = self._quant.bits, self._quant.group
        if isinstance(stored, PackedWeight):
            if stored.bits <= bits:
                return stored
            stored = stored.dequantize(stored.scale.dtype)
        return quantize(stored, bits, group, self._importance.get(name))


def _write_weights(weights: _QuantizedWeights, target: Path, job: Job) -> str:
    """Writes every tensor of the model.

    Returns:
        How the linear layers are stored now, such as "int4 g32".
    """
    kinds: dict[str, None] = {}  # in the order of their first layers
    suffixes = ("", ".scale", ".zero", ".order")
    tensor_names = [name + suffix for name in weights.names for suffix in suffixes]
    total, done = weights.checkpoint.nbytes, 0
    with SafetensorsWriter(target, tensor_names) as file:
        for name in weights.names:
            job.report(_("quantising"), min(done, total), total)
            stored = weights.checkpoint.read_weight(name)
            weight = weights.quantize(name, stored)
            for suffix, tensor in _stored_tensors(weight):
                file.add(name + suffix, tensor)
            if name in weights.linear:
                assert isinstance(weight, PackedWeight)
                kinds[weight.kind] = None
            done += stored.nbytes
            weights.checkpoint.close()  # releases the mapped memory
    return " + ".join(kinds)


def _stored_tensors(weight: Tensor | PackedWeight) -> Iterator[tuple[str, Tensor]]:
    """The tensors that represent a weight in a prepared folder, with their names' suffixes."""
    if isinstance(weight, Tensor):
        yield "", weight
        return
    yield "", weight.q
    yield ".scale", weight.scale
    if weight.zero is not None:
        yield ".zero", weight.zero
    if weight.order is not None:
        yield ".order", weight.order
