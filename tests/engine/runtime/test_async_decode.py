"""Asynchronous decoding on a CPU: replies and caches equal those of plain decoding.

On a CPU a step is done when it is launched; these tests check the order of launches and yields.
"""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from glmtui.chat import SamplingParams
from glmtui.engine.model_info import LoadedInfo, LoadOptions, Speculation
from glmtui.engine.runtime import cuda_graph
from glmtui.engine.runtime.async_decode import async_decode
from glmtui.engine.runtime.cuda_graph import CudaGraphRunner
from glmtui.engine.runtime.model_runner import LoadedModel
from glmtui.engine.runtime.sampling import DeviceSampler
from glmtui.errors import EngineError
from support.goldens import GOLDEN, load
from support.graph_recorder import Recorder
from support.graph_talks import prompt
from support.toy_decoder import STOP, VOCAB, CountingDecoder, toy_model

CPU = torch.device("cpu")
GREEDY = SamplingParams(temperature=0)


def made_async(model: LoadedModel) -> LoadedModel:
    model._decodes_async = True
    return model


def outcome(model: LoadedModel, ids: Sequence[int], params: SamplingParams, most: int) -> object:
    """A reply and the state it leaves; it is cancelled after `most` tokens."""
    tokens: list[int] = []
    stream = model.stream_ids(ids, params, cancelled=lambda: len(tokens) >= most)
    error = ""
    try:
        for token in stream.ids():
            tokens.append(token)
    except EngineError as caught:
        error = caught.message
    reply = stream.result
    committed = [list(ids) for ids in (entry.ids for entry in model._prefix_cache._entries)]
    return tokens, reply.ids, reply.finish_reason, reply.stats.reused_tokens, committed, error


PROMPTS = [[100, 101], [100, 101, 102, 103, 104], [250], [100, 101, 102, 103, 104, 105, 106], [255]]


@pytest.mark.parametrize(
    ("params", "most", "fail_at"),
    [
        pytest.param(GREEDY, 99, None, id="stop id or context"),
        pytest.param(SamplingParams(temperature=0, max_new_tokens=3), 99, None, id="limit"),
        pytest.param(SamplingParams(temperature=0, max_new_tokens=1), 99, None, id="limit of 1"),
        pytest.param(SamplingParams(temperature=0, max_length=9), 99, None, id="length"),
        pytest.param(GREEDY, 4, None, id="cancelled"),
        pytest.param(GREEDY, 0, None, id="cancelled before it began"),
        pytest.param(GREEDY, 99, 108, id="failing"),
        pytest.param(
            SamplingParams(temperature=0, max_new_tokens=3), 99, 104, id="failing in a wasted step"
        ),
        pytest.param(GREEDY, 99, STOP, id="failing behind the end"),
    ],
)
def test_replies_and_caches_equal_those_of_plain_decoding(
    params: SamplingParams, most: int, fail_at: int | None
) -> None:
    plain, model = toy_model(24), made_async(toy_model(24))
    for ids in PROMPTS:
        for each in (plain, model):
            assert isinstance(each.model, CountingDecoder)
            each.model.fail_at = fail_at
        assert outcome(model, ids, params, most) == outcome(plain, ids, params, most)


def test_the_next_prompt_overwrites_a_wasted_step() -> None:
    model = made_async(toy_model())
    list(model.stream_ids([254], GREEDY).ids())  # 255, and STOP, whose step is wasted
    again = model.stream_ids([254, 255, 7], SamplingParams(temperature=0, max_new_tokens=2))
    assert list(again.ids()) == [8, 9]
    assert again.result.stats.reused_tokens == 2
    cache = model._prefix_cache.cache
    assert cache.keys[0][0, 0, : cache.offset, 0].tolist() == [254, 255, 7, 8]


def test_an_abandoned_reply_does_not_disturb_the_next() -> None:
    model = made_async(toy_model())
    left = model.stream_ids([1, 2], GREEDY).ids()
    assert next(left) == 3
    other = model.stream_ids([1, 2, 3, 9], GREEDY).ids()
    assert [next(other), next(other)] == [10, 11]
    del left
    assert [next(other), next(other)] == [12, 13]


# ---- the loop alone


