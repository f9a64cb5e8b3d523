"""Samplers: SamplingParams to a function from logits to the next token.

The filters and their order are those of Hugging Face's ``generate``: repetition penalty,
temperature, top-k, top-p. `make_sampler` returns the token to the host. `DeviceSampler` samples
from the same distribution, but leaves the token on the device and never waits for it.
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
    """A function from logits (float32 [vocab]) and all ids so far to the id of the next token.

    The function raises:
        EngineError: the logits hold NaN or infinity.
    """
    if params.greedy:
        return lambda logits, ids: _greedy_token(_penalize(logits, ids, params))
    generator = _make_generator(params, torch.device("cpu"))

    def sample(logits: Tensor, ids: Sequence[int]) -> int:
        candidates, probabilities = distribution(logits, ids, params)
        # if the k-th greatest logit is NaN, no token is a candidate
        if not len(candidates) or not torch.isfinite(probabilities).all():
            raise non_finite_logits()
        index = torch.multinomial(probabilities.cpu(), 1, generator=generator)
        return int(candidates[int(index)])

    return sample


def _greedy_token(logits: Tensor) -> int:
    token = int(logits.argmax())
    if not bool(torch.isfinite(logits[token])):
        raise non_finite_logits()
    return token


def distribution(
    logits: Tensor, ids: Sequence[int], params: SamplingParams
) -> tuple[Tensor, Tensor]:
    """The candidates for the next token and their probabilities.

    Args:
        logits: float32 [vocab].
        ids: prompt and reply so far, for the repetition penalty.

    Returns:
        Token ids int64 [n], and probabilities float32 [n] that sum to 1.
    """
    logits = _penalize(logits, ids, params)
    if params.temperature is not None:
        logits = logits / params.temperature
    candidates = None
    if params.top_k and params.top_k < logits.shape[0]:
        kth = torch.topk(logits, params.top_k).values[-1]
        candidates = (logits >= kth).nonzero().flatten()  # keeps all ties with the k-th
        logits = logits[candidates]
    probabilities = logits.softmax(-1)
    if params.top_p is not None and params.top_p < 1:
        nucleus = _nucleus(probabilities, params.top_p)
        candidates = nucleus if candidates is None else candidates[nucleus]
        probabilities = logits[nucleus].softmax(-1)
    if candidates is None:
        candidates = torch.arange(logits.shape[0], device=logits.device)
    return candidates, probabilities


def _nucleus(probabilities: Tensor, top_p: float) -> Tensor:
    """Indices of the smallest set of most likely tokens that sums to `top_p` (arXiv:1904.09751)."""
    # Sorting the whole vocabulary is slow. All tokens below this threshold together have less than
    # 1 - top_p, so none of them belongs to the set.
    threshold = (1 - top_p) / max(probabilities.shape[0], 1)
    likely = (probabilities >= threshold).nonzero().flatten()
    ordered, order = probabilities[likely].sort(descending=True)
    sum_before = ordered.cumsum(-1) - ordered
    count = int((sum_before < top_p).sum())
    return likely[order[: max(count, 1)]]


def _penalize(logits: Tensor, ids: Sequence[int], params: SamplingParams) -> Tensor:
    """Applies the repetition penalty to tokens that occur in `ids` (arXiv:1909.05858)."""
    penalty = params.repetition_penalty
    if penalty is None or penalty == 1 or not ids:
        return logits
    seen = torch.tensor(list(set(ids)), device=logits.device)
    return logits.scatter(0, seen, _lower(logits[seen], penalty))


def _lower(logits: Tensor, penalty: float) -> Tensor:
    return torch.where(logits < 0, logits * penalty, logits / penalty)


class DeviceSampler:
    """Samples on the device of the logits. The host neither waits nor reads a value.

    Args:
        prompt: ids so far, for the repetition penalty; sampled ids are added to them.
        vocabulary: number of logits.
        device: where the logits are.
    """

    def __init__(
        self, params: SamplingParams, prompt: Sequence[int], vocabulary: int, device: torch.device
    ) -> None:
        self._params = params
        self._seen: Tensor | None = None  # bool [vocab]
        if params.repetition_penalty not in (None, 1):
            self._seen = torch.zeros(vocabulary, dtype=torch.bool, device=device)
            self._seen[torch.tensor(list(set(prompt)), device=device)] = True
        self._generator = None if params.greedy else _make_generator(params, device)

    @torch.inference_mode()
    def __call__(self, logits: Tensor) -> Tensor:
        """The next token for logits, float32 [vocab].

        Returns:
            int64 [1]; negative if the logits hold NaN or infinity (see `non_finite_logits`).
        """
        if self._params.greedy:
            scores = race = _penalize_seen(logits, self._seen, self._params)
        else:
            # Exponential race: divide by samples of Exp(1), take the maximum. Token i wins with
            # probability p(i).
            scores = dense_distribution(logits, self._seen, self._params)
            race = scores / torch.empty_like(scores).exponential_(generator=self._generator)
        token = race.argmax(0, keepdim=True)
        if self._seen is not None:
            self._seen.scatter_(0, token, True)
        return token.masked_fill(~scores.gather(0, token).isfinite(), -1)


def dense_distribution(logits: Tensor, seen: Tensor | None, params: SamplingParams) -> Tensor:
    """`distribution` over the whole vocabulary, with shapes that do not depend on values.

    Where top-p cuts between equally likely tokens, lower ids are kept; `distribution` may keep
    others. All probabilities are NaN if a logit is NaN.

    Args:
        seen: bool [vocab], tokens of prompt and reply so far; None for no repetition penalty.

    Returns:
        float32 [vocab], 0 for tokens that are filtered out.
    """
    logits = _penalize_seen(logits, seen, params)
    if params.temperature is not None:
        logits = logits / params.temperature
    if params.top_k and params.top_k < logits.shape[0]:
        kth = torch.topk(logits, params.top_k).values[-1]
        logits = logits.masked_fill(~(logits >= kth), -torch.inf)  # keeps all ties with the k-th
    probabilities = logits.softmax(-1)
    if params.top_p is not None and params.top_p < 1:
        ordered, order = probabilities.sort(descending=True, stable=True)
        count = (ordered.cumsum(-1) - ordered < params.top_p).sum().clamp_min(1)
        in_nucleus = torch.arange(len(order), device=order.device) < count
        probabilities = torch.empty_like(ordered).scatter(0, order, ordered * in_nucleus)
        probabilities = probabilities / probabilities.sum()
    return probabilities


def _penalize_seen(logits: Tensor, seen: Tensor | None, params: SamplingParams) -> Tensor:
    """As `_penalize`, with the ids as a mask, bool [vocab]."""
    if seen is None or params.repetition_penalty is None:
        return logits
    return torch.where(seen, _lower(logits, params.repetition_penalty), logits)


def _make_generator(params: SamplingParams, device: torch.device) -> torch.Generator:
    generator = torch.Generator(device)
    if params.seed is None:
        generator.seed()
    else:
        generator.manual_seed(params.seed)
    return generator


def non_finite_logits() -> EngineError:
    """The error for logits that hold NaN or infinity."""
    return EngineError(
        _("The model computed invalid numbers (NaN or infinite logits)."),
        _(
            'Load it with dtype "bfloat16" or "float32". If that does not help, its files are '
            "damaged."
        ),
    )
