"""Samplers: SamplingParams to a function from logits to the next token.

A sampler is a chain of filters in the order of Hugging Face's ``generate``: repetition penalty,
temperature, top-k, top-p; then one draw. `make_sampler` tells the token at once; `DeviceSampler`
leaves it on the device, as an accelerator that should not wait wants it. Both draw from the same
distribution. Knows nothing of models or text.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from glmtui.chat import SamplingParams
from glmtui.errors import EngineError
from glmtui.language import _

Sampler: TypeAlias = Callable[[Tensor, Sequence[int]], int]


def make_sampler(params: SamplingParams) -> Sampler:
    """A function from logits (float32 [vocab]) and the ids so far to the id of the next token.

    Raises, when called:
        EngineError: the logits hold NaN, so the model's numbers have broken down.
    """
    if params.greedy:
        return lambda logits, ids: _checked(int(_penalized(logits, ids, params).argmax()), logits)
    generator = _generator(params, torch.device("cpu"))

    def sample(logits: Tensor, ids: Sequence[int]) -> int:
        candidates, probabilities = distribution(logits, ids, params)
        # not even the most likely is among the first k where that is NaN
        if not len(candidates) or not torch.isfinite(probabilities).all():
            raise broken_numbers()
        drawn = torch.multinomial(probabilities.cpu(), 1, generator=generator)
        return int(candidates[int(drawn)])

    return sample


def distribution(
    logits: Tensor, ids: Sequence[int], params: SamplingParams
) -> tuple[Tensor, Tensor]:
    """The tokens that may come next and how likely each is.

    Args:
        logits: float32 [vocab].
        ids: prompt and reply so far, for the repetition penalty.

    Returns:
        Token ids int64 [n] and their probabilities float32 [n], which sum to 1.
    """
    logits = _penalized(logits, ids, params)
    if params.temperature is not None:
        logits = logits / params.temperature
    candidates = None
    if params.top_k and params.top_k < logits.shape[0]:
        least = torch.topk(logits, params.top_k).values[-1]
        candidates = (logits >= least).nonzero().flatten()  # ties with the last one stay
        logits = logits[candidates]
    probabilities = logits.softmax(-1)
    if params.top_p is not None and params.top_p < 1:
        kept = _nucleus(probabilities, params.top_p)
        candidates = kept if candidates is None else candidates[kept]
        probabilities = logits[kept].softmax(-1)
    if candidates is None:
        candidates = torch.arange(logits.shape[0], device=logits.device)
    return candidates, probabilities


def _nucleus(probabilities: Tensor, top_p: float) -> Tensor:
    """Indices of the fewest, most likely tokens that reach `top_p` together (arXiv:1904.09751)."""
    # all that are less likely than this make up less than what is left out, so need no sorting
    least = (1 - top_p) / max(probabilities.shape[0], 1)
    likely = (probabilities >= least).nonzero().flatten()
    ordered, order = probabilities[likely].sort(descending=True)
    before = ordered.cumsum(-1) - ordered
    count = int((before < top_p).sum())
    return likely[order[: max(count, 1)]]


def _penalized(logits: Tensor, ids: Sequence[int], params: SamplingParams) -> Tensor:
    """Logits of tokens already there divided (or, below zero, multiplied) by the penalty."""
    penalty = params.repetition_penalty
    if penalty is None or penalty == 1 or not ids:
        return logits
    seen = torch.tensor(list(set(ids)), device=logits.device)
    return logits.scatter(0, seen, _weakened(logits[seen], penalty))


def _weakened(scores: Tensor, penalty: float) -> Tensor:
    return torch.where(scores < 0, scores * penalty, scores / penalty)


def _checked(token: int, logits: Tensor) -> int:
    if not bool(torch.isfinite(logits[token])):
        raise broken_numbers()
    return token


class DeviceSampler:
    """Draws where the logits are and waits for nothing: no shape, no branch goes by a number there.

    Args:
        prompt: ids so far, for the repetition penalty; what is drawn is added to them.
        vocabulary: how many logits there are.
        device: where they are.
    """

    def __init__(
        self, params: SamplingParams, prompt: Sequence[int], vocabulary: int, device: torch.device
    ) -> None:
        self._params = params
        self._seen: Tensor | None = None  # bool [vocab]
        if params.repetition_penalty not in (None, 1):
            self._seen = torch.zeros(vocabulary, dtype=torch.bool, device=device)
            self._seen[torch.tensor(list(set(prompt)), device=device)] = True
        self._generator = None if params.greedy else _generator(params, device)

    @torch.inference_mode()
    def __call__(self, logits: Tensor) -> Tensor:
        """The next token by logits, float32 [vocab].

        Returns:
            int64 [1]; negative where `make_sampler`'s would raise `broken_numbers`.
        """
        if self._params.greedy:
            scores = raced = _penalized_where(self._seen, logits, self._params)
        else:
            # of exponential clocks at the rates p, the first to ring is i with probability p(i)
            scores = shares(logits, self._seen, self._params)
            raced = scores / torch.empty_like(scores).exponential_(generator=self._generator)
        drawn = raced.argmax(0, keepdim=True)
        if self._seen is not None:
            self._seen.scatter_(0, drawn, True)
        return drawn.masked_fill(~scores.gather(0, drawn).isfinite(), -1)


def shares(logits: Tensor, seen: Tensor | None, params: SamplingParams) -> Tensor:
    """`distribution` in shapes that go by no number: how likely each token is, float32 [vocab].

    Where top-p ends among tokens that are equally likely, those of lower ids stay; which of them
    `distribution` keeps is left to the sorting. All are NaN if the logits hold no numbers.

    Args:
        seen: bool [vocab], prompt and reply so far; None for no penalty.
    """
    logits = _penalized_where(seen, logits, params)
    if params.temperature is not None:
        logits = logits / params.temperature
    if params.top_k and params.top_k < logits.shape[0]:
        least = torch.topk(logits, params.top_k).values[-1]
        logits = logits.masked_fill(~(logits >= least), -torch.inf)  # ties with the last one stay
    probabilities = logits.softmax(-1)
    if params.top_p is not None and params.top_p < 1:
        ordered, order = probabilities.sort(descending=True, stable=True)
        count = (ordered.cumsum(-1) - ordered < params.top_p).sum().clamp_min(1)
        kept = torch.arange(len(order), device=order.device) < count
        probabilities = torch.empty_like(ordered).scatter(0, order, ordered * kept)
        probabilities = probabilities / probabilities.sum()
    return probabilities


def _penalized_where(seen: Tensor | None, logits: Tensor, params: SamplingParams) -> Tensor:
    """`_penalized` with the ids as a mask, bool [vocab]."""
    if seen is None or params.repetition_penalty is None:
        return logits
    return torch.where(seen, _weakened(logits, params.repetition_penalty), logits)


def _generator(params: SamplingParams, device: torch.device) -> torch.Generator:
    generator = torch.Generator(device)
    if params.seed is None:
        generator.seed()
    else:
        generator.manual_seed(params.seed)
    return generator


def broken_numbers() -> EngineError:
    """The error for logits that hold NaN or infinity."""
    return EngineError(
        _("The model's numbers broke down (NaN or infinite logits)."),
        _(
            'Load it with dtype "bfloat16" or "float32"; if that does not help, its files are '
            "damaged."
        ),
    )
