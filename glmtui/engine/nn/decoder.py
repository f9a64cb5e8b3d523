"""Decoder: the interface that the engine needs from the model of every family."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from glmtui.engine.nn.kv_cache import KVCache
from glmtui.engine.nn.layers import RotaryTable


class Decoder(nn.Module, ABC):
    """A model that maps token ids to logits.

    The loader builds it on the meta device, fills its weights and then calls `prepare`.

    Attributes:
        config: the family's Config, with `context_length` and `vocab`, the number of ids.
        causal: whether a token never sees later ones, so that prefill may run in chunks.
        supports_rewind: whether its cache can be trimmed to any length.
        multi_device: whether its layers are on several devices (`loading.pipeline`).
        rotary: the position tables, set by `prepare`.
    """

    config: Any
    causal = True
    supports_rewind = True
    multi_device = False
    rotary: RotaryTable | None = None

    @property
    def vocab_size(self) -> int:
        """Number of token ids, including those below `first_token_id`."""
        return int(self.config.vocab)

    @property
    def first_token_id(self) -> int:
        """The lowest id that the model accepts; the rows of lower ids were not loaded."""
        return 0

    @property
    def skipped_bytes(self) -> int:
        """Memory saved by rows of the checkpoint that were not loaded."""
        return 0

    @abstractmethod
    def prepare(self, length: int, dtype: torch.dtype, device: torch.device) -> None:
        """Computes the position tables for contexts of up to `length` tokens."""

    @abstractmethod
    def new_cache(
        self, capacity: int, dtype: torch.dtype, device: torch.device, batch: int = 1
    ) -> KVCache:
        """Creates an empty cache for contexts of up to `capacity` tokens."""

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
            ids: int64 [batch, S]; with a cache their positions start at cache.offset.
            last_only: compute only the logits of the last position.
            padding: int64 [batch], number of padding tokens at the start of each sequence.

        Returns:
            float32 [batch, S or 1, vocab].
        """

    def reusable_prefix(self, old: Sequence[int], new: Sequence[int]) -> int:
        """How many of the cached ids `old` can be reused for a prompt `new`."""
        return common_prefix(old, new)


def common_prefix(old: Sequence[int], new: Sequence[int]) -> int:
    """Length of the common prefix."""
    for i, (a, b) in enumerate(zip(old, new, strict=False)):
        if a != b:
            return i
    return min(len(old), len(new))
