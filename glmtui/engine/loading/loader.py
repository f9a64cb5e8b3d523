"""ModelInfo + LoadOptions -> LoadedModel: tensors are read one at a time, converted, and placed.

Knows families only through `catalog.FAMILIES` and the interface of their modules:
``load_config``, ``Model``, ``sources``, ``load_tokenizer``, ``chat_format``, ``stop_ids`` and
``defaults``.
"""

from __future__ import annotations

import importlib
import threading
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch

from glmtui.engine.catalog import resolver
from glmtui.engine.catalog.config_check import check_config
from glmtui.engine.catalog.families import COMPATIBILITY, FAMILIES
from glmtui.engine.catalog.registry import QUANTS, Quant
from glmtui.engine.checkpoint.checkpoint import Checkpoint, WeightSource
from glmtui.engine.hardware.cpu import physical_cores
from glmtui.engine.hardware.machine import Snapshot, snapshot
from glmtui.engine.hardware.memory import out_of_memory
from glmtui.engine.loading.memory_estimate import devices_of_parts, estimate_sizes
from glmtui.engine.loading.pipeline import split_over_devices
from glmtui.engine.loading.placement import Sizes, SizesOf, plan_placement
from glmtui.engine.loading.weight_filler import WeightFiller
from glmtui.engine.model_info import LoadedInfo, LoadOptions, ModelInfo, ServerSpec
from glmtui.engine.nn.decoder import Decoder
from glmtui.engine.nn.linear import make_kernel_choice
from glmtui.engine.progress import LoadCancelled, Progress, ProgressHook
from glmtui.engine.runtime.model_runner import LoadedModel
from glmtui.engine.tokenization.hf_tokenizer import read_json
from glmtui.engine.tokenization.protocols import ToolChatFormat
from glmtui.errors import BadCheckpoint, EngineError, UsageError
from glmtui.language import _

