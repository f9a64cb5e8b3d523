"""CUDA graphs on a CPU: captured steps give the same logits and replies.

A `graph_recorder.Recorder` replaces CUDA graphs: it runs the operations of a step again.
"""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch import Tensor

from glmtui.engine.nn.kv_cache import KVCache
from glmtui.engine.runtime.cuda_graph import Capture, CudaGraphRunner, Replay
from glmtui.engine.runtime.model_runner import LoadedModel
from support.graph_recorder import Recorder
from support.graph_talks import (
    FAMILIES,
    TALKS,
    Talk,
    conversations_in_turn,
    load_endless,
    prompt,
    prompts_in_turn,
    reply,
    shorten_limits,
)

CPU = torch.device("cpu")


@pytest.fixture(scope="module", params=FAMILIES)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return load_endless(request.param, tmp_path_factory.mktemp("model") / request.param)


def assert_close(ours: Tensor, expected: Tensor) -> None:
    """Equal up to rounding: a replay may add numbers in another order."""
    torch.testing.assert_close(ours, expected, atol=1e-4, rtol=1e-4)


def new_cache(model: LoadedModel) -> KVCache:
    return model.model.new_cache(64, torch.float32, CPU)


def capture_with_error(step: Callable[[], Tensor]) -> tuple[Replay, Tensor]:
    """A `Capture` whose logits are wrong."""
    replay, logits = Recorder()(step)

    def off() -> None:
        replay()
        logits.add_(5.0)

    return off, logits


@torch.inference_mode()
def logits_of(model: LoadedModel, capture: Capture | None, cache: KVCache, tokens: int) -> Tensor:
    """Logits after a prompt and after each of `tokens` ids; without `capture`, of plain steps."""
    decoder = model.model
    ids = prompt(model)
    rows = [decoder(torch.tensor([ids]), cache, last_only=True)[0]]
    step = decoder if capture is None else CudaGraphRunner(decoder, capture)
    for i in range(tokens):
        rows.append(step(torch.tensor([[ids[i % 5]]]), cache, last_only=True)[0].clone())
        assert cache.offset == len(ids) + 1 + i
        assert cache.position is None
    return torch.cat(rows)


