"""ModelInfo + LoadOptions -> LoadedModel: tensors are read one at a time, converted, and placed.

Knows families only through `catalog.FAMILIES` and the interface of their modules:
``load_config``, ``Model``, ``sources``, ``load_tokenizer``, ``chat_format``, ``stop_ids`` and
``defaults``.
"""

from __future__ import annotations

import importlib
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from glmtui.engine import catalog
from glmtui.engine.api import (
    ChatModel,
    LoadedInfo,
    LoadOptions,
    ModelInfo,
    Progress,
    ProgressHook,
    ServerSpec,
    Target,
)
from glmtui.engine.device import physical_cores
from glmtui.engine.generate import LoadedModel, out_of_memory
from glmtui.engine.layers import Slot
from glmtui.engine.linear import make_head, make_linear
from glmtui.engine.quant import PackedWeight, quantize
from glmtui.engine.weights import Checkpoint, Rows
from glmtui.errors import BadCheckpoint, EngineError, UsageError
from glmtui.models.hub_format import read_json

TABLES = ("embedding", "head")  # what every family calls them
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class Cancelled(Exception):
    """Loading was given up because nobody wants the model any more."""


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
    target = catalog.resolve(ref)
    if isinstance(target, ServerSpec):
        raise UsageError(
            f"{ref} is a server, not a model to load here.",
            "Use glmtui.engine.server.ServerModel.connect for it.",
        )
    return load(target, options, on_progress)


def open_model(
    target: Target,
    options: LoadOptions = LoadOptions(),
    on_progress: ProgressHook = lambda progress: None,
    cancelled: threading.Event | None = None,
) -> ChatModel:
    """A model in this process or a server elsewhere, ready to chat."""
    if isinstance(target, ServerSpec):
        from glmtui.engine.server import ServerModel

        return ServerModel.connect(target)
    return load(target, options, on_progress, cancelled)


def load(
    info: ModelInfo,
    options: LoadOptions = LoadOptions(),
    on_progress: ProgressHook = lambda progress: None,
    cancelled: threading.Event | None = None,
) -> LoadedModel:
    """Loads the model found at `info.path`.

    Raises:
        BadCheckpoint: files are missing, damaged, or do not fit the config.
        OutOfMemory: the device has no room for it.
        Cancelled: `cancelled` was set.
    """
    started = time.perf_counter()
    device = pick_device(options.device)
    dtype = pick_dtype(options.dtype, device)
    quant = options.quant
    if device.type == "cpu":
        torch.set_num_threads(physical_cores())
        if quant == "auto" and dtype != torch.bfloat16:
            quant = None  # the packed kernels are fast in bfloat16 only
    raw = read_json(info.path / "config.json")
    family = family_module(options.family or info.family)
    config = _config(family, raw, info.path)
    if not options.slim and hasattr(config, "slim"):
        config = replace(config, slim=False)
    # the tokenizer first: what it refuses is known before gigabytes are read
    tokenizer = family.load_tokenizer(info.path, raw)
    chat_format = family.chat_format(tokenizer, info.path, raw) if tokenizer else None
    with torch.device("meta"):
        model = family.Model(config)
    placer = _Placer(model, Checkpoint(info.path, raw), device, dtype, quant)
    try:
        placer.place_all(family.sources(config), on_progress, cancelled or threading.Event())
        context_length = min(options.context_length or config.context_length, config.context_length)
        model.prepare(context_length, dtype, device)
    except torch.OutOfMemoryError as error:
        raise out_of_memory(device) from error
    cache = model.new_cache(1, dtype, torch.device("meta"))
    loaded = LoadedInfo(
        name=info.name,
        device=str(device),
        dtype=str(dtype).removeprefix("torch."),
        quant=" + ".join(sorted(placer.quants)),
        context_length=context_length,
        weight_bytes=placer.nbytes,
        kv_bytes_per_token=cache.nbytes,
        load_seconds=time.perf_counter() - started,
        saved_bytes=model.left_out_bytes,
        defaults=family.defaults(info.path, raw),
    )
    return LoadedModel(
        model,
        tokenizer,
        chat_format,
        chat_format.stop_ids if chat_format else family.stop_ids(raw),
        loaded,
        dtype=dtype,
        device=device,
    )


def family_module(key: str) -> Any:
    """The module of a family. Raises UsageError for a key that is none."""
    for family in catalog.FAMILIES:
        if family.key == key:
            return importlib.import_module(family.module)
    known = ", ".join(family.key for family in catalog.FAMILIES)
    raise UsageError(f"{key!r} is no model family.", f"Known are: {known}.")


def pick_device(name: str) -> torch.device:
    """The torch device for a name; "auto" is the first GPU if there is one.

    Raises:
        EngineError: there is no such device here.
    """
    if name == "auto":
        name = "cuda:0" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"{name!r} is no device.", 'Use "auto", "cpu" or "cuda:0".') from error
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise EngineError(
                "torch sees no GPU here.", 'Use device "cpu", or see what glmtui doctor says.'
            )
        device = torch.device("cuda", device.index or 0)
    return device


