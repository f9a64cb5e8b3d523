"""A model over several devices, in one process: activations move where the next layers are.

The loader has put each part where `placement` said; this makes a token's way through them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from glmtui.engine.nn.decoder import Decoder
from glmtui.engine.nn.kv_cache import KVCache

LAYERS = "layers"  # what every family calls them


class DeviceMover:
    """Brings tensors to a device; what many layers are given alike is brought once."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._brought: list[tuple[Tensor, Tensor]] = []  # as they were, and here

    def __call__(self, tensors: tuple[Any, ...]) -> tuple[Any, ...]:
        """The arguments of a call, tensors among them on the device."""
        brought, here = [], []
        for value in tensors:
            if isinstance(value, Tensor) and value.device != self.device:
                known = [moved for source, moved in self._brought if source is value]
                moved = known[0] if known else value.to(self.device)
                brought.append((value, moved))
                value = moved
            here.append(value)
        self._brought = brought
        return tuple(here)


class OnDevice(nn.Module):
    """A module whose arguments come from another device."""

    def __init__(self, inner: nn.Module, ferry: DeviceMover) -> None:
        super().__init__()
        self.inner = inner
        self._ferry = ferry

    def forward(self, *args: Any) -> Any:
        return self.inner(*self._ferry(args))


def split_over_devices(model: Decoder, devices: Mapping[str, torch.device]) -> None:
    """Makes a filled model run where its parts are, and its caches lie beside their layers.

    Args:
        devices: of "embedding", "layers.0" and so on, "norm" and "head". Ids, and the tables that
            `prepare` makes, are on the embedding's.
    """
    first = devices["embedding"]
    ferries = {device: DeviceMover(device) for device in devices.values()}
    layers = model.get_submodule(LAYERS)
    assert isinstance(layers, nn.ModuleList)
    places = [devices[f"{LAYERS}.{i}"] for i in range(len(layers))]
    for i, device in enumerate(places):
        if device != first:
            layers[i] = OnDevice(layers[i], ferries[device])
    for name in ("norm", "head"):
        # always: what comes before may be elsewhere
        setattr(model, name, OnDevice(model.get_submodule(name), ferries[devices[name]]))
    make = model.new_cache

    def new_cache(
        capacity: int, dtype: torch.dtype, device: torch.device, batch: int = 1
    ) -> KVCache:
        cache = make(capacity, dtype, torch.device("meta"), batch)
        if device.type != "meta":
            for tensors in (cache.keys, cache.values):
                for i, place in enumerate(places):
                    tensors[i] = torch.empty_like(tensors[i], device=place)
        return cache

    model.new_cache = new_cache  # type: ignore[method-assign]
    model.multi_device = True
