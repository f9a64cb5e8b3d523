"""Masks, positions and KV cache of a prefix language model (GLM, arXiv:2103.10360).

Attention is bidirectional before <sop> and causal from there on. A position is two numbers: the
position in the text, and the position in the generated block. No weights are needed here.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from glmtui.engine.nn.kv_cache import KVCache
from glmtui.errors import EngineError
from glmtui.language import _


class MarkerIds(NamedTuple):
    """Special tokens of a context: the place of the generated block, and its start."""

    gmask: int
    mask: int
    sop: int


@dataclass(frozen=True, slots=True)
class Prefix:
    """The context of each sequence of a batch, as far as masks and positions depend on it.

    Attributes:
        padding: int64 [batch], number of padding tokens before the text.
        length: int64 [batch], index of the first <sop>, which is the length of the context.
        mask_position: int64 [batch], position of the first [gMASK], or else of the first [MASK].
        padded: whether there is any padding.
        max_length: maximum of `length`, as a number on the host.
    """

    padding: Tensor
    length: Tensor
    mask_position: Tensor
    padded: bool
    max_length: int

    @classmethod
    def from_ids(cls, ids: Tensor, markers: MarkerIds, padding: Tensor | None) -> Prefix:
        """From the ids [batch, S] of whole contexts. Synchronises with the GPU once.

        Raises:
            EngineError: a sequence has no <sop>, or neither [gMASK] nor [MASK].
        """
        gmask, mask, sop = (ids == marker for marker in markers)
        length = first_true(sop)
        complete = (sop.any(1) & (gmask | mask).any(1)).all()
        max_length = int(length.max().masked_fill(~complete, -1))
        if max_length < 0:
            raise EngineError(
                _("Prompts of this model need [gMASK] and <sop>; these ids do not have both."),
                _("Make prompts with chat_format.encode."),
            )
        skip = torch.zeros_like(ids[:, 0]) if padding is None else padding.to(ids.device)
        mask_index = torch.where(gmask.any(1), first_true(gmask), first_true(mask))
        return cls(skip, length, mask_index - skip, padding is not None, max_length)

    @property
    def tensors(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.padding, self.length, self.mask_position

    def clone(self) -> Prefix:
        """A copy with its own tensors."""
        padding, length, mask_position = (tensor.clone() for tensor in self.tensors)
        return replace(self, padding=padding, length=length, mask_position=mask_position)

    def positions(self, start: int | Tensor, length: int) -> Tensor:
        """int64 [batch, length, 2]: position in the text, position in the generated block."""
        index = torch.arange(length, device=self.length.device) + start
        block = (index - self.length[:, None] + 1).clamp_min(0)
        text = (index - self.padding[:, None]).clamp_min(0)
        text = torch.where(block > 0, self.mask_position[:, None], text)
        return torch.stack((text, block), dim=-1)

    def ends_before(self, start: int) -> bool:
        """Whether all tokens from index `start` on are in the block, which is causal."""
        return not self.padded and start >= self.max_length

    def mask(self, start: int, length: int, dtype: torch.dtype) -> Tensor | None:
        """The additive attention mask: a token sees the context and all tokens before itself.

        Returns:
            [batch, 1, length, start + length] of 0 and -inf; None if every token is visible.
        """
        if length == 1 and not self.padded:
            return None
        device = self.length.device
        columns = torch.arange(start + length, device=device)
        rows = torch.arange(start, start + length, device=device)[:, None]
        padding = self.padding[:, None, None]
        visible = (columns < self.length[:, None, None]) | (columns <= rows)
        # padding sees everything: a row of -inf only would make softmax divide by zero
        visible = (visible & (columns >= padding)) | (rows < padding)
        hidden = torch.zeros(visible.shape, dtype=dtype, device=device)
        return hidden.masked_fill_(~visible, -torch.inf)[:, None]


def first_true(flags: Tensor) -> Tensor:
    """Index of the first True of each row, int64 [batch]; 0 if there is none."""
    return flags.int().argmax(1)


class PrefixLMCache(KVCache):
    """Keys and values of a prefix language model, and the `Prefix` they were computed for.

    A context is cached as a whole or not at all, because each of its tokens sees all the others.
    """

    _prefix: Prefix | None = None

    @property
    def prefix(self) -> Prefix | None:
        """The context in the cache.

        Assignment copies its values into the tensors of the cache's first context, because a
        captured CUDA graph reads them there.
        """
        return self._prefix

    @prefix.setter
    def prefix(self, prefix: Prefix) -> None:
        if self._prefix is None:
            self._prefix = prefix.clone()
        elif prefix is not self._prefix:
            for target, source in zip(self._prefix.tensors, prefix.tensors, strict=True):
                target.copy_(source)
            self._prefix = replace(self._prefix, padded=prefix.padded, max_length=prefix.max_length)

    def tensors(self) -> list[Tensor]:
        return [*super().tensors(), *(self._prefix.tensors if self._prefix else ())]

    def visible_mask(self) -> Tensor:
        """As in `KVCache`, without the padding: bool [batch, 1, 1, allocated_tokens]."""
        visible = super().visible_mask()
        if self._prefix is None:
            return visible
        columns = torch.arange(self.allocated_tokens, device=visible.device)
        return visible & (columns >= self._prefix.padding[:, None, None, None])

    def trim(self, length: int) -> None:
        whole = self._prefix is not None and length >= self._prefix.max_length
        super().trim(length if whole else 0)

    def fork(self, length: int) -> KVCache:
        twin = super().fork(length)
        assert isinstance(twin, PrefixLMCache)
        if twin._prefix is not None:  # each cache writes its next context into these
            twin._prefix = twin._prefix.clone()
        return twin
