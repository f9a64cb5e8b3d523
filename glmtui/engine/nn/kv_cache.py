"""KVCache: the keys and values of what a model has read. Knows tensors and lengths, not tokens."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

BLOCK_TOKENS = 512  # tokens
GROWTH = 4  # a room that is full grows by one part in so many, or by a block


class KVCache:
    """Preallocated keys and values, one pair of tensors per layer.

    A forward pass over S tokens calls `update` once per layer with the same S and `advance` once
    at the end. Room is made for BLOCK_TOKENS tokens and grows by a quarter when it is full,
    layer by layer and in whole blocks.

    Args:
        layers: number of decoder layers.
        heads: key/value heads per layer.
        head_dim: size of one head.
        capacity: longest context, in tokens.
        batch: sequences side by side.

    Attributes:
        position: int64 [1], where a step writes and looks, while it is captured (`cuda_graph`):
            shapes and addresses then depend on the room alone, and not on the offset.
        prompt_length: how many tokens the prompt that is being read has, with what follows in it.
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
        room = (batch, heads, min(capacity, BLOCK_TOKENS), head_dim)
        # zeros: what a mask hides still counts if it is no number
        self.keys = [torch.zeros(room, dtype=dtype, device=device) for _ in range(layers)]
        self.values = [torch.zeros(room, dtype=dtype, device=device) for _ in range(layers)]
        self.capacity = capacity
        self.offset = 0

    def update(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Writes [batch, heads, S, head_dim] at the offset; returns views of all there is so far.

        Returns:
            Keys and values, each [batch, heads, offset + S, head_dim]; with a position all the
            room there is, of which `visible_mask` tells what counts.
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
        """Keys and values with room for more tokens, to be written at the offset.

        Returns:
            Each [batch, heads, room, head_dim], contiguous.
        """
        end, room = self.offset + tokens, self.keys[layer].shape[2]
        if end > room:
            assert end <= self.capacity, "the caller keeps within the context length"
            room = -(-max(room + room // GROWTH, end) // BLOCK_TOKENS) * BLOCK_TOKENS
            self.keys[layer] = self._with_room(self.keys[layer], room)
            self.values[layer] = self._with_room(self.values[layer], room)
        return self.keys[layer], self.values[layer]

    def reserve(self, tokens: int) -> tuple[list[Tensor], list[Tensor]]:
        """Keys and values of every layer, with room for more tokens; see `reserve_layer`."""
        for layer in range(len(self.keys)):
            self.reserve_layer(layer, tokens)
        return self.keys, self.values

    def _with_room(self, old: Tensor, tokens: int) -> Tensor:
        """A tensor with room for `tokens` tokens, which begins as the old one does."""
        batch, heads, _, head_dim = old.shape
        new = old.new_zeros(batch, heads, min(tokens, self.capacity), head_dim)
        new.narrow(2, 0, self.offset).copy_(old.narrow(2, 0, self.offset))
        return new

    def advance(self, tokens: int) -> None:
        """Moves the offset past what the last forward pass wrote."""
        self.offset += tokens

    def trim(self, length: int) -> None:
        """Forgets everything after the first `length` tokens."""
        self.offset = min(self.offset, length)

    def tensors(self) -> list[Tensor]:
        """All that a step reads and writes here besides `position`.

        They stay the same tensors, at the same addresses, until the cache grows.
        """
        return [*self.keys, *self.values]

    def reusable_tokens(self, shared: int, total: int) -> int:
        """How many of the first `shared` tokens serve a prompt of `total` tokens: all of them.

        Fewer where keys depend on how long the whole text is.
        """
        return shared

    @property
    def allocated_tokens(self) -> int:
        """Tokens there is memory for so far."""
        return self.keys[-1].shape[2]

    def visible_mask(self) -> Tensor:
        """What a step at `position` sees of the room: bool [1, 1, 1, room]."""
        assert self.position is not None
        return (torch.arange(self.allocated_tokens, device=self.position.device) <= self.position)[
            None, None, None
        ]

    def fork(self, length: int) -> KVCache:
        """A cache of its own that has read the first `length` tokens of what this one has."""
        twin = copy.copy(self)
        twin.trim(length)
        room = -(-max(twin.offset, 1) // BLOCK_TOKENS) * BLOCK_TOKENS
        twin.keys = [twin._with_room(keys, room) for keys in self.keys]
        twin.values = [twin._with_room(values, room) for values in self.values]
        return twin

    @property
    def nbytes(self) -> int:
        """Bytes allocated; between two forward passes all layers have the same room."""
        return len(self.keys) * (self.keys[-1].nbytes + self.values[-1].nbytes)
