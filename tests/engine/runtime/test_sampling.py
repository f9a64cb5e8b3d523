"""Sampling: filters compared with Hugging Face's ``generate``, and the distribution of samples.

The device sampler must have the same distribution, and must not wait for the host.
"""

from __future__ import annotations

import itertools
import json
from collections import Counter

import pytest
import torch
from torch import Tensor

from glmtui.chat import SamplingParams
from glmtui.engine.runtime.sampling import (
    DeviceSampler,
    dense_distribution,
    distribution,
    make_sampler,
)
from glmtui.errors import EngineError
from support.goldens import SHARED

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
        expected = torch.tensor(row["probs"])[ids]
        torch.testing.assert_close(probabilities, expected, atol=1e-5, rtol=1e-4)
        ours = dense_distribution(torch.tensor(row["logits"]), None, params)
        torch.testing.assert_close(ours[ids], expected, atol=1e-5, rtol=1e-4)
        assert ours.count_nonzero() == len(ids)


@pytest.mark.skipif(not GOLDEN.is_file(), reason="needs the shared golden numbers")
def test_repetition_penalty_agrees_with_the_original() -> None:
    for row in json.loads(GOLDEN.read_text())["repetition_penalty"]:
        params = SamplingParams(repetition_penalty=row["penalty"])
        ids, probabilities = distribution(torch.tensor(row["logits"]), row["input_ids"], params)
        expected = torch.tensor(row["out"]).softmax(-1)
        torch.testing.assert_close(probabilities, expected[ids])


def test_top_k_keeps_ties_with_the_kth() -> None:
    ids, _ = distribution(logits(1, 3, 2, 2, 0), [], SamplingParams(top_k=2))
    assert ids.tolist() == [1, 2, 3]


def test_top_p_keeps_the_fewest_that_reach_it_and_at_least_one() -> None:
    even = torch.zeros(4)
    assert len(distribution(even, [], SamplingParams(top_p=0.5))[0]) == 2
    assert len(distribution(even, [], SamplingParams(top_p=0.51))[0]) == 3
    assert len(distribution(even, [], SamplingParams(top_p=0.0))[0]) == 1


def test_without_parameters_the_distribution_is_unchanged() -> None:
    ids, probabilities = distribution(logits(0.1, 2, -1), [], SamplingParams())
    assert ids.tolist() == [0, 1, 2]
    torch.testing.assert_close(probabilities, logits(0.1, 2, -1).softmax(-1))


@pytest.mark.parametrize(
    "params", [SamplingParams(temperature=0), SamplingParams(do_sample=False, temperature=2.0)]
)
def test_greedy_takes_the_most_likely(params: SamplingParams) -> None:
    assert make_sampler(params)(logits(0, 5, 1), ()) == 1


def test_greedy_sampling_applies_the_repetition_penalty() -> None:
    sampler = make_sampler(SamplingParams(temperature=0, repetition_penalty=2.0))
    assert sampler(logits(3, 4, 1), ()) == 1
    assert sampler(logits(3, 4, 1), [1]) == 0


def test_a_seed_repeats_the_samples() -> None:
    even = torch.zeros(1000)

    def sample_on_device(seed: int) -> list[int]:
        sampler = make_sampler(SamplingParams(seed=seed))
        return [sampler(even, ()) for _ in range(8)]

    assert sample_on_device(7) == sample_on_device(7)
    assert sample_on_device(7) != sample_on_device(8)


def test_samples_follow_the_distribution() -> None:
    sampler = make_sampler(SamplingParams(seed=1, temperature=0.5))
    counts = Counter(sampler(logits(0.0, 0.5, 1.0), ()) for _ in range(4000))
    expected = (logits(0.0, 0.5, 1.0) / 0.5).softmax(-1)
    for token in range(3):
        assert counts[token] / 4000 == pytest.approx(float(expected[token]), abs=0.03)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_invalid_numbers_are_an_error(temperature: float) -> None:
    sampler = make_sampler(SamplingParams(temperature=temperature))
    with pytest.raises(EngineError, match="invalid numbers"):
        sampler(logits(0, float("nan"), 1), ())


# ---- on the device

CPU = torch.device("cpu")
SETTINGS = [
    SamplingParams(temperature=t, top_k=k, top_p=p, repetition_penalty=r)
    for t, k, p, r in itertools.product(
        (None, 0.3, 1.7), (None, 0, 1, 7, 5000), (None, 0.0, 0.4, 0.95, 1.0), (None, 1.0, 1.3)
    )
]


def sample_on_device(
    params: SamplingParams, scores: Tensor, times: int, prompt: tuple[int, ...] = ()
) -> list[int]:
    sampler = DeviceSampler(params, prompt, len(scores), CPU)
    return [int(sampler(scores)) for _ in range(times)]


