"""LoadSpec: one model to load, with every option resolved for this machine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch

from glmtui.engine.catalog.model_folder import read_optional_object
from glmtui.engine.catalog.quants import QUANTS, Quant
from glmtui.engine.hardware.machine import Snapshot
from glmtui.engine.model_info import LoadOptions, ModelInfo
from glmtui.engine.nn.linear import KernelChoice, make_kernel_choice
from glmtui.errors import EngineError, UsageError
from glmtui.language import _

BFLOAT16_CAPABILITY = (8, 0)  # the first compute capability with bfloat16 matrix products
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True, slots=True)
class LoadSpec:
    """What to load and how.

    Attributes:
        info: the model as it was found on disk.
        raw_config: the contents of its config.json.
        family: a key of `FAMILIES`.
        options: as they were asked for.
        device: for "auto" and "balanced" the first GPU; the model may be placed elsewhere.
        dtype: of activations and of weights that are not quantised.
        quant: of linear layers in memory; "auto" is as in the checkpoint, None not quantised.
        kernels: that multiply with packed weights on a GPU.
        machine: the free memory of the host and its GPUs.
    """

    info: ModelInfo
    raw_config: dict[str, Any]
    family: str
    options: LoadOptions
    device: torch.device
    dtype: torch.dtype
    quant: Quant | Literal["auto"] | None
    kernels: KernelChoice
    machine: Snapshot


def resolve_options(info: ModelInfo, options: LoadOptions, machine: Snapshot) -> LoadSpec:
    """What the options mean for this model on this machine.

    Raises:
        UsageError, EngineError: an option has an unknown value, or asks for a missing device.
        BadCheckpoint: config.json is not a JSON object.
    """
    device = pick_device(options.device)
    raw_config = read_optional_object(info.path / "config.json")
    dtype = pick_dtype(
        options.dtype, device, stored_dtype(raw_config), gpu_capability(options.device)
    )
    return LoadSpec(
        info,
        raw_config,
        options.family or info.family,
        options,
        device,
        dtype,
        pick_quant(options.quant, device, dtype),
        make_kernel_choice(options.kernel, info.path, device, dtype),
        machine,
    )


def pick_device(name: str) -> torch.device:
    """The torch device for a name; for "auto" and "balanced" the first GPU, or else the CPU.

    Raises:
        UsageError: the name is not one of a device.
        EngineError: torch finds no GPU.
    """
    if name == "auto":
        name = "cuda:0" if torch.cuda.is_available() else "cpu"
    elif name == "balanced":
        name = "cuda:0"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(
            _("Unknown device: {name!r}.").format(name=name),
            _('Use "auto", "cpu", "cuda:0" or "balanced".'),
        ) from error
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise EngineError(
                _("torch finds no GPU on this machine."),
                _('Set load.device to "cpu", or run glmtui doctor to find out why.'),
            )
        device = torch.device("cuda", device.index or 0)
    return device


def pick_dtype(
    name: str,
    device: torch.device,
    stored: str = "",
    capability: tuple[int, int] | None = None,
) -> torch.dtype:
    """The dtype for a name; "auto" is bfloat16 on a CPU.

    On a GPU "auto" is float16, except for a bfloat16 checkpoint on a GPU that computes in bfloat16:
    activations of such a model can exceed the range of float16, as those of GLM-4 do.

    Args:
        stored: the dtype that the checkpoint's config.json names.
        capability: the lowest compute capability of the GPUs that may be used; None if unknown.

    Raises:
        UsageError: the name is not one of a supported dtype.
    """
    if name == "auto":
        use_bfloat16 = (
            stored == "bfloat16" and capability is not None and capability >= BFLOAT16_CAPABILITY
        )
        return torch.float16 if device.type == "cuda" and not use_bfloat16 else torch.bfloat16
    if name not in DTYPES:
        raise UsageError(
            _("Unknown dtype: {name!r}.").format(name=name),
            _("Use one of: auto, {names}.").format(names=", ".join(DTYPES)),
        )
    return DTYPES[name]


def stored_dtype(raw_config: Mapping[str, Any]) -> str:
    """The dtype that a config.json gives for unquantised weights; "" if it gives none."""
    inner = raw_config.get("text_config")  # in configs of multimodal models
    for source in (raw_config, inner if isinstance(inner, Mapping) else {}):
        name = source.get("torch_dtype") or source.get("dtype")
        if isinstance(name, str):
            return name.removeprefix("torch.")
    return ""


def gpu_capability(device: str) -> tuple[int, int] | None:
    """The lowest compute capability of the GPUs that a device option allows; None without one.

    Args:
        device: as `pick_device` takes it.
    """
    if not torch.cuda.is_available():
        return None
    gpus = range(torch.cuda.device_count())
    if device.startswith("cuda:"):
        index = torch.device(device).index
        return torch.cuda.get_device_capability(index) if index in gpus else None
    return min(map(torch.cuda.get_device_capability, gpus))


def pick_quant(
    name: str | None, device: torch.device, dtype: torch.dtype
) -> Quant | Literal["auto"] | None:
    """The quantisation of linear layers in memory, for a key of `QUANTS`, "auto" or None.

    Raises:
        UsageError: the name is none of these.
    """
    if name == "auto":
        # on a CPU the kernels for packed weights are fast in bfloat16 only
        return "auto" if device.type != "cpu" or dtype == torch.bfloat16 else None
    if name is not None and name not in QUANTS:
        raise UsageError(
            _("Unknown quantisation: {name!r}.").format(name=name),
            _("Use one of: auto, none, {names}.").format(names=", ".join(QUANTS)),
        )
    return None if name is None else QUANTS[name]
