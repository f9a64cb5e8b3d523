"""The captured decode step on a CPU: what is captured gives the same logits and replies.

A `tape.Recorder` stands in for CUDA graphs: a step's operations run again, Python does not.
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
from glmtui.engine.runtime.cuda_graph import GraphedSteps, Record, Replay
from glmtui.engine.runtime.model_runner import LoadedModel
from support.graph_recorder import Recorder
from support.graph_talks import (
    TALKS,
    Talk,
    arrange,
    conversations_in_turn,
    loaded,
    prompt,
    prompts_in_turn,
    reply,
)

CPU = torch.device("cpu")


def close(ours: Tensor, expected: Tensor) -> None:
    """Up to the rounding of sums in another order."""
    torch.testing.assert_close(ours, expected, atol=1e-4, rtol=1e-4)


def new_cache(model: LoadedModel) -> KVCache:
    return model.model.new_cache(64, torch.float32, CPU)


def spoiled(step: Callable[[], Tensor]) -> tuple[Replay, Tensor]:
    """A `Record` whose logits are off."""
    replay, logits = Recorder()(step)

    def off() -> None:
        replay()
        logits.add_(5.0)

    return off, logits


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
    monkeypatch.setattr("glmtui.engine.nn.kv_cache.BLOCK", 16)
    plain, cache = new_cache(model), new_cache(model)
    recorder = Recorder()
    expected = logits_of(model, None, plain, 30)
    close(logits_of(model, recorder, cache, 30), expected)
    assert len(recorder.tapes) == 3  # with room for 16, 32 and 64
    assert recorder.replayed > 15
    for mine, theirs in zip(cache.keys, plain.keys, strict=True):
        close(mine[:, :, :40], theirs[:, :, :40])


def test_what_is_off_is_not_used(model: LoadedModel) -> None:
    expected = logits_of(model, None, new_cache(model), 8)
    close(logits_of(model, spoiled, new_cache(model), 8), expected)
    steps = GraphedSteps(model.model, spoiled)
    with torch.inference_mode():
        cache = new_cache(model)
        steps(torch.tensor([prompt(model)]), cache)
        for _ in range(6):
            steps(torch.tensor([[prompt(model)[0]]]), cache)
    assert "off by" in steps.refused


def test_a_graph_that_does_nothing_is_not_used(model: LoadedModel) -> None:
    """As one captured on another device would be: what it is to compute, capturing has computed."""
    cache = new_cache(model)

    def nothing(step: Callable[[], Tensor]) -> tuple[Replay, Tensor]:
        return lambda: None, step().clone()

    close(logits_of(model, nothing, cache, 8), logits_of(model, None, new_cache(model), 8))


def test_what_cannot_be_captured_is_done_as_ever(model: LoadedModel) -> None:
    def fail(step: Callable[[], Tensor]) -> tuple[Replay, Tensor]:
        step()
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    expected = logits_of(model, None, new_cache(model), 8)
    close(logits_of(model, fail, new_cache(model), 8), expected)


def test_a_graph_keeps_no_cache_alive(model: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a cache that has grown, or was given up, the memory is needed for the next one."""
    monkeypatch.setattr("glmtui.engine.nn.kv_cache.BLOCK", 16)
    with recorded(model) as recorder:
        reply(model, prompt(model, 9), 7)
        assert recorder.replayed
        tensors = [weakref.ref(t) for t in model._caches.cache.tensors()[:4]]  # keys
        assert all(ref() is not None for ref in tensors)
        model._caches.cache.reserve(30)  # as the next prompt would
        gc.collect()
        assert [ref() for ref in tensors] == [None] * len(tensors)
        grown = weakref.ref(model._caches.cache.keys[0])
        model._caches.clear()
        gc.collect()
        assert grown() is None


def test_padding_is_hidden_from_a_captured_step(tmp_path: Path) -> None:
    """Of ChatGLM-6B, whose cache knows the padding."""
    model = loaded("v1_twin_orig", tmp_path).model
    marks = model.config.markers
    first = model.config.skipped_rows + 5
    rows = [[first] * 4 + [first, marks.gmask, marks.sop], [*range(first, first + 5), *marks[::2]]]
    padding, token = torch.tensor([4, 0]), torch.full((2, 1), first)
    said = []
    for steps in (model, GraphedSteps(model, Recorder())):
        cache = model.new_cache(64, torch.float32, CPU, batch=2)
        with torch.inference_mode():
            model(torch.tensor(rows), cache, last_only=True, padding=padding)
            said.append([steps(token, cache, last_only=True).clone() for _ in range(8)])
    assert isinstance(steps, GraphedSteps)
    assert steps._graph is not None
    close(torch.cat(said[1]), torch.cat(said[0]))


# ---- replies


@contextmanager
def recorded(model: LoadedModel, *, overlaps: bool = False) -> Iterator[Recorder]:
    """The model decoding through tapes."""
    recorder = Recorder()
    model.forget()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model, "_graphs", GraphedSteps(model.model, recorder))
        patch.setattr(model, "_overlaps", overlaps)
        yield recorder
        assert model._graphs is not None
        assert model._graphs.refused == ""
        model.forget()


@pytest.mark.parametrize(
    ("talk", "overlaps"),
    [*((talk, False) for talk in TALKS), (prompts_in_turn, True), (conversations_in_turn, True)],
)
def test_replies_are_those_without_a_graph(
    model: LoadedModel,
    talk: Talk,
    overlaps: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    arrange(talk, monkeypatch)
    model.forget()
    expected = talk(model)
    with recorded(model, overlaps=overlaps) as recorder:
        assert talk(model) == expected
    assert recorder.replayed > 10


def test_what_a_captured_step_reads_is_kept_by_the_model_or_the_cache(model: LoadedModel) -> None:
    """Nothing else has an address that lasts as long as the graph."""
    with recorded(model) as recorder:
        reply(model, prompt(model, 25), 12)
        assert model._graphs is not None
        graph = model._graphs._graph
        assert graph is not None
        kept = [graph.ids, graph.position, *model._caches.cache.tensors()]
        for module in model.model.modules():
            kept += [value for value in vars(module).values() if isinstance(value, Tensor)]
            kept += module.parameters(recurse=False)
        kept += [model.model.rotary.cos, model.model.rotary.sin]
        known = {id(tensor) for tensor in kept}
        read = recorder.tapes[-1].inputs
        assert len(read) > 10
        assert [tuple(t.shape) for t in read if id(t) not in known] == []
