"""Prompt-lookup decoding: drafts, unchanged replies, and when drafts are not used."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from glmtui.chat import SamplingParams
from glmtui.engine import LoadOptions, load_model
from glmtui.engine.model_info import Speculation
from glmtui.engine.nn.layers import FEW_QUERIES
from glmtui.engine.nn.linear import GEMV_ROWS
from glmtui.engine.runtime import prompt_lookup
from glmtui.engine.runtime.model_runner import LoadedModel
from glmtui.engine.runtime.prompt_lookup import (
    MAX_DRAFT,
    NgramIndex,
    PromptLookup,
    SpeculationTuner,
)
from glmtui.engine.runtime.sampling import make_sampler
from support.goldens import GOLDEN, load

GREEDY = SamplingParams(temperature=0, max_new_tokens=16)


# ---- drafts


def test_a_draft_is_what_followed_the_last_ids_before() -> None:
    lookup = NgramIndex([1, 2, 3, 4, 5, 9, 1, 2, 3])
    assert lookup.draft(3) == [4, 5, 9]
    assert lookup.draft(1) == [4]
    assert lookup.draft(0) == []
    lookup.append(7)
    assert lookup.draft(3) == []


def test_the_latest_occurrence_counts_except_the_end_itself() -> None:
    assert NgramIndex([1, 2, 3, 4, 1, 2, 3, 5, 1, 2, 3]).draft(1) == [5]
    assert NgramIndex([1, 2, 3]).draft(1) == []
    assert NgramIndex([7, 7, 7, 7]).draft(3) == [7]
    assert NgramIndex([1, 2]).draft(1) == []


# ---- replies


class Chain:
    """A `StepModel` of a Markov chain: the logits after an id are a row of a matrix."""

    def __init__(self, ids: Sequence[int], rows: Tensor) -> None:
        self.read = list(ids)
        self.rows = rows
        self.steps = 0

    def step(self, ids: Sequence[int], *, last_only: bool = True) -> Tensor:
        self.steps += 1
        self.read += ids
        logits = self.rows[list(ids)]
        return logits[-1] if last_only else logits

    def rewind(self, tokens: int) -> None:
        del self.read[len(self.read) - tokens :]


def reply(chain: Chain, params: SamplingParams, length: int, speculation: Speculation) -> list[int]:
    sampler = make_sampler(params)
    prompt, ids = list(chain.read), list[int]()
    lookup = PromptLookup(chain, prompt, length, speculation)
    logits = chain.rows[prompt[-1]]
    while True:
        ids.append(sampler(logits, prompt + ids))
        if len(ids) == length:
            break
        logits = lookup.step(ids[-1])
        # the cache holds the reply so far, and at most a draft after it
        assert chain.read[: len(prompt) + len(ids)] == prompt + ids
        assert len(chain.read) <= len(prompt) + length
    return ids


@pytest.mark.parametrize(
    "params",
    [
        {"temperature": 1.0},
        {"temperature": 0.6, "top_k": 3},
        {"top_p": 0.8},
        {"temperature": 0.9, "repetition_penalty": 1.3},
        {"temperature": 0.0, "repetition_penalty": 1.5},
    ],
)
def test_every_sample_is_the_same_with_drafts_and_without(params: dict[str, float]) -> None:
    """Compared seed by seed, so that no distribution has to be estimated."""
    rows = torch.randn(5, 5, generator=torch.Generator().manual_seed(4)) * 2
    prompt = [0, 1, 2, 3, 4, 0, 1, 2, 3, 1, 2]
    steps = {"on": 0, "off": 0}
    for seed in range(15):
        replies = []
        for speculation in ("on", "off"):
            chain = Chain(prompt, rows)
            sampling = SamplingParams(seed=seed, **params)
            replies.append(reply(chain, sampling, 30, speculation))
            steps[speculation] += chain.steps
        assert replies[0] == replies[1]
    assert steps["on"] < 0.9 * steps["off"]  # some drafts were accepted


@pytest.fixture(scope="module", params=["v2_32k_tiny", "glm4_tiny", "v1_twin_orig"])
def model(request: pytest.FixtureRequest) -> LoadedModel:
    loaded: LoadedModel = load(GOLDEN / request.param)
    loaded.stop_ids = frozenset()
    return loaded


def prompts(model: LoadedModel) -> list[list[int]]:
    """Ten prompts, each with some ids that occur twice."""
    config = model.model.config
    marks = getattr(config, "marks", None)
    end = (marks.gmask, marks.sop) if marks else ()
    first = getattr(config, "cut", 0)
    drawn = torch.randint(
        first, first + 60, (10, 12), generator=torch.Generator().manual_seed(1)
    ).tolist()
    return [[*ids, *ids[:6], *end] for ids in drawn]


def test_greedy_replies_are_the_same_with_drafts_and_without(
    model: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prompt_lookup, "NGRAM", 1)  # so that almost every step has a draft
    model._speculation = "off"
    plain = [list(model.stream_ids(p, GREEDY).ids()) for p in prompts(model)]
    model._speculation = "on"
    drafted = 0
    step = model.step

    def counted(ids: Sequence[int], *, last_only: bool = True) -> Tensor:
        nonlocal drafted
        drafted += not last_only
        return step(ids, last_only=last_only)

    monkeypatch.setattr(model, "step", counted)
    assert [list(model.stream_ids(p, GREEDY).ids()) for p in prompts(model)] == plain
    assert drafted > 10


def test_the_next_prompt_reuses_what_a_reply_left_in_the_cache(model: LoadedModel) -> None:
    model._speculation = "on"
    prompt = prompts(model)[0]
    reply_ids = list(model.stream_ids(prompt, GREEDY).ids())
    longer = [*prompt, *reply_ids[:9]]
    going_on = model.stream_ids(longer, GREEDY)
    ids = list(going_on.ids())
    assert going_on.result.stats.reused_tokens >= len(longer) - 1
    model.clear_cache()
    assert list(model.stream_ids(longer, GREEDY).ids()) == ids


def test_drafts_stay_within_the_context() -> None:
    """The cache raises AssertionError when more is written to it than there is room for."""
    options = LoadOptions("cpu", "float32", None, context_length=64, speculation="on")
    model = load_model(str(GOLDEN / "v2_32k_tiny"), options)
    model.stop_ids = frozenset()
    prompt = prompts(model)[0]
    ids = list(model.stream_ids(prompt, SamplingParams(temperature=0)).ids())
    assert len(prompt) + len(ids) == 64


# ---- whether drafts are faster


class TimedChain(Chain):
    """A step takes 1 second, and `more` seconds for every id after the first."""

    def __init__(self, ids: Sequence[int], rows: Tensor, more: float) -> None:
        super().__init__(ids, rows)
        self.now = 0.0
        self.more = more
        self.drafted = 0

    def step(self, ids: Sequence[int], *, last_only: bool = True) -> Tensor:
        self.now += 1 + self.more * (len(ids) - 1)
        self.drafted += len(ids) > 1
        return super().step(ids, last_only=last_only)


def run_timed(more: float) -> TimedChain:
    """200 tokens of a chain in which drafts are always right."""
    chain = TimedChain([0, 1, 2, 3, 0, 1, 2], torch.eye(4).roll(1, dims=1), more)
    lookup = PromptLookup(chain, chain.read, 200, "auto", clock=lambda: chain.now)
    token = 3
    for _ in range(199):
        token = int(lookup.step(token).argmax())
    return chain


def test_right_drafts_are_used() -> None:
    chain = run_timed(0.1)
    assert chain.steps < 199 / 3
    assert chain.now < 199 / 2


def test_drafts_that_cost_more_than_they_give_are_not_used() -> None:
    chain = run_timed(2.0)  # 4 tokens in 7 seconds
    assert chain.drafted < 20
    assert chain.now < 1.25 * 199


def test_one_slow_step_decides_nothing() -> None:
    tuner = SpeculationTuner()
    for _ in range(5):
        tuner.record(1.0, 1, drafted=False)
        tuner.record(1.2, 3, drafted=True)
    tuner.record(50.0, 3, drafted=True)
    assert tuner.use_draft()
    tuner.record(1.2, 1, drafted=True)
    assert tuner.use_draft()


def test_the_other_choice_is_tried_from_time_to_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prompt_lookup, "PROBE_EVERY", 4)
    tuner = SpeculationTuner()
    tuner.record(1.0, 1, drafted=False)
    tuner.record(1.2, 1, drafted=True)
    assert [tuner.use_draft() for _ in range(8)] == [False] * 3 + [True] + [False] * 3 + [True]


def test_a_draft_is_no_longer_than_kernels_for_few_rows_support() -> None:
    assert min(GEMV_ROWS, FEW_QUERIES) > MAX_DRAFT
