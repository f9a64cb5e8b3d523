"""Decoding through a CUDA graph on a real GPU: the same replies, and faster.

pytest -m gpu tests/gpu/test_cuda_graph.py -s          # prints the rates
"""

from __future__ import annotations

import time

import pytest
import torch
from goldens import GOLDEN

from glmtui.chat import SamplingParams
from glmtui.engine import LoadOptions, load_model
from glmtui.engine.bench.synthetic import random_model
from glmtui.engine.generate import LoadedModel

pytestmark = pytest.mark.gpu

GREEDY = SamplingParams(temperature=0, max_new_tokens=48)


def replies(model: LoadedModel, graphs: bool) -> tuple[list[list[int]], float]:
    """Of two conversations by turns, and tokens per second."""
    config = model.model.config
    marks = getattr(config, "marks", None)
    first = getattr(config, "cut", 0)
    end = [marks.gmask, marks.sop] if marks else []
    model.forget()
    model.stop_ids = frozenset()
    kept = model._graphs
    if not graphs:
        model._graphs = None
    started = time.perf_counter()
    said = [
        list(model.stream_ids([*range(first + 5, first + n), *end], GREEDY).ids())
        for n in (25, 40, 25)
    ]
    seconds = time.perf_counter() - started
    model._graphs = kept
    return said, sum(map(len, said)) / seconds


@pytest.mark.parametrize("name", ["v2_32k_tiny", "glm4_tiny", "v1_twin_orig"])
def test_replies_are_the_same_with_a_graph(name: str, gpu: torch.device) -> None:
    options = LoadOptions("cuda", "float32", None, speculation="off")
    model = load_model(str(GOLDEN / name), options)
    assert model._graphs is not None
    assert replies(model, True)[0] == replies(model, False)[0]
    assert model._graphs.refused == ""
    assert model._graphs._graph is not None


@pytest.mark.parametrize("quant", [None, "int8", "int4"])
def test_a_graph_is_faster_at_full_size(quant: str | None, gpu: torch.device) -> None:
    options = LoadOptions("cuda", "float16", quant, context_length=2048, speculation="off")
    model = random_model("chatglm3-6b", options)
    assert model._graphs is not None
    replies(model, True)
    rates = {graphs: replies(model, graphs)[1] for graphs in (True, False)}
    print(f"{quant or 'float16'}: {rates[True]:.0f} tok/s with a graph, {rates[False]:.0f} without")
    assert model._graphs.refused == ""
    assert rates[True] > rates[False]
