"""The captured decode step, as far as a CPU can show it: what is captured gives the same logits.

A graph is stood in for by the step itself, run again with the position where it was captured.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from goldens import GOLDEN, load
from torch import Tensor

from glmtui.chat import SamplingParams
from glmtui.engine import cuda_graph
from glmtui.engine.cache import KVCache
from glmtui.engine.cuda_graph import GraphedSteps, Record, Replay
from glmtui.engine.generate import LoadedModel

CPU = torch.device("cpu")


@pytest.fixture(scope="module", params=["v2_32k_tiny", "glm4_tiny", "v1_twin_orig"])
def model(request: pytest.FixtureRequest) -> LoadedModel:
    loaded: LoadedModel = load(GOLDEN / request.param)
    loaded.stop_ids = frozenset()
    return loaded


def prompt(model: LoadedModel, length: int = 10) -> list[int]:
    marks = getattr(model.model.config, "marks", None)
    first = getattr(model.model.config, "cut", 0)
    end = [marks.gmask, marks.sop] if marks else []
    return [*range(first + 5, first + 5 + length - len(end)), *end]


def close(ours: Tensor, expected: Tensor) -> None:
    """Up to the rounding of sums in another order."""
    torch.testing.assert_close(ours, expected, atol=1e-4, rtol=1e-4)


def new_cache(model: LoadedModel) -> KVCache:
    return model.model.new_cache(64, torch.float32, CPU)


class Recorder:
    """Counts what is captured, and how often it is run again."""

    def __init__(self, cache: Callable[[], KVCache], *, spoil: float = 0.0) -> None:
        self.cache = cache
        self.spoil = spoil
        self.captured = self.replayed = 0

    def record(self, step: Callable[[], Tensor]) -> tuple[Replay, Tensor]:
        cache = self.cache()
        position, logits = cache.position, step().clone()
        self.captured += 1

        def replay() -> None:
            self.replayed += 1
            end = cache.offset
            cache.position = position
            logits.copy_(step() + self.spoil)
            cache.position, cache.offset = None, end

        return replay, logits


@torch.inference_mode()
def logits_of(model: LoadedModel, record: Record | None, cache: KVCache, tokens: int) -> Tensor:
    """After a prompt and each of as many tokens; without `record` by the decoder alone."""
    decoder = model.model
    ids = prompt(model)
    rows = [decoder(torch.tensor([ids]), cache, last_only=True)[0]]
    step = decoder if record is None else GraphedSteps(decoder, record)
    for i in range(tokens):
        rows.append(step(torch.tensor([[ids[i % 5]]]), cache, last_only=True)[0].clone())
        assert cache.offset == len(ids) + 1 + i
        assert cache.position is None
    return torch.cat(rows)


def test_a_captured_step_gives_the_logits_of_a_plain_one(
    model: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("glmtui.engine.cache.BLOCK", 16)
    plain, cache = new_cache(model), new_cache(model)
    recorder = Recorder(lambda: cache)
    expected = logits_of(model, None, plain, 30)
    close(logits_of(model, recorder.record, cache, 30), expected)
    assert recorder.captured == 3  # with room for 16, 32 and 64
    assert recorder.replayed > 15
    for mine, theirs in zip(cache.keys, plain.keys, strict=True):
        close(mine[:, :, :40], theirs[:, :, :40])


def test_what_is_off_is_not_used(model: LoadedModel) -> None:
    cache = new_cache(model)
    recorder = Recorder(lambda: cache, spoil=5.0)
    steps = GraphedSteps(model.model, recorder.record)
    expected = logits_of(model, None, new_cache(model), 8)
    close(logits_of(model, recorder.record, cache, 8), expected)
    assert (recorder.captured, recorder.replayed) == (1, 1)
    with torch.inference_mode():
        other = new_cache(model)
        recorder.cache = lambda: other
        steps(torch.tensor([prompt(model)]), other)
        for _ in range(6):
            steps(torch.tensor([[prompt(model)[0]]]), other)
    assert "off by" in steps.refused


def test_what_cannot_be_captured_is_done_as_ever(model: LoadedModel) -> None:
    def fail(step: Callable[[], Tensor]) -> tuple[Replay, Tensor]:
        step()
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    expected = logits_of(model, None, new_cache(model), 8)
    close(logits_of(model, fail, new_cache(model), 8), expected)


def test_replies_are_the_same_in_conversations_by_turns(
    model: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cuda_graph, "BEFORE", 2)
    monkeypatch.setattr("glmtui.engine.caches.WORTH_KEEPING", 4)
    params = SamplingParams(temperature=0, max_new_tokens=10)
    prompts = [prompt(model, n) for n in (9, 14, 9, 20, 14)]
    model.forget()
    expected = [list(model.stream_ids(p, params).ids()) for p in prompts]
    recorder = Recorder(lambda: model._caches.cache)
    model.forget()
    monkeypatch.setattr(model, "_graphs", GraphedSteps(model.model, recorder.record))
    assert [list(model.stream_ids(p, params).ids()) for p in prompts] == expected
    assert recorder.captured > 2
    assert recorder.replayed > 10
    model.forget()
    assert model._graphs is not None
    assert model._graphs._memory is None  # nothing keeps the cache alive
