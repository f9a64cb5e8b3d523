"""make_sampler: SamplingParams to a function from logits to the next token.

A sampler is a chain of filters in the order of Hugging Face's ``generate``: repetition penalty,
temperature, top-k, top-p; then one draw. Knows nothing of models or text.
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
    generator = torch.Generator()
    if params.seed is None:
        generator.seed()
    else:
        generator.manual_seed(params.seed)

    def sample(logits: Tensor, ids: Sequence[int]) -> int:
        candidates, probabilities = distribution(logits, ids, params)
        # not even the most likely is among the first k where that is NaN
        if not len(candidates) or not torch.isfinite(probabilities).all():
            raise _broken()
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
    scores = logits[seen]
    return logits.scatter(0, seen, torch.where(scores < 0, scores * penalty, scores / penalty))


def _checked(token: int, logits: Tensor) -> int:
    if not bool(torch.isfinite(logits[token])):
        raise _broken()
    return token


def _broken() -> EngineError:
    return EngineError(
        _("The model's numbers broke down (NaN or infinite logits)."),
        _(
            'Load it with dtype "bfloat16" or "float32"; if that does not help, its files are '
            "damaged."
        ),
    )