class RecordingModel:
    """Predicts the next greater id, and records all calls."""

    def __init__(self, nan_at: int | None = None) -> None:
        self.calls: list[tuple[str, int]] = []
        self.nan_at = nan_at

    def logits(self, token: int) -> Tensor:
        logits = torch.zeros(VOCAB)
        logits[token + 1] = torch.nan if token == self.nan_at else 10.0
        return logits

    def forward(self, ids: Tensor) -> Tensor:
        self.calls.append(("launched", int(ids)))
        return self.logits(int(ids))

    def commit(self, ids: Sequence[int]) -> None:
        self.calls += [("committed", token) for token in ids]

    def reply(self, room: int) -> list[int]:
        sampler = DeviceSampler(GREEDY, [5], VOCAB, CPU)
        tokens = []
        for token in async_decode(self, sampler, self.logits(5), [5], room):
            self.calls.append(("yielded", token))
            tokens.append(token)
        return tokens


def test_a_token_is_yielded_after_its_step_was_launched() -> None:
    steps = RecordingModel()
    assert steps.reply(3) == [6, 7, 8]
    assert steps.calls == [
        *[("launched", 6), ("yielded", 6), ("committed", 6)],
        *[("launched", 7), ("yielded", 7), ("committed", 7)],
        *[("yielded", 8), ("committed", 8)],  # the limit: no step after it
    ]


def test_invalid_numbers_end_a_reply_and_are_never_fed() -> None:
    steps = RecordingModel(nan_at=7)
    with pytest.raises(EngineError, match="invalid numbers"):
        steps.reply(9)
    assert [token for what, token in steps.calls if what == "yielded"] == [6, 7]
    assert [token for what, token in steps.calls if what == "launched"] == [6, 7, 5]


# ---- with real models, and graphs


@pytest.fixture(scope="module", params=["v2_32k_tiny", "glm4_tiny", "v1_twin_orig"])
def model(request: pytest.FixtureRequest) -> LoadedModel:
    loaded: LoadedModel = load(GOLDEN / request.param)
    loaded.stop_ids = frozenset()
    return loaded


def replies(model: LoadedModel, params: SamplingParams) -> list[object]:
    model.clear_cache()
    return [outcome(model, prompt(model, n), params, 11) for n in (9, 14, 9, 20, 14)]


@pytest.mark.parametrize("graphs", [False, True])
def test_greedy_replies_are_the_same_in_alternating_conversations(
    model: LoadedModel, graphs: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cuda_graph, "WARMUP_STEPS", 2)
    monkeypatch.setattr("glmtui.engine.runtime.prefix_cache.MIN_BRANCH", 4)
    params = SamplingParams(temperature=0, max_new_tokens=10, repetition_penalty=1.1)
    expected = replies(model, params)
    recorder = Recorder()
    if graphs:
        monkeypatch.setattr(model, "_cuda_graph", CudaGraphRunner(model.model, recorder))
    monkeypatch.setattr(model, "_decodes_async", True)
    assert replies(model, params) == expected
    assert (recorder.replays > 10) is graphs


def test_a_seed_repeats_a_reply(model: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model, "_decodes_async", True)

    def reply(seed: int) -> list[object]:
        params = SamplingParams(temperature=1.5, top_k=20, top_p=0.9, seed=seed, max_new_tokens=8)
        return replies(model, params)

    assert reply(1) == reply(1)
    assert reply(1) != reply(2)


@pytest.mark.parametrize(
    ("speculation", "overlaps"), [("auto", True), ("off", True), ("on", False)]
)
def test_a_gpu_speculates_only_if_options_demand_it(
    speculation: Speculation, overlaps: bool
) -> None:
    info = LoadedInfo(name="toy", device="cuda", context_length=8)
    gpu = torch.device("cuda")

    def load_on(device: torch.device) -> LoadedModel:
        options = LoadOptions(speculation=speculation, cache_gb=1)
        return LoadedModel(
            CountingDecoder(),
            None,
            None,
            frozenset(),
            info,
            dtype=torch.half,
            device=device,
            options=options,
        )

    assert load_on(gpu)._decodes_async is overlaps
    assert load_on(CPU)._decodes_async is False
