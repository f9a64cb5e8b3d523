"""Prefix language models (GLM, arXiv:2103.10360): masks, positions and cache of such a context.

The text before <sop> is read in both directions, what follows from left to right. Positions have
two rows: the place in the text, and the place in the generated block. Knows no weights.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from glmtui.engine.nn.kv_cache import KVCache
from glmtui.errors import EngineError
from glmtui.language import _


class Marks(NamedTuple):
    """Ids that shape a context: where the generated block belongs, and where it begins."""

    gmask: int
    mask: int
    sop: int


@dataclass(frozen=True, slots=True)
class Prefix:
    """Where the context of each sequence ends: all that its masks and positions depend on.

    Attributes:
        padding: int64 [batch], padding tokens before the text.
        context: int64 [batch], index of the first <sop>.
        masked: int64 [batch], position of the first [gMASK], or [MASK] where there is none.
        padded: whether there is any padding.
        end: the last of `context`, known on the host.
    """

    padding: Tensor
    context: Tensor
    masked: Tensor
    padded: bool
    end: int

    @classmethod
    def of(cls, ids: Tensor, marks: Marks, padding: Tensor | None) -> Prefix:
        """From the ids [batch, S] of whole contexts. Raises EngineError without <sop> or a mask.

        On a GPU the host waits here once, for `end`.
        """
        gmask, mask, sop = (ids == mark for mark in marks)
        context = first_true(sop)
        complete = (sop.any(1) & (gmask | mask).any(1)).all()
        end = int(context.max().masked_fill(~complete, -1))
        if end < 0:
            raise EngineError(
                _("Prompts of this model end in [gMASK] and <sop>; these ids do not have both."),
                _("Make prompts with chat_format.encode."),
            )
        skip = torch.zeros_like(ids[:, 0]) if padding is None else padding.to(ids.device)
        masked = torch.where(gmask.any(1), first_true(gmask), first_true(mask)) - skip
        return cls(skip, context, masked, padding is not None, end)

    @property
    def tensors(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.padding, self.context, self.masked

    def clone(self) -> Prefix:
        """The same in tensors of its own."""
        padding, context, masked = (tensor.clone() for tensor in self.tensors)
        return replace(self, padding=padding, context=context, masked=masked)

    def positions(self, start: int | Tensor, length: int) -> Tensor:
        """int64 [batch, length, 2]: place in the text, place in the generated block."""
        at = torch.arange(length, device=self.context.device) + start
        block = (at - self.context[:, None] + 1).clamp_min(0)
        text = (at - self.padding[:, None]).clamp_min(0)
        return torch.stack((torch.where(block > 0, self.masked[:, None], text), block), dim=-1)

    def ends_before(self, start: int) -> bool:
        """Whether all that stands from `start` on is in the block, which is causal."""
        return not self.padded and start >= self.end

    def mask(self, start: int, length: int, dtype: torch.dtype) -> Tensor | None:
        """What to add to the scores so that a token sees the context and what is before itself.

        Returns:
            [batch, 1, length, start + length] of 0 and -inf; None where everything is seen.
        """
        if length == 1 and not self.padded:
            return None
        device = self.context.device
        columns = torch.arange(start + length, device=device)
        rows = torch.arange(start, start + length, device=device)[:, None]
        padding = self.padding[:, None, None]
        visible = (columns < self.context[:, None, None]) | (columns <= rows)
        # padding looks everywhere: looking nowhere would be a division by zero
        visible = (visible & (columns >= padding)) | (rows < padding)
        hidden = torch.zeros(visible.shape, dtype=dtype, device=device)
        return hidden.masked_fill_(~visible, -torch.inf)[:, None]


def first_true(flags: Tensor) -> Tensor:
    """Index of the first True of each row: int64 [batch]; 0 where there is none."""
    return flags.int().argmax(1)


class PrefixLMCache(KVCache):
    """Keys and values of a prefix language model, with the `Prefix` they were computed for.

    A context is cached whole or not at all: each of its tokens has seen all the others.
    """

    _prefix: Prefix | None = None

    @property
    def prefix(self) -> Prefix | None:
        """The context in the cache.

        Setting it copies its numbers into tensors that the cache keeps from its first context on:
        a captured step goes on reading them there.
        """
        return self._prefix

    @prefix.setter
    def prefix(self, prefix: Prefix) -> None:
        if self._prefix is None:
            self._prefix = prefix.clone()
        elif prefix is not self._prefix:
            for kept, new in zip(self._prefix.tensors, prefix.tensors, strict=True):
                kept.copy_(new)
            self._prefix = replace(self._prefix, padded=prefix.padded, end=prefix.end)

    def tensors(self) -> list[Tensor]:
        return [*super().tensors(), *(self._prefix.tensors if self._prefix else ())]

    def visible_mask(self) -> Tensor:
        """As of every cache, without the padding: bool [batch, 1, 1, room]."""
        seen = super().visible_mask()
        if self._prefix is None:
            return seen
        columns = torch.arange(self.allocated_tokens, device=seen.device)
        return seen & (columns >= self._prefix.padding[:, None, None, None])

    def trim(self, length: int) -> None:
        whole = self._prefix is not None and length >= self._prefix.end
        super().trim(length if whole else 0)

    def fork(self, length: int) -> KVCache:
        twin = super().fork(length)
        assert isinstance(twin, PrefixLMCache)
        if twin._prefix is not None:  # each cache writes its next context into its own
            twin._prefix = twin._prefix.clone()
        return twin
