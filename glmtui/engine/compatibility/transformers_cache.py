"""TransformersCache: a cache of the transformers library with the interface of our KVCache."""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from glmtui.engine.compatibility.length_scaling import LengthScaling, Regime
from glmtui.engine.nn.kv_cache import KVCache


class TransformersCache(KVCache):
    """Keys and values in a transformers cache, which grows as it is written.

    Args:
        scaling: of a model whose keys depend on the length of the whole text.

    Attributes:
        ids: the ids in the cache, each int64 [1, S]; empty if they never have to be read again.
    """

    def __init__(self, config: Any, capacity: int, scaling: LengthScaling | None = None) -> None:
        super().__init__(0, 0, 0, capacity, dtype=torch.float32, device=torch.device("cpu"))
        self._config = config
        self._scaling = scaling
        self._regimes: list[Regime] = []  # of each token
        self.ids: list[Tensor] = []
        self.inner = DynamicCache(config=config)

    def record(self, ids: Tensor) -> None:
        """Stores what a step reads after the offset, and the regime of its positions."""
        if self._scaling is None:
            return
        end = self.offset + ids.shape[1]
        self._regimes += [self._scaling.regime(max(self.prompt_length, end))] * ids.shape[1]
        if self._scaling.restarts:
            self.ids.append(ids)

    def must_restart(self, tokens: int) -> bool:
        """Whether the whole text must be read again to add this many tokens."""
        if self._scaling is None or not self._scaling.restarts or not self.offset:
            return False
        total = max(self.prompt_length, self.offset + tokens)
        return self._regimes[-1] != self._scaling.regime(total)

    def reusable_tokens(self, shared: int, total: int) -> int:
        if self._scaling is None:
            return shared
        regime = self._scaling.regime(total)
        usable = itertools.takewhile(regime.__eq__, self._regimes[:shared])
        return sum(1 for _regime in usable)

    def trim(self, length: int) -> None:
        if length and length >= self.offset:
            return
        # layers with a sliding window no longer have what was before it
        if length and all(type(layer) is DynamicLayer for layer in self.inner.layers):
            self.inner.crop(length - self.offset)
            self.offset = length
        else:
            self.inner = DynamicCache(config=self._config)
            self.offset = 0
        self._drop_records()

    def fork(self, length: int) -> TransformersCache:
        """As in the base class; empty if a layer cannot be cut (see `trim`)."""
        twin = TransformersCache(self._config, self.capacity, self._scaling)
        if all(type(layer) is DynamicLayer for layer in self.inner.layers):
            for i, layer in enumerate(self.inner.layers):
                keys, values = layer.keys[:, :, :length], layer.values[:, :, :length]
                twin.inner.update(keys.clone(), values.clone(), i)
            twin.offset = min(length, self.offset)
            twin.ids, twin._regimes = list(self.ids), list(self._regimes)
            twin._drop_records()
        return twin

    def _drop_records(self) -> None:
        """Drops what `record` stored of tokens from the offset on."""
        del self._regimes[self.offset :]
        if self.ids:
            self.ids = [torch.cat(self.ids, dim=1)[:, : self.offset]]

    @property
    def nbytes(self) -> int:
        parts = (t for layer in self.inner.layers for t in (layer.keys, layer.values))
        return sum(t.nbytes for t in parts if isinstance(t, Tensor))