def test_a_captured_step_gives_the_logits_of_a_plain_one(
    model: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("glmtui.engine.nn.kv_cache.BLOCK_TOKENS", 16)
    plain, cache = new_cache(model), new_cache(model)
    recorder = Recorder()
    expected = logits_of(model, None, plain, 30)
    assert_close(logits_of(model, recorder, cache, 30), expected)
    assert len(recorder.recordings) == 3  # with room for 16, 32 and 64
    assert recorder.replays > 15
    for mine, theirs in zip(cache.keys, plain.keys, strict=True):
        assert_close(mine[:, :, :40], theirs[:, :, :40])


def test_a_graph_with_wrong_logits_is_not_used(model: LoadedModel) -> None:
    expected = logits_of(model, None, new_cache(model), 8)
    assert_close(logits_of(model, capture_with_error, new_cache(model), 8), expected)
    steps = CudaGraphRunner(model.model, capture_with_error)
    with torch.inference_mode():
        cache = new_cache(model)
        steps(torch.tensor([prompt(model)]), cache)
        for _ in range(6):
            steps(torch.tensor([[prompt(model)[0]]]), cache)
    assert "off by" in steps.disabled_reason


def test_a_graph_that_does_nothing_is_not_used(model: LoadedModel) -> None:
    """As if captured on another device: the result is there from the capture, not from a replay."""
    cache = new_cache(model)

    def nothing(step: Callable[[], Tensor]) -> tuple[Replay, Tensor]:
        return lambda: None, step().clone()

    assert_close(logits_of(model, nothing, cache, 8), logits_of(model, None, new_cache(model), 8))


def test_a_step_that_cannot_be_captured_runs_without_a_graph(model: LoadedModel) -> None:
    def fail(step: Callable[[], Tensor]) -> tuple[Replay, Tensor]:
        step()
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    expected = logits_of(model, None, new_cache(model), 8)
    assert_close(logits_of(model, fail, new_cache(model), 8), expected)


def test_a_graph_keeps_no_cache_alive(model: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """The memory of a cache that has grown or was evicted is needed for the next one."""
    monkeypatch.setattr("glmtui.engine.nn.kv_cache.BLOCK_TOKENS", 16)
    with recording(model) as recorder:
        reply(model, prompt(model, 9), 7)
        assert recorder.replays
        tensors = [weakref.ref(t) for t in model._prefix_cache.cache.tensors()[:4]]  # keys
        assert all(ref() is not None for ref in tensors)
        model._prefix_cache.cache.reserve(30)  # as the next prompt does
        gc.collect()
        assert [ref() for ref in tensors] == [None] * len(tensors)
        grown = weakref.ref(model._prefix_cache.cache.keys[0])
        model._prefix_cache.clear()
        gc.collect()
        assert grown() is None


def test_a_captured_step_ignores_padding(tmp_path: Path) -> None:
    """ChatGLM-6B, whose cache stores the padding."""
    model = load_endless("v1_twin_orig", tmp_path).model
    marks = model.config.marks
    first = model.config.cut + 5
    rows = [[first] * 4 + [first, marks.gmask, marks.sop], [*range(first, first + 5), *marks[::2]]]
    padding, token = torch.tensor([4, 0]), torch.full((2, 1), first)
    logits: list[list[Tensor]] = []
    for steps in (model, CudaGraphRunner(model, Recorder())):
        cache = model.new_cache(64, torch.float32, CPU, batch=2)
        with torch.inference_mode():
            model(torch.tensor(rows), cache, last_only=True, padding=padding)
            logits.append([steps(token, cache, last_only=True).clone() for _ in range(8)])
    assert isinstance(steps, CudaGraphRunner)
    assert steps._graph is not None
    assert_close(torch.cat(logits[1]), torch.cat(logits[0]))


# ---- replies


@contextmanager
def recording(model: LoadedModel, *, decodes_async: bool = False) -> Iterator[Recorder]:
    """The model decodes through recordings."""
    recorder = Recorder()
    model.clear_cache()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model, "_cuda_graph", CudaGraphRunner(model.model, recorder))
        patch.setattr(model, "_decodes_async", decodes_async)
        yield recorder
        assert model._cuda_graph is not None
        assert model._cuda_graph.disabled_reason == ""
        model.clear_cache()


@pytest.mark.parametrize(
    ("talk", "overlaps"),
    [*((talk, False) for talk in TALKS), (prompts_in_turn, True), (conversations_in_turn, True)],
)
def test_replies_equal_those_without_a_graph(
    model: LoadedModel,
    talk: Talk,
    decodes_async: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shorten_limits(talk, monkeypatch)
    model.clear_cache()
    expected = talk(model)
    with recording(model, decodes_async=decodes_async) as recorder:
        assert talk(model) == expected
    assert recorder.replays > 10


def test_the_model_or_the_cache_owns_what_a_captured_step_reads(model: LoadedModel) -> None:
    """Other tensors may be freed while the graph still reads their addresses."""
    with recording(model) as recorder:
        reply(model, prompt(model, 25), 12)
        assert model._cuda_graph is not None
        graph = model._cuda_graph._graph
        assert graph is not None
        stable = [graph.ids, graph.position, *model._prefix_cache.cache.tensors()]
        for module in model.model.modules():
            stable += [value for value in vars(module).values() if isinstance(value, Tensor)]
            stable += module.parameters(recurse=False)
        stable += [model.model.rotary.cos, model.model.rotary.sin]
        known = {id(tensor) for tensor in stable}
        read = recorder.recordings[-1].inputs
        assert len(read) > 10
        assert [tuple(t.shape) for t in read if id(t) not in known] == []