def pick_dtype(name: str, device: torch.device) -> torch.dtype:
    """The dtype for a name; "auto" is float16 on a GPU and bfloat16 on a CPU."""
    if name == "auto":
        return torch.float16 if device.type == "cuda" else torch.bfloat16
    if name not in DTYPES:
        raise UsageError(f"{name!r} is no dtype.", f"Known are: auto, {', '.join(DTYPES)}.")
    return DTYPES[name]


def _config(family: Any, raw: dict[str, Any], folder: Path) -> Any:
    try:
        return family.load_config(raw)
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise BadCheckpoint(
            f"{folder / 'config.json'} does not describe this kind of model: {error!r}",
            "Fetch the model again with: glmtui pull",
        ) from error


class _Placer:
    """Fills a model built on the meta device, one module at a time."""

    def __init__(
        self,
        model: nn.Module,
        checkpoint: Checkpoint,
        device: torch.device,
        dtype: torch.dtype,
        quant: str | None,
    ) -> None:
        self.model = model
        self.checkpoint = checkpoint
        self.device = device
        self.dtype = dtype
        self.quant = quant
        self.quants: set[str] = set()
        self.nbytes = 0
        self._tables: dict[Rows, Tensor] = {}

    def place_all(
        self, sources: dict[str, Rows], on_progress: ProgressHook, cancelled: threading.Event
    ) -> None:
        """Reads, converts and places every parameter that `sources` names."""
        total = sum(p.numel() for p in self.model.parameters())
        done = 0
        for path, module in list(self.model.named_modules()):
            shapes = {name: p.shape for name, p in module.named_parameters(recurse=False)}
            if not shapes:
                continue
            if cancelled.is_set():
                raise Cancelled
            wanted = {name: sources[f"{path}.{name}"] for name in shapes}
            if path in TABLES:
                self._place_table(path, module, wanted["weight"], shapes["weight"])
            else:
                tensors = {name: self._read(rows, shapes[name]) for name, rows in wanted.items()}
                self._place(path, module, tensors)
            done += sum(shape.numel() for shape in shapes.values())
            on_progress(Progress("loading", done, total))
        self.checkpoint.close()

    def _read(self, rows: Rows, shape: torch.Size) -> Tensor | PackedWeight:
        tensor = self.checkpoint.rows(rows)
        if tensor.shape != shape:
            raise BadCheckpoint(
                f"{' + '.join(rows.names)} in {self.checkpoint.folder} has shape "
                f"{tuple(tensor.shape)}; config.json asks for {tuple(shape)}.",
                "config.json and weights are not of the same model; fetch it again.",
            )
        return tensor.to(self.device)

    def _place(
        self, path: str, module: nn.Module, tensors: dict[str, Tensor | PackedWeight]
    ) -> None:
        if isinstance(module, Slot):
            bias = tensors.get("bias")
            assert not isinstance(bias, PackedWeight)
            linear = make_linear(self._wanted(tensors["weight"]), bias, self.dtype)
            self._install(path, linear)
            self.nbytes += linear.nbytes
            return
        # norms: a CPU works on them in float32
        dtype = torch.float32 if self.device.type == "cpu" else self.dtype
        for name, tensor in tensors.items():
            assert isinstance(tensor, Tensor)
            setattr(module, name, nn.Parameter(tensor.to(dtype), requires_grad=False))
            self.nbytes += tensor.numel() * dtype.itemsize

    def _wanted(self, weight: Tensor | PackedWeight) -> Tensor | PackedWeight:
        """The weight as `quant` asks for it."""
        if isinstance(weight, PackedWeight) and self.quant == "auto":
            self.quants.add(weight.kind)
            return weight
        if self.quant is None or self.quant == "auto":
            return dense(weight, self.dtype)
        row = catalog.QUANTS[self.quant]
        if not (isinstance(weight, PackedWeight) and weight.bits == row.bits):
            weight = quantize(dense(weight, torch.float32), row.bits, row.group)
        self.quants.add(weight.kind)
        return weight

    def _place_table(self, path: str, module: nn.Module, rows: Rows, shape: torch.Size) -> None:
        """The embedding or the head, never below 16 bits; where both are one tensor, held once."""
        table = self._tables.get(rows)
        if table is None:
            stored = self._read(rows, shape)
            table = self._tables[rows] = dense(stored, self._table_dtype(stored))
            self.nbytes += table.nbytes
        if isinstance(module, Slot):
            self._install(path, make_head(table, self.dtype))
        else:
            module.weight = nn.Parameter(table, requires_grad=False)

    def _table_dtype(self, stored: Tensor | PackedWeight) -> torch.dtype:
        """float16, not bfloat16, on a CPU if that loses nothing: it is twice as fast there."""
        halves = isinstance(stored, PackedWeight) or stored.dtype == torch.float16
        if self.device.type == "cpu" and self.dtype == torch.bfloat16 and halves:
            return torch.float16
        return self.dtype

    def _install(self, path: str, linear: nn.Module) -> None:
        parent, _, name = path.rpartition(".")
        setattr(self.model.get_submodule(parent), name, linear)


def dense(weight: Tensor | PackedWeight, dtype: torch.dtype) -> Tensor:
    """The weight unpacked, in `dtype`."""
    return weight.to(dtype) if isinstance(weight, Tensor) else weight.dequantize(dtype)
