"""Decoding on a real GPU, through a graph and overlapped: the same replies, and faster.

pytest -m gpu tests/gpu/test_graphs_on_gpu.py -s          # prints the rates
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from glmtui.chat import SamplingParams
from glmtui.engine import LoadOptions, load_model
from glmtui.engine.bench.random_weights import random_model
from glmtui.engine.nn.cuda_capture import Replay, capture
from glmtui.engine.runtime import cuda_graph
from glmtui.engine.runtime.model_runner import LoadedModel
from glmtui.engine.runtime.sampling import DeviceSampler, dense_distribution, distribution
from support.goldens import GOLDEN_MODELS
from support.graph_talks import FAMILIES, TALKS, Talk, shorten_limits, source

pytestmark = pytest.mark.gpu

GREEDY = SamplingParams(temperature=0, max_new_tokens=48)
SAMPLED = SamplingParams(
    temperature=0.8, top_k=50, top_p=0.8, repetition_penalty=1.1, seed=3, max_new_tokens=48
)
TINY = ["v2_32k_tiny", "glm4_tiny", "v1_twin_orig"]
SECOND = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="there is no second GPU")


def prompt(model: LoadedModel, length: int) -> list[int]:
    config = model.model.config
    marks = getattr(config, "markers", None)
    first = getattr(config, "skipped_rows", 0)
    return [*range(first + 5, first + length), *([marks.gmask, marks.sop] if marks else [])]


@contextmanager
def decoding(model: LoadedModel, *, graphs: bool, overlaps: bool) -> Iterator[None]:
    model.clear_cache()
    model.stop_ids = frozenset()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model, "_decodes_async", overlaps)
        if not graphs:
            patch.setattr(model, "_cuda_graph", None)
        yield


def replies(
    model: LoadedModel,
    params: SamplingParams = GREEDY,
    *,
    graphs: bool = True,
    overlaps: bool = True,
) -> list[list[int]]:
    """Of two conversations by turns."""
    with decoding(model, graphs=graphs, overlaps=overlaps):
        return [list(model.stream_ids(prompt(model, n), params).ids()) for n in (25, 40, 25)]


def rate(model: LoadedModel, params: SamplingParams, *, graphs: bool, overlaps: bool) -> float:
    """Tokens per second once the reply is under way, and the graph captured."""
    with decoding(model, graphs=graphs, overlaps=overlaps):
        tokens = model.stream_ids(prompt(model, 25), replace(params, max_new_tokens=216)).ids()
        for _ in range(16):
            next(tokens)
        started = time.perf_counter()
        return len(list(tokens)) / (time.perf_counter() - started)


def tiny(name: str) -> LoadedModel:
    model = load_model(
        str(GOLDEN_MODELS / name), LoadOptions("cuda", "float32", None, speculation="off")
    )
    model.stop_ids = frozenset()
    return model


@pytest.mark.parametrize("name", TINY)
def test_replies_are_the_same_with_a_graph_and_overlapped(name: str, gpu: torch.device) -> None:
    model = tiny(name)
    assert model._decodes_async
    assert model._cuda_graph is not None
    expected = replies(model, graphs=False, overlaps=False)
    assert replies(model, overlaps=False) == expected
    assert replies(model) == expected
    assert replies(model, graphs=False) == expected
    assert model._cuda_graph.disabled_reason == ""
    replies(model)
    assert model._cuda_graph._graph is not None


def talked(model: LoadedModel, talk: Talk, *, graphs: bool, overlaps: bool) -> list[list[int]]:
    with decoding(model, graphs=graphs, overlaps=overlaps), pytest.MonkeyPatch.context() as patch:
        shorten_limits(talk, patch)
        return talk(model)


@pytest.mark.parametrize("device", ["cuda:0", pytest.param("cuda:1", marks=SECOND)])
@pytest.mark.parametrize("family", FAMILIES)
def test_replies_of_every_family_are_those_without_a_graph(
    family: str, device: str, tmp_path: Path, gpu: torch.device
) -> None:
    """Several prompts, conversations by turns, reused prefixes, grown caches; on each GPU."""
    options = LoadOptions(device, "float32", None, speculation="off")
    model = load_model(str(source(family, tmp_path / family)), options)
    assert model._cuda_graph is not None
    captured = []

    def counted(step: Callable[[], Tensor], device: torch.device) -> tuple[Replay, Tensor]:
        captured.append(device)
        return capture(step, device)

    for talk in TALKS:
        expected = talked(model, talk, graphs=False, overlaps=False)
        for overlaps in (False, True):
            captured.clear()
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(cuda_graph, "capture", counted)
                said = talked(model, talk, graphs=True, overlaps=overlaps)
            assert said == expected, talk.__name__
            assert model._cuda_graph.disabled_reason == ""
            assert set(captured) == {torch.device(device)}


@pytest.mark.parametrize("name", TINY)
def test_what_a_reply_leaves_serves_the_next(name: str, gpu: torch.device) -> None:
    """Cancelled replies leave a step that was launched in vain, some of them while it runs."""
    model = tiny(name)
    ids = prompt(model, 30)
    whole = list(model.stream_ids(ids, GREEDY).ids())
    for most in (1, 2, 7, 20):
        said: list[int] = []
        stream = model.stream_ids(ids, GREEDY, cancelled=lambda said=said, n=most: len(said) >= n)
        for token in stream.ids():
            said.append(token)
        assert said == whole[:most]
        going_on = model.stream_ids([*ids, *said], GREEDY)
        assert next(going_on.ids()) == whole[most]
        assert going_on.result.stats.reused_tokens >= len(ids) + most - 1


@pytest.mark.parametrize("name", TINY)
def test_a_seed_repeats_a_reply(name: str, gpu: torch.device) -> None:
    model = tiny(name)
    assert replies(model, SAMPLED) == replies(model, SAMPLED)


def test_the_distribution_is_that_of_the_cpu(gpu: torch.device) -> None:
    some = torch.randn(65_024, generator=torch.Generator().manual_seed(1)) * 4
    seen = torch.zeros(len(some), dtype=torch.bool).scatter(0, torch.arange(500), True)
    candidates, probabilities = distribution(some, range(500), SAMPLED)
    wanted = torch.zeros_like(some).scatter(0, candidates, probabilities)
    ours = dense_distribution(some.to(gpu), seen.to(gpu), SAMPLED).cpu()
    torch.testing.assert_close(ours, wanted, atol=1e-6, rtol=1e-5)
    broken = some.to(gpu).index_fill(0, torch.tensor([7], device=gpu), torch.nan)
    for params in (GREEDY, SamplingParams()):
        assert int(DeviceSampler(params, [1], len(some), gpu)(broken)) == -1


@pytest.mark.parametrize("params", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
def test_no_step_waits_for_the_gpu(params: SamplingParams, gpu: torch.device) -> None:
    model = tiny("glm4_tiny")
    tokens = model.stream_ids(prompt(model, 25), params).ids()
    for _ in range(12):  # plain steps, then the graph
        next(tokens)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(12):
            next(tokens)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("quant", [None, "int8", "int4"])
def test_a_graph_and_overlapping_are_faster_at_full_size(
    quant: str | None, gpu: torch.device
) -> None:
    options = LoadOptions("cuda", "float16", quant, context_length=2048, speculation="off")
    model = random_model("chatglm3-6b", options)
    assert model._cuda_graph is not None
    ways = {
        "plain": {"graphs": False, "overlaps": False},
        "graph": {"graphs": True, "overlaps": False},
        "graph, overlapped": {"graphs": True, "overlaps": True},
    }
    for name, params in {"greedy": GREEDY, "sampled": SAMPLED}.items():
        rates = {way: rate(model, params, **how) for way, how in 2 * [*ways.items()]}  # warm ones
        told = ", ".join(f"{r:.0f} tok/s {way}" for way, r in rates.items())
        print(f"{quant or 'float16'}, {name}: {told}")
        assert model._cuda_graph.disabled_reason == ""
        assert rates["graph"] > rates["plain"]
        assert rates["graph, overlapped"] > 0.97 * rates["graph"]
