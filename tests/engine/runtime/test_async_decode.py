"""Overlapped decoding as far as a CPU can show it: replies and caches are those of the plain loop.

On a CPU a step is over when it was launched; what counts is the order of launching and telling.
"""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from glmtui.chat import SamplingParams
from glmtui.engine.api import LoadedInfo, LoadOptions, Speculation
from glmtui.engine.runtime import cuda_graph
from glmtui.engine.runtime.async_decode import async_decode
from glmtui.engine.runtime.cuda_graph import GraphedSteps
from glmtui.engine.runtime.model_runner import LoadedModel
from glmtui.engine.runtime.sampling import DeviceSampler
from glmtui.errors import EngineError
from support.goldens import GOLDEN_MODELS, load_float32
from support.graph_recorder import Recorder
from support.graph_talks import prompt
from support.toy_decoder import STOP, VOCAB, Counter, toy

CPU = torch.device("cpu")
GREEDY = SamplingParams(temperature=0)


def overlapping(model: LoadedModel) -> LoadedModel:
    model._overlaps = True
    return model


def spoken(model: LoadedModel, ids: Sequence[int], params: SamplingParams, most: int) -> object:
    """All that a reply shows and leaves; it is cancelled after `most` tokens."""
    said: list[int] = []
    stream = model.stream_ids(ids, params, cancelled=lambda: len(said) >= most)
    error = ""
    try:
        for token in stream.ids():
            said.append(token)
    except EngineError as caught:
        error = caught.message
    reply = stream.result
    noted = [list(ids) for _, ids in model._caches._kept]
    return said, reply.ids, reply.finish_reason, reply.stats.reused_tokens, noted, error


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
            SamplingParams(temperature=0, max_new_tokens=3), 99, 104, id="failing in vain"
        ),
        pytest.param(GREEDY, 99, STOP, id="failing behind the end"),
    ],
)
def test_replies_and_what_they_leave_are_those_of_the_plain_loop(
    params: SamplingParams, most: int, fail_at: int | None
) -> None:
    plain, model = toy(24), overlapping(toy(24))
    for ids in PROMPTS:
        for each in (plain, model):
            assert isinstance(each.model, Counter)
            each.model.fail_at = fail_at
        assert spoken(model, ids, params, most) == spoken(plain, ids, params, most)


def test_the_next_prompt_is_read_over_a_step_that_was_taken_in_vain() -> None:
    model = overlapping(toy())
    list(model.stream_ids([254], GREEDY).ids())  # 255, and STOP, which is fed in vain
    again = model.stream_ids([254, 255, 7], SamplingParams(temperature=0, max_new_tokens=2))
    assert list(again.ids()) == [8, 9]
    assert again.result.stats.reused_tokens == 2
    cache = model._caches.cache
    assert cache.keys[0][0, 0, : cache.offset, 0].tolist() == [254, 255, 7, 8]


def test_a_reply_nobody_reads_on_leaves_the_model_as_it_is() -> None:
    model = overlapping(toy())
    left = model.stream_ids([1, 2], GREEDY).ids()
    assert next(left) == 3
    other = model.stream_ids([1, 2, 3, 9], GREEDY).ids()
    assert [next(other), next(other)] == [10, 11]
    del left
    assert [next(other), next(other)] == [12, 13]


# ---- the loop itself


class Steps:
    """Counts upwards, and keeps a diary."""

    def __init__(self, broken_at: int | None = None) -> None:
        self.diary: list[tuple[str, int]] = []
        self.broken_at = broken_at

    def logits(self, token: int) -> Tensor:
        logits = torch.zeros(VOCAB)
        logits[token + 1] = torch.nan if token == self.broken_at else 10.0
        return logits

    def feed(self, ids: Tensor) -> Tensor:
        self.diary.append(("fed", int(ids)))
        return self.logits(int(ids))

    def note(self, ids: Sequence[int]) -> None:
        self.diary += [("noted", token) for token in ids]

    def reply(self, room: int) -> list[int]:
        sampler = DeviceSampler(GREEDY, [5], VOCAB, CPU)
        said = []
        for token in async_decode(self, sampler, self.logits(5), [5], room):
            self.diary.append(("told", token))
            said.append(token)
        return said


def test_a_token_is_told_after_the_step_over_it_was_launched() -> None:
    steps = Steps()
    assert steps.reply(3) == [6, 7, 8]
    assert steps.diary == [
        *[("fed", 6), ("told", 6), ("noted", 6)],
        *[("fed", 7), ("told", 7), ("noted", 7)],
        *[("told", 8), ("noted", 8)],  # the last one there is room for
    ]


def test_broken_numbers_end_a_reply_and_are_never_fed() -> None:
    steps = Steps(broken_at=7)
    with pytest.raises(EngineError, match="broke down"):
        steps.reply(9)
    assert [token for what, token in steps.diary if what == "told"] == [6, 7]
    assert [token for what, token in steps.diary if what == "fed"] == [6, 7, 5]


# ---- with real models, and graphs


@pytest.fixture(scope="module", params=["v2_32k_tiny", "glm4_tiny", "v1_twin_orig"])
def model(request: pytest.FixtureRequest) -> LoadedModel:
    loaded: LoadedModel = load_float32(GOLDEN_MODELS / request.param)
    loaded.stop_ids = frozenset()
    return loaded


def replies(model: LoadedModel, params: SamplingParams) -> list[object]:
    model.forget()
    return [spoken(model, prompt(model, n), params, 11) for n in (9, 14, 9, 20, 14)]


@pytest.mark.parametrize("graphs", [False, True])
def test_greedy_replies_are_the_same_in_conversations_by_turns(
    model: LoadedModel, graphs: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cuda_graph, "BEFORE", 2)
    monkeypatch.setattr("glmtui.engine.runtime.prefix_cache.WORTH_KEEPING", 4)
    params = SamplingParams(temperature=0, max_new_tokens=10, repetition_penalty=1.1)
    expected = replies(model, params)
    recorder = Recorder()
    if graphs:
        monkeypatch.setattr(model, "_graphs", GraphedSteps(model.model, recorder))
    monkeypatch.setattr(model, "_overlaps", True)
    assert replies(model, params) == expected
    assert (recorder.replayed > 10) is graphs


def test_a_seed_repeats_a_reply(model: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model, "_overlaps", True)

    def reply(seed: int) -> list[object]:
        params = SamplingParams(temperature=1.5, top_k=20, top_p=0.9, seed=seed, max_new_tokens=8)
        return replies(model, params)

    assert reply(1) == reply(1)
    assert reply(1) != reply(2)


@pytest.mark.parametrize(
    ("speculation", "overlaps"), [("auto", True), ("off", True), ("on", False)]
)
def test_a_gpu_guesses_only_where_it_is_told_to(speculation: Speculation, overlaps: bool) -> None:
    info = LoadedInfo(name="toy", device="cuda", context_length=8)
    gpu = torch.device("cuda")

    def made(device: torch.device) -> LoadedModel:
        options = LoadOptions(speculation=speculation, cache_gb=1)
        return LoadedModel(
            Counter(),
            None,
            None,
            frozenset(),
            info,
            dtype=torch.half,
            device=device,
            options=options,
        )

    assert made(gpu)._overlaps is overlaps
    assert made(CPU)._overlaps is False
