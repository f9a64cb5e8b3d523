"""Sampling: the filters against the numbers of Hugging Face's ``generate``, and the draw itself."""

from __future__ import annotations

import json
from collections import Counter

import pytest
import torch
from goldens import SHARED
from torch import Tensor

from glmtui.chat import SamplingParams
from glmtui.engine.sampling import distribution, make_sampler
from glmtui.errors import EngineError

GOLDEN = SHARED / "fixtures" / "misc" / "sampling.json"


def logits(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float32)


@pytest.mark.skipif(not GOLDEN.is_file(), reason="needs the shared golden numbers")
def test_filters_agree_with_the_original() -> None:
    golden = json.loads(GOLDEN.read_text())
    for row in golden["warpers"]:
        params = SamplingParams(
            temperature=row["temperature"], top_k=row["top_k"], top_p=row["top_p"]
        )
        ids, probabilities = distribution(torch.tensor(row["logits"]), [], params)
        order = ids.argsort()
        assert ids[order].tolist() == sorted(row["kept_ids"])
        wanted = torch.tensor(row["probs"])[ids]
        torch.testing.assert_close(probabilities, wanted, atol=1e-5, rtol=1e-4)


@pytest.mark.skipif(not GOLDEN.is_file(), reason="needs the shared golden numbers")
def test_repetition_penalty_agrees_with_the_original() -> None:
    for row in json.loads(GOLDEN.read_text())["repetition_penalty"]:
        params = SamplingParams(repetition_penalty=row["penalty"])
        ids, probabilities = distribution(torch.tensor(row["logits"]), row["input_ids"], params)
        wanted = torch.tensor(row["out"]).softmax(-1)
        torch.testing.assert_close(probabilities, wanted[ids])


def test_top_k_keeps_ties_with_the_last_one() -> None:
    ids, _ = distribution(logits(1, 3, 2, 2, 0), [], SamplingParams(top_k=2))
    assert ids.tolist() == [1, 2, 3]


def test_top_p_keeps_the_fewest_that_reach_it_and_at_least_one() -> None:
    even = torch.zeros(4)
    assert len(distribution(even, [], SamplingParams(top_p=0.5))[0]) == 2
    assert len(distribution(even, [], SamplingParams(top_p=0.51))[0]) == 3
    assert len(distribution(even, [], SamplingParams(top_p=0.0))[0]) == 1


def test_no_parameters_leave_the_distribution_as_it_is() -> None:
    ids, probabilities = distribution(logits(0.1, 2, -1), [], SamplingParams())
    assert ids.tolist() == [0, 1, 2]
    torch.testing.assert_close(probabilities, logits(0.1, 2, -1).softmax(-1))


@pytest.mark.parametrize(
    "params", [SamplingParams(temperature=0), SamplingParams(do_sample=False, temperature=2.0)]
)
def test_greedy_takes_the_most_likely(params: SamplingParams) -> None:
    assert make_sampler(params)(logits(0, 5, 1), ()) == 1


def test_greedy_feels_the_repetition_penalty() -> None:
    sampler = make_sampler(SamplingParams(temperature=0, repetition_penalty=2.0))
    assert sampler(logits(3, 4, 1), ()) == 1
    assert sampler(logits(3, 4, 1), [1]) == 0


def test_a_seed_repeats_the_draw() -> None:
    even = torch.zeros(1000)

    def drawn(seed: int) -> list[int]:
        sampler = make_sampler(SamplingParams(seed=seed))
        return [sampler(even, ()) for _ in range(8)]

    assert drawn(7) == drawn(7)
    assert drawn(7) != drawn(8)


def test_draws_follow_the_distribution() -> None:
    sampler = make_sampler(SamplingParams(seed=1, temperature=0.5))
    counts = Counter(sampler(logits(0.0, 0.5, 1.0), ()) for _ in range(4000))
    wanted = (logits(0.0, 0.5, 1.0) / 0.5).softmax(-1)
    for token in range(3):
        assert counts[token] / 4000 == pytest.approx(float(wanted[token]), abs=0.03)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_broken_numbers_are_an_error(temperature: float) -> None:
    sampler = make_sampler(SamplingParams(temperature=temperature))
    with pytest.raises(EngineError, match="broke down"):
        sampler(logits(0, float("nan"), 1), ())
