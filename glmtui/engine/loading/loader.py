"""load_model and load: from a model folder and options to a `LoadedModel`."""

from __future__ import annotations

import importlib
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import torch

from glmtui.engine.catalog import resolver
from glmtui.engine.catalog.config_check import check_config
from glmtui.engine.catalog.families import COMPATIBILITY, FAMILIES
from glmtui.engine.catalog.quants import QUANTS
from glmtui.engine.checkpoint.checkpoint import Checkpoint
from glmtui.engine.hardware.cpu import physical_cores
from glmtui.engine.hardware.machine import snapshot
from glmtui.engine.hardware.memory import out_of_memory
from glmtui.engine.loading.load_spec import LoadSpec, resolve_options
from glmtui.engine.loading.memory_estimate import estimate_memory
from glmtui.engine.loading.model_parts import devices_of_parts
from glmtui.engine.loading.pipeline import split_over_devices
from glmtui.engine.loading.placement import MemoryEstimate, plan_placement
from glmtui.engine.loading.weight_filler import WeightFiller
from glmtui.engine.model_info import LoadedInfo, LoadOptions, ModelInfo, ServerSpec
from glmtui.engine.models.model_family import ModelFamily, import_family
from glmtui.engine.nn.decoder import Decoder
from glmtui.engine.progress import LoadCancelled, Progress, ProgressHook
from glmtui.engine.runtime.model_runner import LoadedModel
from glmtui.engine.tokenization.protocols import ToolChatFormat
from glmtui.errors import BadCheckpoint, UsageError
from glmtui.language import _


class CompatibilityLoader(Protocol):
    """The module that runs models in transformers, `engine.compatibility.transformers_model`."""

    def load(self, spec: LoadSpec, on_progress: ProgressHook, /) -> LoadedModel: ...


def load_model(
    ref: str,
    options: LoadOptions = LoadOptions(),
    on_progress: ProgressHook = lambda progress: None,
) -> LoadedModel:
    """Loads a model by known name, hub id or folder.

    Raises:
        ModelNotFound: it is not on this machine.
        ModelError, EngineError: it cannot be loaded.
    """
    target = resolver.resolve(ref)
    if isinstance(target, ServerSpec):
        raise UsageError(
            _("{model} is a server, not a model on this machine.").format(model=ref),
            _("Use glmtui.engine.remote.ServerModel.connect for it."),
        )
    return load(target, options, on_progress)


def load(
    info: ModelInfo,
    options: LoadOptions = LoadOptions(),
    on_progress: ProgressHook = lambda progress: None,
    cancelled: threading.Event | None = None,
) -> LoadedModel:
    """Loads the model found at `info.path`.

    Raises:
        BadCheckpoint: files are missing or damaged, or contradict config.json.
        OutOfMemory: the model does not fit. Usually raised before anything is read.
        LoadCancelled: `cancelled` was set.
    """
    started = time.perf_counter()
    spec = resolve_options(info, options, snapshot())
    if spec.device.type == "cpu":
        torch.set_num_threads(physical_cores())
    is_ours = spec.family != COMPATIBILITY
    family = import_family(spec.family) if is_ours else None
    check_config(spec.raw_config, spec.family, info.path / "config.json", info.nbytes or None)

    def report(progress: Progress) -> None:
        on_progress(progress)
        if cancelled is not None and cancelled.is_set():
            raise LoadCancelled

    if family is None:
        return _compatibility_loader().load(spec, report)
    return _load_decoder(spec, family, report, started)


def _compatibility_loader() -> CompatibilityLoader:
    """Imported by name, because it imports this room."""
    rows = (row for row in FAMILIES if row.key == COMPATIBILITY)
    module: CompatibilityLoader = importlib.import_module(next(rows).module)
    return module


def _load_decoder(
    spec: LoadSpec, family: ModelFamily, on_progress: ProgressHook, started: float
) -> LoadedModel:
    """Loads a model of a family that this engine runs itself."""
    folder, raw, dtype = spec.info.path, spec.raw_config, spec.dtype
    config, model = build_model(family, raw, folder, spec.options)
    # the tokenizer first: if it is refused, no gigabytes are read for nothing
    tokenizer = family.load_tokenizer(folder, raw)
    chat_format = family.chat_format(tokenizer, folder, raw) if tokenizer else None
    checkpoint, sources = Checkpoint(folder, raw), family.weight_sources(config)
    asked_length = spec.options.context_length

    def estimate(quant_key: str | None) -> MemoryEstimate:
        quant = spec.quant if quant_key is None else QUANTS[quant_key]
        return estimate_memory(
            model, checkpoint, sources, dtype, quant, context_length=asked_length
        )

    # without CUDA in torch "auto" is the CPU, even where NVML sees GPUs
    allowed = "cpu" if spec.device.type == "cpu" else spec.options.device
    names = devices_of_parts(sources, plan_placement(allowed, estimate, spec.machine))
    devices = {part: torch.device(name) for part, name in names.items()}
    device = devices["embedding"]
    filler = WeightFiller(
        model, checkpoint, device, dtype, spec.quant, kernels=spec.kernels, devices=devices
    )
    try:
        filler.fill(sources, on_progress)
        context_length = min(asked_length or config.context_length, config.context_length)
        model.prepare(context_length, dtype, device)
        if len(set(devices.values())) > 1:
            split_over_devices(model, devices)
    except torch.OutOfMemoryError as error:
        raise out_of_memory(device) from error
    info = LoadedInfo(
        name=spec.info.name,
        device=" + ".join(dict.fromkeys(names.values())),
        dtype=str(dtype).removeprefix("torch."),
        quant=" + ".join(sorted(filler.packed_kinds)),
        kernel=" + ".join(sorted(spec.kernels.selected)),
        context_length=context_length,
        weight_bytes=filler.nbytes,
        kv_bytes_per_token=model.new_cache(1, dtype, torch.device("meta")).nbytes,
        load_seconds=time.perf_counter() - started,
        saved_bytes=model.skipped_bytes,
        defaults=family.sampling_defaults(folder, raw),
        calls_tools=isinstance(chat_format, ToolChatFormat),
    )
    return LoadedModel(
        model,
        tokenizer,
        chat_format,
        chat_format.stop_ids if chat_format else family.stop_ids(raw),
        info,
        dtype=dtype,
        device=device,
        devices=tuple(devices.values()),
        options=spec.options,
    )


def build_model(
    family: ModelFamily, raw_config: dict[str, Any], folder: Path, options: LoadOptions
) -> tuple[Any, Decoder]:
    """The family's config and its model, on the meta device.

    Raises:
        BadCheckpoint: config.json does not describe a model of this family.
    """
    try:
        config = family.load_config(raw_config)
        if not options.slim and hasattr(config, "slim"):
            config = replace(config, slim=False)
        with torch.device("meta"):
            return config, family.Model(config)
    except (KeyError, TypeError, ValueError, RuntimeError, ZeroDivisionError) as error:
        raise BadCheckpoint(
            _("{path} does not describe a model of this family: {error!r}").format(
                path=folder / "config.json", error=error
            ),
            _("Download the model again with: glmtui pull"),
        ) from error
