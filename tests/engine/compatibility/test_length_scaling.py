"""Positions that depend on the length: replies equal those of transformers without chunks.

When a reply crosses the boundary, transformers' `generate` drops the cache of Phi-3 and PhiMoE, and
reads the whole text again with the long factors. For other models it keeps the cache, and only new
tokens get the new frequencies.
"""

from __future__ import annotations

import copy
import functools
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from glmtui.chat import SamplingParams
from glmtui.engine.catalog import resolver
from glmtui.engine.compatibility.length_scaling import LengthScaling
from glmtui.engine.loading.loader import load
from glmtui.engine.model_info import LoadOptions, ModelInfo
from glmtui.engine.runtime.model_runner import LoadedModel
from glmtui.errors import EngineError
from support.tiny_models import SMALL, make

BOUNDARY = 64
LONGROPE: dict[str, Any] = {
    "rope_type": "longrope",
    "rope_theta": 10_000.0,
    "factor": 4.0,
    "short_factor": [1.0 + 0.05 * i for i in range(8)],
    "long_factor": [1.5 + 0.7 * i for i in range(8)],
    "original_max_position_embeddings": BOUNDARY,
}
ORIGINAL = {"original_max_position_embeddings": BOUNDARY, "sliding_window": None}
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "phi3": ("phi3", {**ORIGINAL, "rope_parameters": LONGROPE}),
    "phimoe": (
        "phimoe",
        {
            **ORIGINAL,
            "num_local_experts": 2,
            "rope_parameters": {**LONGROPE, "long_mscale": 1.3, "short_mscale": 1.1},
        },
    ),
    "llama longrope": ("llama", {"rope_parameters": LONGROPE}),
    "llama dynamic": (
        "llama",
        {
            "max_position_embeddings": BOUNDARY,
            "rope_parameters": {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 10_000.0},
        },
    ),
}
OPTIONS = LoadOptions(device="cpu", dtype="float32", quant=None)
NEW = 12
CHUNK = 16
LENGTHS = (40, BOUNDARY - 1, BOUNDARY, BOUNDARY + 1, 100)


def token_ids(length: int, seed: int = 0) -> list[int]:
    return [3 + (i * 7 + seed * 31 + i * i) % 200 for i in range(length)]


