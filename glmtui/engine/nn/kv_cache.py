"""KVCache: the keys and values of the tokens that a model has processed."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

BLOCK_TOKENS = 512  # memory is allocated in multiples of this many tokens
GROWTH = 4  # a full cache grows by 1/4, at least by one block


class KVCache:
    """Keys and values of a context, one pair of tensors per layer.

    A forward pass over S tokens calls `update` once per layer with the same S, and `advance` once
    at the end. A new cache has memory for BLOCK_TOKENS tokens. When it is full, it grows by a
    quarter in whole blocks, layer by layer.

    Args:
        layers: number of decoder layers.
        heads: key/value heads per layer.
        head_dim: elements of one head.
        capacity: maximum context length, in tokens.
        batch: number of sequences.

    Attributes:
        offset: number of tokens in the cache.
        position: int64 [1], the position of a step that is captured as a CUDA graph, else None.
            The shapes and addresses of such a step do not depend on the offset.
        prompt_length: number of tokens of the prompt that is being read.
    """

    position: Tensor | None = None
    prompt_length = 0

    def __init__(
        self,
        layers: int,
        heads: int,
        head_dim: int,
        capacity: int,
        *,
        dtype: torch.dtype,
        device: torch.device,
        batch: int = 1,
    ) -> None:
        shape = (batch, heads, min(capacity, BLOCK_TOKENS), head_dim)
        # zeros, not empty: NaN in uninitialized memory would pass through a mask
        self.keys = [torch.zeros(shape, dtype=dtype, device=device) for _ in range(layers)]
        self.values = [torch.zeros(shape, dtype=dtype, device=device) for _ in range(layers)]
        self.capacity = capacity
        self.offset = 0

    def update(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Writes keys and values, [batch, heads, S, head_dim], at the offset.

        Returns:
            Views of all keys and values, each [batch, heads, offset + S, head_dim]. With
            `position`, the whole tensors, which need `visible_mask`.
        """
        if self.position is not None:
            self.keys[layer].index_copy_(2, self.position, keys)
            self.values[layer].index_copy_(2, self.position, values)
            return self.keys[layer], self.values[layer]
        length = keys.shape[2]
        end = self.offset + length
        all_keys, all_values = self.reserve_layer(layer, length)
        all_keys.narrow(2, self.offset, length).copy_(keys)
        all_values.narrow(2, self.offset, length).copy_(values)
        return all_keys.narrow(2, 0, end), all_values.narrow(2, 0, end)

    def reserve_layer(self, layer: int, tokens: int) -> tuple[Tensor, Tensor]:
        """Grows a layer if it has no memory for this many tokens after the offset.

        Returns:
            Keys and values, each [batch, heads, allocated tokens, head_dim], contiguous.
        """
        end, allocated = self.offset + tokens, self.keys[layer].shape[2]
        if end > allocated:
            assert end <= self.capacity, "the caller must respect the context length"
            length = round_up_to_blocks(max(allocated + allocated // GROWTH, end))
            self.keys[layer] = self._resize(self.keys[layer], length)
            self.values[layer] = self._resize(self.values[layer], length)
        return self.keys[layer], self.values[layer]

    def reserve(self, tokens: int) -> tuple[list[Tensor], list[Tensor]]:
        """`reserve_layer` for every layer; returns the keys and values of all of them."""
        for layer in range(len(self.keys)):
            self.reserve_layer(layer, tokens)
        return self.keys, self.values

    def _resize(self, old: Tensor, tokens: int) -> Tensor:
        """A copy of a tensor with memory for `tokens` tokens; copies those before the offset."""
        batch, heads, _, head_dim = old.shape
        new = old.new_zeros(batch, heads, min(tokens, self.capacity), head_dim)
        new.narrow(2, 0, self.offset).copy_(old.narrow(2, 0, self.offset))
        return new

    def advance(self, tokens: int) -> None:
        self.offset += tokens

    def trim(self, length: int) -> None:
        """Drops all tokens after the first `length`."""
        self.offset = min(self.offset, length)

    def tensors(self) -> list[Tensor]:
        """All tensors that a step reads or writes, except `position`.

        They are the same objects at the same addresses until the cache grows.
        """
        return [*self.keys, *self.values]

    def reusable_tokens(self, shared: int, total: int) -> int:
        """How many of the first `shared` tokens can be reused for a prompt of `total` tokens.

        Fewer than `shared` in a subclass whose keys depend on the length of the whole text.
        """
        return shared

    @property
    def allocated_tokens(self) -> int:
        """Number of tokens that the cache has memory for."""
        return self.keys[-1].shape[2]

    def visible_mask(self) -> Tensor:
        """The mask of a step at `position`: bool [1, 1, 1, allocated tokens], True up to it."""
        assert self.position is not None
        positions = torch.arange(self.allocated_tokens, device=self.position.device)
        return (positions <= self.position)[None, None, None]

    def fork(self, length: int) -> KVCache:
        """A new cache with a copy of the first `length` tokens."""
        new = copy.copy(self)
        new.trim(length)
        tokens = round_up_to_blocks(max(new.offset, 1))
        new.keys = [new._resize(keys, tokens) for keys in self.keys]
        new.values = [new._resize(values, tokens) for values in self.values]
        return new

    @property
    def nbytes(self) -> int:
        """Allocated bytes. Between two forward passes all layers have the same size."""
        return len(self.keys) * (self.keys[-1].nbytes + self.values[-1].nbytes)


def round_up_to_blocks(tokens: int) -> int:
    return -(-tokens // BLOCK_TOKENS) * BLOCK_TOKENS
