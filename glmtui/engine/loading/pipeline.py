"""Runs a model whose layers are on several devices: activations move to the device of each layer.

The loader has already put every part on its device (see `placement`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from glmtui.engine.loading.model_parts import LAYERS
from glmtui.engine.nn.decoder import Decoder


class DeviceMover:
    """Moves the arguments of a call to a device.

    Remembers the tensors of the last call, because consecutive layers get the same mask and
    position tables: these are copied once.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._moved: list[tuple[Tensor, Tensor]] = []  # original and copy

    def __call__(self, args: tuple[Any, ...]) -> tuple[Any, ...]:
        moved, result = [], []
        for value in args:
            if isinstance(value, Tensor) and value.device != self.device:
                copies = [copy for original, copy in self._moved if original is value]
                copy = copies[0] if copies else value.to(self.device)
                moved.append((value, copy))
                value = copy
            result.append(value)
        self._moved = moved
        return tuple(result)


class OnDevice(nn.Module):
    """Wraps a module so that its arguments are moved to the module's device first."""

    def __init__(self, inner: nn.Module, mover: DeviceMover) -> None:
        super().__init__()
        self.inner = inner
        self._mover = mover

    def forward(self, *args: Any) -> Any:
        return self.inner(*self._mover(args))


def split_over_devices(model: Decoder, devices: Mapping[str, torch.device]) -> None:
    """Makes a filled model run on the devices of its parts, and its KV caches too.

    Args:
        devices: by the names of the parts (see `model_parts`). Token ids and the tables that
            `prepare` makes are on the embedding's device.
    """
    movers = {device: DeviceMover(device) for device in devices.values()}
    layers = model.get_submodule(LAYERS)
    assert isinstance(layers, nn.ModuleList)
    layer_devices = tuple(devices[f"{LAYERS}.{i}"] for i in range(len(layers)))
    for i, device in enumerate(layer_devices):
        if device != devices["embedding"]:
            layers[i] = OnDevice(layers[i], movers[device])
    for name in ("norm", "head"):  # always wrapped: their input may come from another device
        setattr(model, name, OnDevice(model.get_submodule(name), movers[devices[name]]))
    model.layer_devices = layer_devices