def test_the_dense_distribution_is_the_distribution() -> None:
    generator = torch.Generator().manual_seed(3)
    for params, vocabulary in itertools.product(SETTINGS, (1, 5, 300, 2000)):
        scores = torch.randn(vocabulary, generator=generator) * 4
        ids = torch.randint(vocabulary, (20,), generator=generator)
        candidates, probabilities = distribution(scores, ids.tolist(), params)
        expected = torch.zeros(vocabulary).scatter(0, candidates, probabilities)
        ours = dense_distribution(
            scores, torch.zeros(vocabulary, dtype=torch.bool).scatter(0, ids, True), params
        )
        least = 1e-30  # smaller probabilities may round to zero
        assert torch.equal(ours > least, expected > least)
        torch.testing.assert_close(ours, expected, atol=1e-6, rtol=1e-5)


def test_the_dense_distribution_keeps_the_same_ties() -> None:
    probabilities = dense_distribution(logits(1, 3, 2, 2, 0), None, SamplingParams(top_k=2))
    assert probabilities.nonzero().flatten().tolist() == [1, 2, 3]
    even = dense_distribution(torch.zeros(4), None, SamplingParams(top_p=0.5))
    assert even.tolist() == [0.5, 0.5, 0, 0]


@pytest.mark.parametrize(
    "params",
    [
        SamplingParams(temperature=0, repetition_penalty=1.2),
        SamplingParams(temperature=0.8, top_k=50, top_p=0.9, repetition_penalty=1.2),
    ],
)
def test_the_device_sampler_reads_no_value(params: SamplingParams) -> None:
    """Tensors on the device "meta" have shapes but no values, so reading a value fails."""
    sampler = DeviceSampler(params, [1, 2, 2], 100, CPU)
    sampler._generator = None  # the meta device has no generator
    sampler._seen = torch.zeros(100, dtype=torch.bool, device="meta")
    assert sampler(torch.randn(100, device="meta")).shape == (1,)
    with pytest.raises((RuntimeError, NotImplementedError)):
        distribution(torch.randn(100, device="meta"), [], params)[0].tolist()


def test_samples_on_a_device_follow_the_distribution() -> None:
    params = SamplingParams(temperature=0.9, top_k=40, top_p=0.9, seed=5)
    scores = torch.randn(200, generator=torch.Generator().manual_seed(2)) * 2
    candidates, probabilities = distribution(scores, [], params)
    times = 4000
    counts = Counter(sample_on_device(params, scores, times))
    assert set(counts) <= set(candidates.tolist())
    expected = {int(c): times * float(p) for c, p in zip(candidates, probabilities, strict=True)}
    likely = {c for c, n in expected.items() if n >= 5}
    rest = sum(expected.values()) - sum(expected[c] for c in likely)
    chi = sum((counts[c] - expected[c]) ** 2 / expected[c] for c in likely)
    chi += (sum(counts.values()) - sum(counts[c] for c in likely) - rest) ** 2 / max(rest, 1)
    assert len(likely) > 10
    assert chi < len(likely) + 4 * (2 * len(likely)) ** 0.5  # four standard deviations


def test_a_seed_repeats_the_samples_on_a_device() -> None:
    even = torch.zeros(1000)
    assert sample_on_device(SamplingParams(seed=7), even, 8) == sample_on_device(
        SamplingParams(seed=7), even, 8
    )
    assert sample_on_device(SamplingParams(seed=7), even, 8) != sample_on_device(
        SamplingParams(seed=8), even, 8
    )
    assert sample_on_device(SamplingParams(), even, 8) != sample_on_device(
        SamplingParams(), even, 8
    )


def test_samples_on_a_device_get_the_repetition_penalty() -> None:
    params = SamplingParams(temperature=0, repetition_penalty=2.0)
    sampler = make_sampler(params)
    scores, ids = torch.randn(6, generator=torch.Generator().manual_seed(1)) + 1, [0, 3]
    for _ in range(8):
        ids.append(sampler(scores, ids))
    assert sample_on_device(params, scores, 8, (0, 3)) == ids[2:]
    assert len(set(ids[2:])) > 1


@pytest.mark.parametrize(
    "params",
    [
        SamplingParams(temperature=0),
        SamplingParams(),
        SamplingParams(top_k=2),
        SamplingParams(top_p=0.5),
        SamplingParams(top_k=3, top_p=0.5, temperature=0.5, repetition_penalty=1.5),
    ],
)
def test_both_samplers_detect_the_same_invalid_numbers(params: SamplingParams) -> None:
    nan, inf = float("nan"), float("inf")
    broken = 0
    for values in itertools.product((0.0, 2.0, nan, inf, -inf), repeat=4):
        scores = logits(*values)
        try:
            make_sampler(params)(scores, [1])
        except EngineError:
            broken += 1
            assert sample_on_device(params, scores, 1, (1,)) == [-1], values
        else:
            assert sample_on_device(params, scores, 1, (1,))[0] >= 0, values
    assert 0 < broken < 625
