"""CacheShelf: the KV caches of several conversations, kept within a budget of memory.

A prompt goes on from the cache that has read most of it. What follows there is given up if it is
short, as a reply that is asked for again; a branch worth keeping stays, and the prompt gets a
cache of its own that begins with a copy of what both share. Knows ids and bytes, no tensors.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from glmtui.engine.hardware.machine import snapshot
from glmtui.engine.nn.decoder import Decoder
from glmtui.engine.nn.kv_cache import KVCache

WORTH_KEEPING = 256  # tokens: fewer are read again sooner than they are missed
SHARE = 4  # of the free memory, one part in so many is for caches
MOST_ON_CPU = 2_000_000_000  # bytes: other programs live there too


class PrefixCache:
    """The caches of one model, the one in use last.

    Args:
        model: whose caches they are; it says what of a cache serves a prompt.
        context_length: longest prompt and reply together, in tokens.
        dtype, device: of keys and values.
        budget: bytes for all caches together. The one in use may be larger, but then it is alone.
    """

    def __init__(
        self,
        model: Decoder,
        context_length: int,
        dtype: torch.dtype,
        device: torch.device,
        budget: int,
    ) -> None:
        self._model = model
        self._context_length = context_length
        self._dtype = dtype
        self._device = device
        self._budget = budget
        self._kept: list[tuple[KVCache, list[int]]] = []  # each with the ids it has read

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def cache(self) -> KVCache:
        """The one in use: what `open` returned last."""
        return self._kept[-1][0]

    @property
    def nbytes(self) -> int:
        """Memory of all caches, in bytes."""
        return sum(cache.nbytes for cache, _ in self._kept)

    def open(self, prompt: Sequence[int]) -> KVCache:
        """The cache to read `prompt` into: it holds as much of it as any has read.

        At least the last id is left to be read, since only reading gives logits.
        """
        for cache, ids in self._kept:
            del ids[cache.offset :]  # a step that failed may have noted ids that were never read
        shared = [min(self._shared(kept, prompt), len(prompt) - 1) for kept in self._kept]
        length = max(shared, default=0)
        # of equals the one used last
        best = max((i for i, n in enumerate(shared) if n == length), default=None)
        if best is None:
            self._kept.append((self._new(), []))
        else:
            self._kept.append(self._branch(best, length))
        self._keep_within_budget()
        # at once, so that what is there is copied once, and with room for a reply to begin
        room = min(len(prompt) + 1, self._context_length)
        self.cache.reserve(max(room - self.cache.offset, 0))
        self._keep_within_budget()
        return self.cache

    def note(self, ids: Sequence[int]) -> None:
        """Says what the cache in use has read; where it grew for that, the oldest give way.

        What it read and nobody noted counts for nothing: the next prompt is read over it.
        """
        self._kept[-1][1].extend(ids)
        self._keep_within_budget()

    def rewind(self, tokens: int) -> None:
        """Makes the cache in use forget the last `tokens` it has read."""
        cache, ids = self._kept[-1]
        cache.trim(cache.offset - tokens)
        del ids[cache.offset :]

    def clear(self) -> None:
        """Gives the memory of all caches back."""
        self._kept.clear()

    def _shared(self, kept: tuple[KVCache, list[int]], new: Sequence[int]) -> int:
        cache, old = kept
        return cache.reusable_tokens(self._model.reusable_prefix(old, new), len(new))

    def _branch(self, index: int, length: int) -> tuple[KVCache, list[int]]:
        """The first `length` tokens of a cache: itself, or a copy where more is at stake."""
        cache, ids = self._kept[index]
        lost = len(ids) - length
        if lost >= WORTH_KEEPING and lost >= length:
            cache = cache.fork(length) if length else self._new()
        else:
            del self._kept[index]
            cache.trim(length)
        return cache, ids[: cache.offset]

    def _new(self) -> KVCache:
        return self._model.new_cache(self._context_length, self._dtype, self._device)

    def _keep_within_budget(self) -> None:
        while len(self._kept) > 1 and self.nbytes > self._budget:
            del self._kept[0]


def cache_budget(gigabytes: float | None, device: torch.device) -> int:
    """Bytes for the caches of a model that has just been loaded.

    Args:
        gigabytes: what was asked for; None takes a share of what is free now.
    """
    if gigabytes is not None:
        return int(gigabytes * 1e9)
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] // SHARE
    return min((snapshot().memory.available or 0) // SHARE, MOST_ON_CPU)
