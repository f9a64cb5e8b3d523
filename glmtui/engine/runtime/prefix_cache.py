"""PrefixCache: the KV caches of several conversations, within a memory budget.

A prompt continues the cache that shares its longest prefix. If that cache has read much more than
the prefix, it is kept, and the prompt gets a copy of the prefix; otherwise it is cut.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from glmtui.engine.hardware.machine import snapshot
from glmtui.engine.nn.decoder import Decoder
from glmtui.engine.nn.kv_cache import KVCache

MIN_BRANCH = 256  # tokens; a shorter tail is not kept, because reading it again is cheap
FREE_SHARE = 4  # caches may use a quarter of the free memory
MAX_CPU_BYTES = 2_000_000_000  # of main memory, which other programs need too


@dataclass(frozen=True, slots=True)
class _Entry:
    """A cache and the ids it has read."""

    cache: KVCache
    ids: list[int]


class PrefixCache:
    """The KV caches of one model. The current one is the last.

    Args:
        context_length: most tokens of prompt and reply together.
        dtype, device: of keys and values.
        budget: bytes for all caches together; a single cache may be larger.
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
        self._entries: list[_Entry] = []  # least recently used first

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def cache(self) -> KVCache:
        """The current cache: what `open` returned last."""
        return self._entries[-1].cache

    @property
    def nbytes(self) -> int:
        """Memory of all caches, in bytes."""
        return sum(entry.cache.nbytes for entry in self._entries)

    def open(self, prompt: Sequence[int]) -> KVCache:
        """Selects the cache with the longest prefix of `prompt`, and trims it (or a copy) to that.

        At least the last id of the prompt remains to be read, because its logits are needed.
        """
        for entry in self._entries:
            del entry.ids[entry.cache.offset :]  # a failed step may have committed unread ids
        shared = [min(self._shared(entry, prompt), len(prompt) - 1) for entry in self._entries]
        length = max(shared, default=0)
        # among equals the most recently used
        best = max((i for i, n in enumerate(shared) if n == length), default=None)
        if best is None:
            self._entries.append(_Entry(self._new_cache(), []))
        else:
            self._entries.append(self._branch(best, length))
        self._evict()
        # Grow at once, so that keys and values are copied only once, and the reply can begin.
        room = min(len(prompt) + 1, self._context_length)
        self.cache.reserve(max(room - self.cache.offset, 0))
        self._evict()
        return self.cache

    def commit(self, ids: Sequence[int]) -> None:
        """Records ids that the current cache has read; evicts old caches if it grew.

        Ids that are read but not committed are overwritten by the next prompt.
        """
        self._entries[-1].ids.extend(ids)
        self._evict()

    def rewind(self, tokens: int) -> None:
        """Removes the last ids from the current cache."""
        current = self._entries[-1]
        current.cache.trim(current.cache.offset - tokens)
        del current.ids[current.cache.offset :]

    def clear(self) -> None:
        """Frees the memory of all caches."""
        self._entries.clear()

    def _shared(self, entry: _Entry, prompt: Sequence[int]) -> int:
        """How many tokens of a cache can serve a prompt."""
        shared = self._model.reusable_prefix(entry.ids, prompt)
        return entry.cache.reusable_tokens(shared, len(prompt))

    def _branch(self, index: int, length: int) -> _Entry:
        """The first `length` tokens of a cache: the cache itself, or a copy if that loses much."""
        entry = self._entries[index]
        lost = len(entry.ids) - length
        if lost >= MIN_BRANCH and lost >= length:
            cache = entry.cache.fork(length) if length else self._new_cache()
        else:
            del self._entries[index]
            cache = entry.cache
            cache.trim(length)
        return _Entry(cache, entry.ids[: cache.offset])

    def _new_cache(self) -> KVCache:
        return self._model.new_cache(self._context_length, self._dtype, self._device)

    def _evict(self) -> None:
        while len(self._entries) > 1 and self.nbytes > self._budget:
            del self._entries[0]


def cache_budget(gigabytes: float | None, device: torch.device) -> int:
    """Bytes for the KV caches of a model that has just been loaded.

    Args:
        gigabytes: the user's setting; None takes a share of the memory that is free now.
    """
    if gigabytes is not None:
        return int(gigabytes * 1e9)
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] // FREE_SHARE
    return min((snapshot().memory.available or 0) // FREE_SHARE, MAX_CPU_BYTES)
