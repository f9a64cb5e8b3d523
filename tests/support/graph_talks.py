"""Conversations whose replies must be the same with and without captured decode steps."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import pytest

from glmtui.chat import SamplingParams
from glmtui.engine.runtime import cuda_graph
from glmtui.engine.runtime.model_runner import LoadedModel
from support.checkpoints import write_llama
from support.goldens import GOLDEN, load

Talk: TypeAlias = Callable[[LoadedModel], list[list[int]]]


FAMILIES = ["llama", "v1_twin_orig", "v1_int4_qe", "v2_32k_tiny", "v3_32k_tiny", "glm4_tiny"]


def source(family: str, folder: Path) -> Path:
    """The folder of a tiny model; Llama's is written to `folder`."""
    return write_llama(folder) if family == "llama" else GOLDEN / family


def load_endless(family: str, folder: Path) -> LoadedModel:
    """A tiny model without stop ids."""
    model: LoadedModel = load(source(family, folder))
    model.stop_ids = frozenset()
    return model


def prompt(model: LoadedModel, length: int = 10) -> list[int]:
    marks = getattr(model.model.config, "marks", None)
    first = getattr(model.model.config, "cut", 0)
    end = [marks.gmask, marks.sop] if marks else []
    return [*range(first + 5, first + 5 + length - len(end)), *end]


def reply(model: LoadedModel, ids: list[int], most: int = 10) -> list[int]:
    return list(model.stream_ids(ids, SamplingParams(temperature=0, max_new_tokens=most)).ids())


def prompts_in_turn(model: LoadedModel) -> list[list[int]]:
    """Prompts that are each read into the cache of the one before."""
    return [reply(model, prompt(model, n)) for n in (25, 40, 25, 33)]


def conversations_in_turn(model: LoadedModel) -> list[list[int]]:
    """Two conversations that both stay cached, alternating."""
    long, other = prompt(model, 30), prompt(model, 22)[1:]
    return [reply(model, ids) for ids in (long, other, long, other, long)]


def reused_prefixes(model: LoadedModel) -> list[list[int]]:
    """A repeated reply, a continued reply, and a next turn."""
    ids = prompt(model, 20)
    first = reply(model, ids)
    again = reply(model, ids)
    assert again == first
    on = reply(model, [*ids, *first[:6]])
    turn = reply(model, [*ids, *first, *prompt(model, 9)])
    return [first, again, on, turn, reply(model, ids)]


def outgrown_caches(model: LoadedModel) -> list[list[int]]:
    """Replies during which the cache grows, and shorter ones in the grown cache."""
    return [reply(model, prompt(model, n), 12) for n in (12, 28, 12)]


def cleared_between(model: LoadedModel) -> list[list[int]]:
    replies = []
    for n in (18, 27, 18):
        replies.append(reply(model, prompt(model, n)))
        model.clear_cache()
    return replies


def shorten_limits(talk: Talk, patch: pytest.MonkeyPatch) -> None:
    """Sets limits so that a short talk has the effects of a long one."""
    patch.setattr(cuda_graph, "WARMUP_STEPS", 2)
    if talk is conversations_in_turn:
        patch.setattr("glmtui.engine.runtime.prefix_cache.MIN_BRANCH", 4)
    if talk is outgrown_caches:
        patch.setattr("glmtui.engine.nn.kv_cache.BLOCK_TOKENS", 16)


TALKS: list[Talk] = [
    prompts_in_turn,
    conversations_in_turn,
    reused_prefixes,
    outgrown_caches,
    cleared_between,
]