@pytest.fixture(scope="module", params=KINDS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    kind, fields = KINDS[request.param]
    path = tmp_path_factory.mktemp("model") / "model"
    make(path, kind, **fields)
    return path


@pytest.fixture(scope="module")
def loaded(folder: Path) -> Iterator[LoadedModel]:
    """A model that reads prompts in small chunks."""
    info = resolver.resolve(str(folder))
    assert isinstance(info, ModelInfo)
    with pytest.MonkeyPatch.context() as patch:
        chunks = sys.modules["glmtui.engine.runtime.model_runner"].PREFILL_CHUNK
        patch.setitem(chunks, "cpu", (CHUNK, CHUNK))
        patch.setattr("glmtui.engine.compatibility.transformers_model.RESTART_CHUNK", CHUNK)
        model = load(replace(info, context_length=256), OPTIONS)
        assert model.info.backend == "compatibility"
        model.stop_ids = frozenset()
        yield model


@pytest.fixture
def ours(loaded: LoadedModel) -> LoadedModel:
    """The model with an empty cache."""
    loaded.clear_cache()
    return loaded


@functools.cache
def load_theirs(folder: Path) -> PreTrainedModel:
    theirs: PreTrainedModel = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    theirs.generation_config.eos_token_id = None
    return theirs.eval()


def fresh_copy(folder: Path) -> PreTrainedModel:
    """The model in transformers, without earlier calls."""
    return copy.deepcopy(load_theirs(folder))


def expected_reply(folder: Path, prompt: list[int], new: int = NEW) -> list[int]:
    """The greedy reply of transformers' `generate`, which reads a prompt in one call."""
    out = fresh_copy(folder).generate(torch.tensor([prompt]), max_new_tokens=new, do_sample=False)
    reply: list[int] = out[0, len(prompt) :].tolist()
    return reply


def reply_of(model: LoadedModel, prompt: list[int], new: int = NEW) -> tuple[list[int], int]:
    """The greedy reply, and how many tokens of the prompt were in a cache."""
    stream = model.stream_ids(prompt, SamplingParams(temperature=0, max_new_tokens=new))
    reply = list(stream.ids())
    return reply, stream.result.stats.reused_tokens


def test_models_with_length_scaling_are_recognised(folder: Path, tmp_path: Path) -> None:
    found = LengthScaling.find(fresh_copy(folder))
    assert found is not None
    assert found.regime(BOUNDARY) != found.regime(BOUNDARY + 1)
    assert LengthScaling.find(make(tmp_path, "llama")) is None


@pytest.mark.parametrize("length", LENGTHS)
def test_a_prompt_and_its_reply(folder: Path, ours: LoadedModel, length: int) -> None:
    """Below the boundary, across it in the reply, and above it."""
    prompt = token_ids(length)
    logits = fresh_copy(folder)(torch.tensor([prompt])).logits[0, -1]
    found, _ = ours.prefill(prompt, lambda: False, lambda progress: None)
    assert found is not None
    assert torch.allclose(found, logits, atol=2e-4)
    ours.clear_cache()
    assert reply_of(ours, prompt)[0] == expected_reply(folder, prompt)


def test_the_cache_is_reused_only_on_its_side_of_the_boundary(
    folder: Path, ours: LoadedModel
) -> None:
    """A conversation that crosses the boundary, is cut below it, and crosses it again."""
    short, over, cut = token_ids(40), token_ids(80), [*token_ids(30), 9]
    for prompt, least, most in (
        (short, 0, 0),
        ([*short, 5, 6], 40, 41),
        (over, 0, 0),  # the cached keys have the positions of a shorter text
        (cut, 0, 0),
        ([*cut, 7, 8], 31, 32),
    ):
        reply, reused = reply_of(ours, prompt, 3)
        assert reply == expected_reply(folder, prompt, 3)
        assert least <= reused <= most
    reply, reused = reply_of(ours, [*over, 7], 3)
    assert reply == expected_reply(folder, [*over, 7], 3)


def test_a_conversation_continues_after_a_reply_that_crossed(
    folder: Path, ours: LoadedModel
) -> None:
    prompt = token_ids(BOUNDARY - 4)
    reply, _ = reply_of(ours, prompt)
    assert reply == expected_reply(folder, prompt)
    longer = [*prompt, *reply, 11, 12]
    again, reused = reply_of(ours, longer)
    assert again == expected_reply(folder, longer)
    if ours.model.inner.config.model_type in ("phi3", "phimoe"):
        assert reused == len(prompt) + len(reply) - 1  # all of it was read with the long factors
    else:
        assert reused == 0


def test_a_prompt_that_was_cancelled_half_way(folder: Path, ours: LoadedModel) -> None:
    """The cache of a long prompt cannot be used for a short one, nor the reverse."""
    over = token_ids(100)
    seen: list[int] = []

    def stop() -> bool:
        seen.append(1)
        return len(seen) > 2

    assert ours.prefill(over, stop, lambda progress: None)[0] is None
    for prompt in (token_ids(40), over):
        assert reply_of(ours, prompt, 4)[0] == expected_reply(folder, prompt, 4)


def test_a_failed_step_at_the_boundary(
    folder: Path, ours: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompt = token_ids(BOUNDARY)

    def fail(*args: object, **kwargs: object) -> None:
        raise RuntimeError("no luck")

    stream = ours.stream_ids(prompt, SamplingParams(temperature=0, max_new_tokens=NEW))
    ids = stream.ids()
    next(ids)
    with monkeypatch.context() as patch:
        patch.setattr(ours.model.inner.model.layers[1].self_attn, "forward", fail)
        with pytest.raises(EngineError, match="no luck"):
            list(ids)
    assert reply_of(ours, prompt)[0] == expected_reply(folder, prompt)


def test_the_factors_fit_the_head_size() -> None:
    assert len(LONGROPE["short_factor"]) == SMALL["head_dim"] // 2
