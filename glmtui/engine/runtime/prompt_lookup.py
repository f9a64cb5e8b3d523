"""Prompt-lookup decoding: several tokens per step where the conversation repeats itself.

Where the last ids occurred before, the ids that followed are a draft of what follows now (Saxena
2023, github.com/apoorvumang/prompt-lookup-decoding). The model reads the draft together with the
next token, in one step that costs little more than a plain one and gives the logits after each id.
Every token is sampled from its logits as in plain decoding; while samples equal the draft, the
next logits are available already.

Sampling is unchanged: a sample equals the drafted id x with probability p(x), and otherwise is
distributed as p without x. That is the rejection rule of speculative sampling (arXiv:2211.17192)
for a draft with probability 1.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from statistics import median
from typing import Protocol

import torch
from torch import Tensor

from glmtui.engine.model_info import Speculation
from glmtui.engine.runtime.sampling import Sampler

MAX_DRAFT = 3  # ids per draft: with the next token 4 rows, up to which packed kernels are fast
NGRAM = 3  # ids that must have occurred before
WINDOW = 8  # steps of each kind that `SpeculationTuner` compares
PROBE_EVERY = 32  # drafts between two trials of the choice that is not in use


class StepModel(Protocol):
    """What prompt-lookup decoding needs of `LoadedModel`."""

    def step(self, ids: Sequence[int], *, last_only: bool = True) -> Tensor:
        """Reads ids; returns logits after the last, [vocab], or after each, [len(ids), vocab]."""
        ...

    def rewind(self, tokens: int) -> None:
        """Removes the last ids from the cache."""
        ...


class NgramIndex:
    """Finds the ids that followed an earlier occurrence of the last n-gram.

    Args:
        ids: the conversation so far.
    """

    def __init__(self, ids: Sequence[int]) -> None:
        self._ids: list[int] = []
        self._next_index: dict[tuple[int, ...], int] = {}  # n-gram -> index of the id after it
        self._match: int | None = None
        for token in ids:
            self.append(token)

    def append(self, token: int) -> None:
        """Adds the next id of the conversation."""
        self._ids.append(token)
        ngram = tuple(self._ids[-NGRAM:])
        self._match = self._next_index.get(ngram)
        if len(ngram) == NGRAM:
            self._next_index[ngram] = len(self._ids)

    def draft(self, count: int) -> list[int]:
        """Up to `count` ids that may come next; empty if the last n-gram is new."""
        if self._match is None:
            return []
        return self._ids[self._match : self._match + max(count, 0)]


class SpeculationTuner:
    """Decides whether drafts are faster: compares the time per token with and without them.

    Times are medians, because any single step may be delayed.
    """

    def __init__(self) -> None:
        self._plain_seconds: deque[float] = deque(maxlen=WINDOW)
        self._draft_seconds: deque[float] = deque(maxlen=WINDOW)
        self._draft_tokens: deque[int] = deque(maxlen=WINDOW)
        self._decisions = 0

    def use_draft(self) -> bool:
        """Whether to use the next draft; from time to time the slower choice is tried again."""
        self._decisions += 1
        return self._drafts_are_faster() is (self._decisions % PROBE_EVERY > 0)

    def record(self, seconds: float, tokens: int, *, drafted: bool) -> None:
        """Adds the time of a step and the number of tokens it gave."""
        if drafted:
            self._draft_seconds.append(seconds)
            self._draft_tokens.append(tokens)
        else:
            self._plain_seconds.append(seconds)

    def _drafts_are_faster(self) -> bool:
        if not self._draft_seconds or not self._plain_seconds:
            return not self._draft_seconds  # measure a draft first, then a plain step
        tokens = sum(self._draft_tokens) / len(self._draft_tokens)
        return median(self._draft_seconds) <= tokens * median(self._plain_seconds)


class PromptLookup:
    """Decodes a reply token by token, with drafts where possible.

    Args:
        prompt: ids in the cache when the first token is sampled.
        limit: maximum number of tokens of the reply.
        speculation: "auto" uses drafts while they are measured to be faster, "on" always.
    """

    def __init__(
        self,
        model: StepModel,
        prompt: Sequence[int],
        limit: int,
        speculation: Speculation,
        *,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._model = model
        self._prompt = prompt
        self._room = limit
        self._speculation = speculation
        self._clock = clock
        self._tuner = SpeculationTuner()
        self._draft: list[int] = []  # ids that the last step read after the sampled token
        self._logits: list[Tensor] = []  # after the token and after each id of the draft
        self._accepted = 0  # ids of the draft that were sampled
        self._step_seconds = 0.0

    def decode(self, logits: Tensor, sampler: Sampler) -> Iterator[int]:
        """The reply's ids, without end; an id is read when the next one is requested.

        Args:
            logits: after the prompt.
        """
        ids = list(self._prompt)
        while True:
            token = sampler(logits, ids)
            ids.append(token)
            yield token
            logits = self.step(token)

    def step(self, token: int) -> Tensor:
        """Logits after `token`, which was sampled from the logits that the last call returned."""
        if self._speculation != "off":
            self._index.append(token)
        self._room -= 1
        if self._accepted < len(self._draft) and self._draft[self._accepted] == token:
            self._accepted += 1
            return self._logits[self._accepted]
        self._drop_rejected()
        draft = self._next_draft()
        started = self._clock()
        if draft:
            self._logits = list(self._model.step([token, *draft], last_only=False))
        else:
            self._logits = [self._model.step([token])]
        if self._logits[0].is_cuda:  # kernels are launched, but have not run yet
            torch.cuda.current_stream(self._logits[0].device).synchronize()
        self._step_seconds = self._clock() - started
        self._draft, self._accepted = draft, 0
        if not draft:
            self._tuner.record(self._step_seconds, 1, drafted=False)
        return self._logits[0]

    @cached_property
    def _index(self) -> NgramIndex:
        """Built after the first token, so that it does not delay it."""
        return NgramIndex(self._prompt)

    def _drop_rejected(self) -> None:
        """Removes the rest of the draft from the cache, and records what the draft gave."""
        if self._draft:
            self._model.rewind(len(self._draft) - self._accepted)
            self._tuner.record(self._step_seconds, 1 + self._accepted, drafted=True)

    def _next_draft(self) -> list[int]:
        if self._speculation == "off":
            return []
        draft = self._index.draft(min(MAX_DRAFT, self._room))
        if draft and self._speculation == "auto" and not self._tuner.use_draft():
            return []
        return draft
