"""Conversations that captured decode steps must answer as steps that were not captured."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import pytest

from glmtui.chat import SamplingParams
from glmtui.engine.runtime import cuda_graph
from glmtui.engine.runtime.model_runner import LoadedModel
from support.goldens import GOLDEN_MODELS, load_float32
from support.tiny_llama import write_llama

Talk: TypeAlias = Callable[[LoadedModel], list[list[int]]]


FAMILIES = ["llama", "v1_twin_orig", "v1_int4_qe", "v2_32k_tiny", "v3_32k_tiny", "glm4_tiny"]


def source(family: str, folder: Path) -> Path:
    """The folder of a tiny model; Llama's is written to `folder`."""
    return write_llama(folder) if family == "llama" else GOLDEN_MODELS / family


def loaded(family: str, folder: Path) -> LoadedModel:
    """A tiny model that does not end its replies."""
    model: LoadedModel = load_float32(source(family, folder))
    model.stop_ids = frozenset()
    return model


@pytest.fixture(scope="module", params=FAMILIES)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return loaded(request.param, tmp_path_factory.mktemp("model") / request.param)


def prompt(model: LoadedModel, length: int = 10) -> list[int]:
    marks = getattr(model.model.config, "markers", None)
    first = getattr(model.model.config, "skipped_rows", 0)
    end = [marks.gmask, marks.sop] if marks else []
    return [*range(first + 5, first + 5 + length - len(end)), *end]


def reply(model: LoadedModel, ids: list[int], most: int = 10) -> list[int]:
    return list(model.stream_ids(ids, SamplingParams(temperature=0, max_new_tokens=most)).ids())


def prompts_in_turn(model: LoadedModel) -> list[list[int]]:
    """One after the other, each read into the memory of the last."""
    return [reply(model, prompt(model, n)) for n in (25, 40, 25, 33)]


def conversations_in_turn(model: LoadedModel) -> list[list[int]]:
    """Two that both stay in memory, going back and forth."""
    long, other = prompt(model, 30), prompt(model, 22)[1:]
    return [reply(model, ids) for ids in (long, other, long, other, long)]


def reused_prefixes(model: LoadedModel) -> list[list[int]]:
    """A reply that is asked for again, one that goes on, and a turn that follows it."""
    ids = prompt(model, 20)
    first = reply(model, ids)
    again = reply(model, ids)
    assert again == first
    on = reply(model, [*ids, *first[:6]])
    turn = reply(model, [*ids, *first, *prompt(model, 9)])
    return [first, again, on, turn, reply(model, ids)]


def outgrown_caches(model: LoadedModel) -> list[list[int]]:
    """Replies during which the cache grows, and shorter ones into the grown cache."""
    return [reply(model, prompt(model, n), 12) for n in (12, 28, 12)]


def cleared_between(model: LoadedModel) -> list[list[int]]:
    said = []
    for n in (18, 27, 18):
        said.append(reply(model, prompt(model, n)))
        model.forget()
    return said


def arrange(talk: Talk, patch: pytest.MonkeyPatch) -> None:
    """Makes a short talk do what a long one does."""
    patch.setattr(cuda_graph, "BEFORE", 2)
    if talk is conversations_in_turn:
        patch.setattr("glmtui.engine.runtime.prefix_cache.WORTH_KEEPING", 4)
    if talk is outgrown_caches:
        patch.setattr("glmtui.engine.nn.kv_cache.BLOCK", 16)


TALKS: list[Talk] = [
    prompts_in_turn,
    conversations_in_turn,
    reused_prefixes,
    outgrown_caches,
    cleared_between,
]