BFLOAT16_SINCE = (8, 0)  # compute capability of the first GPUs with bfloat16 products
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


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
            _("{model} is a server, not a model to load here.").format(model=ref),
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
        BadCheckpoint: files are missing, damaged, or do not fit the config.
        OutOfMemory: there is no room for it; known before anything is read, or met on the way.
        LoadCancelled: `cancelled` was set.
    """
    started = time.perf_counter()
    device = pick_device(options.device)
    raw = read_json(info.path / "config.json")
    dtype = pick_dtype(options.dtype, device, stored_dtype(raw), gpu_capability(options.device))
    quant = pick_quant(options.quant, device, dtype)
    choice = make_kernel_choice(options.kernel, info.path, device, dtype)
    if device.type == "cpu":
        torch.set_num_threads(physical_cores())
    key = options.family or info.family
    family = family_module(key)
    check_config(raw, key, info.path / "config.json", info.nbytes or None)

    def report(progress: Progress) -> None:
        on_progress(progress)
        if cancelled is not None and cancelled.is_set():
            raise LoadCancelled

    if key == COMPATIBILITY:
        other: LoadedModel = family.load(
            info, raw, options, device, dtype, quant, choice, snapshot(), report
        )
        return other
    config, model = build_model(family, raw, info.path, options)
    # the tokenizer first: what it refuses is known before gigabytes are read
    tokenizer = family.load_tokenizer(info.path, raw)
    chat_format = family.chat_format(tokenizer, info.path, raw) if tokenizer else None
    checkpoint, sources = Checkpoint(info.path, raw), family.sources(config)

    def sizes_of(key: str | None) -> Sizes:
        asked = quant if key is None else QUANTS[key]
        return estimate_sizes(model, checkpoint, sources, dtype, asked, options.context_length)

    places = find_places(options.device, device, sizes_of, sources, snapshot())
    device = places["embedding"]
    placer = WeightFiller(model, checkpoint, device, dtype, quant, choice, places)
    try:
        placer.place_all(sources, report)
        context_length = min(options.context_length or config.context_length, config.context_length)
        model.prepare(context_length, dtype, device)
        if len(set(places.values())) > 1:
            split_over_devices(model, places)
    except torch.OutOfMemoryError as error:
        raise out_of_memory(device) from error
    cache = model.new_cache(1, dtype, torch.device("meta"))
    loaded = LoadedInfo(
        name=info.name,
        device=" + ".join(dict.fromkeys(map(str, places.values()))),
        dtype=str(dtype).removeprefix("torch."),
        quant=" + ".join(sorted(placer.quants)),
        kernel=" + ".join(sorted(choice.selected)),
        context_length=context_length,
        weight_bytes=placer.nbytes,
        kv_bytes_per_token=cache.nbytes,
        load_seconds=time.perf_counter() - started,
        saved_bytes=model.skipped_bytes,
        defaults=family.defaults(info.path, raw),
        calls_tools=isinstance(chat_format, ToolChatFormat),
    )
    return LoadedModel(
        model,
        tokenizer,
        chat_format,
        chat_format.stop_ids if chat_format else family.stop_ids(raw),
        loaded,
        dtype=dtype,
        device=device,
        devices=tuple(places.values()),
        options=options,
    )


def family_module(key: str) -> Any:
    """The module of a family. Raises UsageError for a key that is none."""
    for family in FAMILIES:
        if family.key == key:
            return importlib.import_module(family.module)
    known = ", ".join(family.key for family in FAMILIES)
    raise UsageError(
        _("{key!r} is no model family.").format(key=key),
        _("Known are: {known}.").format(known=known),
    )


def pick_device(name: str) -> torch.device:
    """The torch device for a name; "auto" and "balanced" begin with the first GPU.

    Raises:
        EngineError: there is no such device here.
    """
    if name == "auto":
        name = "cuda:0" if torch.cuda.is_available() else "cpu"
    elif name == "balanced":
        name = "cuda:0"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(
            _("{name!r} is no device.").format(name=name),
            _('Use "auto", "cpu", "cuda:0" or "balanced".'),
        ) from error
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise EngineError(
                _("torch sees no GPU here."), _('Use device "cpu", or see what glmtui doctor says.')
            )
        device = torch.device("cuda", device.index or 0)
    return device


def find_places(
    name: str,
    device: torch.device,
    sizes_of: SizesOf,
    sources: Mapping[str, WeightSource],
    machine: Snapshot,
) -> dict[str, torch.device]:
    """The device of each part of a model; see `placement.place`.

    Args:
        name: as asked for.
        device: what `pick_device` made of it: without CUDA "auto" is the CPU whatever NVML sees.
    """
    found = plan_placement("cpu" if device.type == "cpu" else name, sizes_of, machine)
    return {part: torch.device(where) for part, where in devices_of_parts(sources, found).items()}


def pick_dtype(
    name: str,
    device: torch.device,
    stored: str = "",
    capability: tuple[int, int] | None = None,
) -> torch.dtype:
    """The dtype for a name; "auto" is bfloat16 on a CPU.

    On a GPU "auto" is float16, but bfloat16 for a checkpoint in bfloat16 where the GPU computes
    with it: values of such a model can be too large for float16, as those of GLM-4 are.

    Args:
        stored: the dtype of the checkpoint, as its config.json calls it.
        capability: the compute capability of the oldest GPU that may be used; None if unknown.
    """
    if name == "auto":
        wide = stored == "bfloat16" and capability is not None and capability >= BFLOAT16_SINCE
        return torch.float16 if device.type == "cuda" and not wide else torch.bfloat16
    if name not in DTYPES:
        raise UsageError(
            _("{name!r} is no dtype.").format(name=name),
            _("Known are: auto, {names}.").format(names=", ".join(DTYPES)),
        )
    return DTYPES[name]


def stored_dtype(raw: Mapping[str, Any]) -> str:
    """The dtype that a config.json gives, of what is not packed; "" where it gives none."""
    inner = raw.get("text_config")  # of models that read more than text
    for source in (raw, inner if isinstance(inner, Mapping) else {}):
        said = source.get("torch_dtype") or source.get("dtype")
        if isinstance(said, str):
            return said.removeprefix("torch.")
    return ""


def gpu_capability(name: str) -> tuple[int, int] | None:
    """The compute capability of the oldest GPU that a device's name may stand for.

    Args:
        name: as `pick_device` takes it.
    """
    if not torch.cuda.is_available():
        return None
    gpus = range(torch.cuda.device_count())
    if name.startswith("cuda:"):
        index = torch.device(name).index
        return torch.cuda.get_device_capability(index) if index in gpus else None
    return min(map(torch.cuda.get_device_capability, gpus))


def pick_quant(
    name: str | None, device: torch.device, dtype: torch.dtype
) -> Quant | Literal["auto"] | None:
    """How linear layers are to be held, for a key of `catalog.QUANTS`, "auto" or None.

    Raises:
        UsageError: it is none of these.
    """
    if name == "auto":
        # on a CPU the packed kernels are fast in bfloat16 only
        return "auto" if device.type != "cpu" or dtype == torch.bfloat16 else None
    if name is not None and name not in QUANTS:
        raise UsageError(
            _("{name!r} is no quantisation.").format(name=name),
            _("Known are: auto, none, {names}.").format(names=", ".join(QUANTS)),
        )
    return None if name is None else QUANTS[name]


def build_model(
    family: Any, raw: dict[str, Any], folder: Path, options: LoadOptions
) -> tuple[Any, Decoder]:
    """The family's Config and its Model, on the meta device."""
    try:
        config = family.load_config(raw)
        if not options.slim and hasattr(config, "slim"):
            config = replace(config, slim=False)
        with torch.device("meta"):
            return config, family.Model(config)
    except (KeyError, TypeError, ValueError, RuntimeError, ZeroDivisionError) as error:
        raise BadCheckpoint(
            _("{path} does not describe this kind of model: {error!r}").format(
                path=folder / "config.json", error=error
            ),
            _("Fetch the model again with: glmtui pull"),
        ) from error
