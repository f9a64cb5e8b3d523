"""TransformersCache: a cache of transformers' own behind the face of ours."""

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
    """Keys and values in a cache of transformers' own, which grows as it is written to.

    Args:
        scaling: of a model whose keys depend on the length of the whole text.

    Attributes:
        read: the ids it holds, each int64 [1, S], where they may have to be read again.
    """

    def __init__(self, config: Any, capacity: int, scaling: LengthScaling | None = None) -> None:
        super().__init__(0, 0, 0, capacity, dtype=torch.float32, device=torch.device("cpu"))
        self._config = config
        self._scaling = scaling
        self._regimes: list[Regime] = []  # of each token
        self.read: list[Tensor] = []
        self.inner = DynamicCache(config=config)

    def keep(self, ids: Tensor) -> None:
        """Notes what is being read behind the offset, and how its positions are turned."""
        if self._scaling is None:
            return
        end = self.offset + ids.shape[1]
        self._regimes += [self._scaling.regime(max(self.prompt_length, end))] * ids.shape[1]
        if self._scaling.restarts:
            self.read.append(ids)

    def restarts_with(self, tokens: int) -> bool:
        """Whether so many more tokens make it necessary to read all of the text again."""
        if self._scaling is None or not self._scaling.restarts or not self.offset:
            return False
        total = max(self.prompt_length, self.offset + tokens)
        return self._regimes[-1] != self._scaling.regime(total)

    def reusable_tokens(self, shared: int, total: int) -> int:
        if self._scaling is None:
            return shared
        wanted = self._scaling.regime(total)
        kept = itertools.takewhile(wanted.__eq__, self._regimes[:shared])
        return sum(1 for _regime in kept)

    def trim(self, length: int) -> None:
        if length and length >= self.offset:
            return
        # layers that see a window have let go of what was before it
        if length and all(type(layer) is DynamicLayer for layer in self.inner.layers):
            self.inner.crop(length - self.offset)
            self.offset = length
        else:
            self.inner = DynamicCache(config=self._config)
            self.offset = 0
        self._forget()

    def fork(self, length: int) -> TransformersCache:
        """As the base class says; empty where a layer cannot be cut (see `trim`)."""
        twin = TransformersCache(self._config, self.capacity, self._scaling)
        if all(type(layer) is DynamicLayer for layer in self.inner.layers):
            for i, layer in enumerate(self.inner.layers):
                keys, values = layer.keys[:, :, :length], layer.values[:, :, :length]
                twin.inner.update(keys.clone(), values.clone(), i)
            twin.offset = min(length, self.offset)
            twin.read, twin._regimes = list(self.read), list(self._regimes)
            twin._forget()
        return twin

    def _forget(self) -> None:
        """Lets go of what was noted of tokens from the offset on."""
        del self._regimes[self.offset :]
        if self.read:
            self.read = [torch.cat(self.read, dim=1)[:, : self.offset]]

    @property
    def nbytes(self) -> int:
        parts = (t for layer in self.inner.layers for t in (layer.keys, layer.values))
        return sum(t.nbytes for t in parts if isinstance(t, Tensor))
