"""Decoder: what the engine asks of every family's model. Knows no family."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from glmtui.engine.nn.kv_cache import KVCache
from glmtui.engine.nn.layers import RotaryTable


class Decoder(nn.Module, ABC):
    """A model of ids to logits. Built on the meta device, filled by the loader, then prepared.

    Attributes:
        config: the family's Config; `config.context_length` is in tokens, `config.vocab` in ids.
        causal: whether no token sees a later one, so that a prompt can be read in chunks.
        rewinds: whether what was last read can be taken back at every length.
        layer_devices: the device of each layer, if the layers are on several devices (see
            `engine.loading.pipeline`); otherwise empty.
        rotary: what `prepare` made.
    """

    config: Any
    causal = True
    rewinds = True
    layer_devices: tuple[torch.device, ...] = ()
    rotary: RotaryTable | None = None

    @property
    def vocabulary(self) -> int:
        """How many ids it knows: those below this."""
        return int(self.config.vocab)

    @property
    def first_id(self) -> int:
        """The ids below this one have no row in memory."""
        return 0

    @property
    def left_out_bytes(self) -> int:
        """Memory saved by rows of the checkpoint that were not kept."""
        return 0

    @abstractmethod
    def prepare(self, length: int, dtype: torch.dtype, device: torch.device) -> None:
        """Computes the position tables for contexts up to `length` tokens."""

    def new_cache(
        self, capacity: int, dtype: torch.dtype, device: torch.device, batch: int = 1
    ) -> KVCache:
        """An empty cache for contexts up to `capacity` tokens.

        Args:
            device: of the whole cache; with `layer_devices`, each layer's part is on that layer's
                device instead, unless `device` is the meta device.
        """
        if not self.layer_devices or device.type == "meta":
            return self._make_cache(capacity, dtype, device, batch)
        cache = self._make_cache(capacity, dtype, torch.device("meta"), batch)
        for tensors in (cache.keys, cache.values):
            for i, layer_device in enumerate(self.layer_devices):
                tensors[i] = torch.zeros_like(tensors[i], device=layer_device)
        return cache

    @abstractmethod
    def _make_cache(
        self, capacity: int, dtype: torch.dtype, device: torch.device, batch: int
    ) -> KVCache:
        """An empty cache on one device, of the class that this model needs."""

    @abstractmethod
    def forward(
        self,
        ids: Tensor,
        cache: KVCache | None = None,
        *,
        last_only: bool = False,
        padding: Tensor | None = None,
    ) -> Tensor:
        """Logits after each token.

        Args:
            ids: int64 [batch, S]; with a cache they stand at positions cache.offset and on.
            last_only: compute the logits of the last position alone.
            padding: int64 [batch], how many first tokens of each sequence are padding.

        Returns:
            float32 [batch, S or 1, vocab].
        """

    def reusable_prefix(self, old: Sequence[int], new: Sequence[int]) -> int:
        """How many of the cached ids `old` serve a prompt `new`: as many as both begin with."""
        return common_prefix(old, new)


def common_prefix(old: Sequence[int], new: Sequence[int]) -> int:
    """How many ids both begin with."""
    for i, (a, b) in enumerate(zip(old, new, strict=False)):
        if a != b:
            return i
    return min(len(old), len(new))
