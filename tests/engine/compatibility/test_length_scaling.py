"""Positions that depend on the whole length: replies are those of transformers, unchunked.

What transformers does where a reply passes the boundary: for Phi-3 and PhiMoE, `generate` drops its
cache at the first token beyond and reads all of the text again with the long factors. For any other
model it keeps what was read, and turns only the new tokens in the new way.
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
from glmtui.engine.api import LoadOptions, ModelInfo
from glmtui.engine.catalog import resolver
from glmtui.engine.compatibility.length_scaling import LengthScaling
from glmtui.engine.loading.loader import load
from glmtui.engine.runtime.model_runner import LoadedModel
from glmtui.errors import EngineError
from support.transformers_models import GQA_SIZES, write_transformers_model

BOUNDARY = 64
LONGROPE: dict[str, Any] = {
    "rope_type": "longrope",
    "rope_theta": 10_000.0,
    "factor": 4.0,
    "short_factor": [1.0 + 0.05 * i for i in range(8)],
    "long_factor": [1.5 + 0.7 * i for i in range(8)],
    "original_max_position_embeddings": BOUNDARY,
}
BEFORE = {"original_max_position_embeddings": BOUNDARY, "sliding_window": None}
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "phi3": ("phi3", {**BEFORE, "rope_parameters": LONGROPE}),
    "phimoe": (
        "phimoe",
        {
            **BEFORE,
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


def text(length: int, seed: int = 0) -> list[int]:
    return [3 + (i * 7 + seed * 31 + i * i) % 200 for i in range(length)]


@pytest.fixture(scope="module", params=KINDS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    kind, fields = KINDS[request.param]
    made = tmp_path_factory.mktemp("model") / "model"
    write_transformers_model(made, kind, **fields)
    return made


@pytest.fixture(scope="module")
def loaded(folder: Path) -> Iterator[LoadedModel]:
    """Reads prompts in small chunks."""
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
    """Without a cache, whatever was read before."""
    loaded.forget()
    return loaded


@functools.cache
def read(folder: Path) -> PreTrainedModel:
    theirs: PreTrainedModel = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    theirs.generation_config.eos_token_id = None
    return theirs.eval()


def fresh(folder: Path) -> PreTrainedModel:
    """Transformers' own, without a history."""
    return copy.deepcopy(read(folder))


def wanted(folder: Path, prompt: list[int], new: int = NEW) -> list[int]:
    """The greedy reply of transformers' `generate`, which reads a prompt at once."""
    out = fresh(folder).generate(torch.tensor([prompt]), max_new_tokens=new, do_sample=False)
    reply: list[int] = out[0, len(prompt) :].tolist()
    return reply


def said(model: LoadedModel, prompt: list[int], new: int = NEW) -> tuple[list[int], int]:
    """The greedy reply, and how many tokens of the prompt were in a cache."""
    stream = model.stream_ids(prompt, SamplingParams(temperature=0, max_new_tokens=new))
    reply = list(stream.ids())
    return reply, stream.result.stats.reused_tokens


def test_a_model_is_known_by_its_positions(folder: Path, tmp_path: Path) -> None:
    found = LengthScaling.find(fresh(folder))
    assert found is not None
    assert found.regime(BOUNDARY) != found.regime(BOUNDARY + 1)
    assert LengthScaling.find(write_transformers_model(tmp_path, "llama")) is None


@pytest.mark.parametrize("length", LENGTHS)
def test_a_prompt_and_its_reply(folder: Path, ours: LoadedModel, length: int) -> None:
    """Below the boundary, across it in the reply, and above it."""
    prompt = text(length)
    logits = fresh(folder)(torch.tensor([prompt])).logits[0, -1]
    found, _ = ours.read(prompt, lambda: False, lambda progress: None)
    assert found is not None
    assert torch.allclose(found, logits, atol=2e-4)
    ours.forget()
    assert said(ours, prompt)[0] == wanted(folder, prompt)


def test_what_is_cached_is_reused_on_its_side_of_the_boundary_alone(
    folder: Path, ours: LoadedModel
) -> None:
    """A conversation that grows over the boundary, goes back, and forth again."""
    short, over, back = text(40), text(80), [*text(30), 9]
    for prompt, least, most in (
        (short, 0, 0),
        ([*short, 5, 6], 40, 41),
        (over, 0, 0),  # what was read of it has the positions of a shorter text
        (back, 0, 0),
        ([*back, 7, 8], 31, 32),
    ):
        reply, reused = said(ours, prompt, 3)
        assert reply == wanted(folder, prompt, 3)
        assert least <= reused <= most
    reply, reused = said(ours, [*over, 7], 3)
    assert reply == wanted(folder, [*over, 7], 3)


def test_a_conversation_goes_on_after_a_reply_that_crossed(folder: Path, ours: LoadedModel) -> None:
    prompt = text(BOUNDARY - 4)
    reply, _ = said(ours, prompt)
    assert reply == wanted(folder, prompt)
    longer = [*prompt, *reply, 11, 12]
    again, reused = said(ours, longer)
    assert again == wanted(folder, longer)
    if ours.model.inner.config.model_type in ("phi3", "phimoe"):
        assert reused == len(prompt) + len(reply) - 1  # it was all read with the long factors
    else:
        assert reused == 0


def test_a_prompt_given_up_half_way(folder: Path, ours: LoadedModel) -> None:
    """What was read of a long prompt does not serve a short one, nor the other way round."""
    over = text(100)
    seen: list[int] = []

    def stop() -> bool:
        seen.append(1)
        return len(seen) > 2

    assert ours.read(over, stop, lambda progress: None)[0] is None
    for prompt in (text(40), over):
        assert said(ours, prompt, 4)[0] == wanted(folder, prompt, 4)


def test_a_failed_step_at_the_boundary(
    folder: Path, ours: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompt = text(BOUNDARY)

    def fail(*args: object, **kwargs: object) -> None:
        raise RuntimeError("no luck")

    stream = ours.stream_ids(prompt, SamplingParams(temperature=0, max_new_tokens=NEW))
    ids = stream.ids()
    next(ids)
    with monkeypatch.context() as patch:
        patch.setattr(ours.model.inner.model.layers[1].self_attn, "forward", fail)
        with pytest.raises(EngineError, match="no luck"):
            list(ids)
    assert said(ours, prompt)[0] == wanted(folder, prompt)


def test_the_size_of_the_models_is_that_of_the_factors() -> None:
    assert len(LONGROPE["short_factor"]) == GQA_SIZES["head_dim"] // 2
