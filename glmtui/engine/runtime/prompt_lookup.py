"""Prompt-lookup speculation: several decode steps in one, where the conversation repeats itself.

What followed the last few ids where they stood before is a guess at what follows now (Saxena 2023,
github.com/apoorvumang/prompt-lookup-decoding). The model reads the guess behind the token that is
due, in one step that costs little more than a plain one, and so gives the logits after each. Every
token is then drawn from its logits as ever; while the draws agree with the guess, the next logits
are there already. A draw x agrees with probability p(x) and is distributed like p without x where
it does not, so this is the rejection rule of speculative sampling (arXiv:2211.17192) for a guess
that is certain, and greedy replies stay what they are. Knows ids, logits and clocks, no model.
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

GUESSES = 3  # tokens at once: with the one that is due as many as packed kernels are fast for
NGRAM = 3  # ids that have to have stood there before
MEMORY = 8  # steps of each kind that `SpeculationGate` goes by
PROBE_EVERY = 32  # guesses between two looks at the choice that is not in use


class Stepper(Protocol):
    """What reads ids: `generate.LoadedModel`."""

    def step(self, ids: Sequence[int], *, last_only: bool = True) -> Tensor:
        """Feeds ids; returns logits after the last, [vocab], or after each, [len(ids), vocab]."""
        ...

    def rewind(self, tokens: int) -> None:
        """Makes the cache forget the last ids."""
        ...


class NgramIndex:
    """Finds what followed the last ids where they stood before.

    Args:
        ids: of the conversation so far.
    """

    def __init__(self, ids: Sequence[int]) -> None:
        self._ids: list[int] = []
        self._after: dict[tuple[int, ...], int] = {}  # n-gram -> where what followed it begins
        self._found: int | None = None
        for token in ids:
            self.append(token)

    def append(self, token: int) -> None:
        """Adds the id that comes next."""
        self._ids.append(token)
        ngram = tuple(self._ids[-NGRAM:])
        self._found = self._after.get(ngram)
        if len(ngram) == NGRAM:
            self._after[ngram] = len(self._ids)

    def guess(self, most: int) -> list[int]:
        """Up to `most` ids that may come next; none where the last ids are new."""
        if self._found is None:
            return []
        return self._ids[self._found : self._found + max(most, 0)]


class SpeculationGate:
    """Whether guessing pays: seconds per token of steps with guesses against plain ones.

    Of the seconds the medians count, since anything may hold up a single step.
    """

    def __init__(self) -> None:
        self._plain: deque[float] = deque(maxlen=MEMORY)
        self._guessing: deque[float] = deque(maxlen=MEMORY)
        self._gains: deque[int] = deque(maxlen=MEMORY)
        self._asked = 0

    def guess_now(self) -> bool:
        """Whether to use a guess that there is; now and then the other choice has a look."""
        self._asked += 1
        return self._pays() is (self._asked % PROBE_EVERY > 0)

    def learn(self, seconds: float, tokens: int, *, guessed: bool) -> None:
        """What a step took, and the tokens it gave."""
        if guessed:
            self._guessing.append(seconds)
            self._gains.append(tokens)
        else:
            self._plain.append(seconds)

    def _pays(self) -> bool:
        if not self._guessing or not self._plain:
            return not self._guessing  # first one, then the other
        gain = sum(self._gains) / len(self._gains)
        return median(self._guessing) <= gain * median(self._plain)


class PromptLookup:
    """Decodes token by token as the reply's loop asks, and reads further where it can guess.

    Args:
        prompt: ids the cache holds when the first token is drawn.
        room: tokens that may still follow.
        speculation: "auto" guesses while that is measured faster, "on" whenever it can.
    """

    def __init__(
        self,
        stepper: Stepper,
        prompt: Sequence[int],
        room: int,
        speculation: Speculation,
        *,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._stepper = stepper
        self._prompt = prompt
        self._room = room
        self._speculation = speculation
        self._clock = clock
        self._worth = SpeculationGate()
        self._guessed: list[int] = []  # what was read behind the last token
        self._logits: list[Tensor] = []  # after each of them
        self._agreed = 0
        self._took = 0.0

    def draw(self, logits: Tensor, sampler: Sampler) -> Iterator[int]:
        """The reply's ids, without end; each is fed when the next is asked for.

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
        """Logits after `token`, which was drawn from what the last call returned."""
        if self._speculation != "off":
            self._lookup.append(token)
        self._room -= 1
        if self._agreed < len(self._guessed) and self._guessed[self._agreed] == token:
            self._agreed += 1
            return self._logits[self._agreed]
        self._settle()
        guess = self._guess()
        started = self._clock()
        if guess:
            self._logits = list(self._stepper.step([token, *guess], last_only=False))
        else:
            self._logits = [self._stepper.step([token])]
        if self._logits[0].is_cuda:  # the launches are over, the work is not
            torch.cuda.current_stream(self._logits[0].device).synchronize()
        self._took = self._clock() - started
        self._guessed, self._agreed = guess, 0
        if not guess:
            self._worth.learn(self._took, 1, guessed=False)
        return self._logits[0]

    @cached_property
    def _lookup(self) -> NgramIndex:
        """Made once the first token is out, which does not wait for it."""
        return NgramIndex(self._prompt)

    def _settle(self) -> None:
        """Forgets what was read in vain, and learns from it."""
        if self._guessed:
            self._stepper.rewind(len(self._guessed) - self._agreed)
            self._worth.learn(self._took, 1 + self._agreed, guessed=True)

    def _guess(self) -> list[int]:
        if self._speculation == "off":
            return []
        guess = self._lookup.guess(min(GUESSES, self._room))
        if guess and self._speculation == "auto" and not self._worth.guess_now():
            return []
        return guess
