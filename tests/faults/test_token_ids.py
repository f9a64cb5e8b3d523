"""Token ids of callers: an id for which the model has no row is refused at once."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from glmtui.chat import SamplingParams
from glmtui.engine import load_model
from glmtui.engine.model_info import LoadOptions
from glmtui.engine.runtime.model_runner import LoadedModel
from glmtui.errors import BadCheckpoint, PromptTooLong, UsageError
from support.goldens import GOLDEN_MODELS
from support.llama_folders import write_llama_folder
from support.transformers_models import write_transformers_model

GREEDY = SamplingParams(temperature=0, max_new_tokens=2)
OPTIONS = LoadOptions(device="cpu", dtype="float32", quant=None)


@pytest.fixture(scope="module", params=["native", "native int8", "compatibility", "image rows"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    folder, options = tmp_path_factory.mktemp("model") / "model", OPTIONS
    if request.param == "compatibility":
        write_transformers_model(folder, "qwen2")
    elif request.param == "image rows":
        folder = GOLDEN_MODELS / "v1_twin_orig"
    else:
        write_llama_folder(folder)
        if request.param == "native int8":  # the compiled kernels' own embedding
            options = replace(options, dtype="bfloat16", quant="int8")
    return load_model(str(folder), options)


@pytest.mark.parametrize("token", [-1, -(10**9), -(2**63), 2**31, 2**64])
def test_an_id_out_of_range(model: LoadedModel, token: Any) -> None:
    last = model.model.vocab_size - 1
    for ids in ([token], [last, last, token]):
        for call in (lambda: model.stream_ids(ids, GREEDY), lambda: model.logits(ids)):  # noqa: B023
            with pytest.raises((UsageError, BadCheckpoint), match=str(token)):
                call()


@pytest.mark.parametrize("token", [1.5, "3", None, [1]])
def test_an_id_that_is_no_integer(model: LoadedModel, token: Any) -> None:
    with pytest.raises(TypeError, match="integer"):
        model.stream_ids([1, token], GREEDY)
    with pytest.raises(TypeError, match="integer"):
        model.logits([token])


def test_the_last_and_the_next_id(model: LoadedModel) -> None:
    vocabulary = model.model.vocab_size
    if model.model.causal:
        check_answers(model, [vocabulary - 1])
    with pytest.raises(BadCheckpoint, match=f"id {vocabulary}, but the model has {vocabulary}"):
        model.stream_ids([vocabulary], GREEDY)


def test_no_id_and_too_many(model: LoadedModel) -> None:
    with pytest.raises(UsageError, match="prompt is empty"):
        model.stream_ids([], GREEDY)
    last = model.model.vocab_size - 1
    with pytest.raises(PromptTooLong, match=f"{model.context_length:,} fit"):
        model.stream_ids([last] * (model.context_length + 1), GREEDY)
    with pytest.raises(PromptTooLong, match=f"{model.context_length:,} fit"):
        model.logits([last] * (model.context_length + 1))


def test_image_tokens_that_were_left_out() -> None:
    folder = str(GOLDEN_MODELS / "v1_twin_orig")
    left_out = load_model(folder, OPTIONS)
    first = left_out.model.first_token_id
    assert first == 64
    prompt = [first + 40, 265, 268]
    with_image_rows = load_model(folder, replace(OPTIONS, slim=False))
    for token in (0, first - 1):
        with pytest.raises(UsageError, match=f"{token} is an image token") as caught:
            left_out.stream_ids([token, *prompt], GREEDY)
        assert "load.slim" in caught.value.hint
        check_answers(with_image_rows, [token, *prompt])
    for model in (left_out, with_image_rows):
        check_answers(model, [first, *prompt])


def check_answers(model: LoadedModel, prompt: list[int]) -> None:
    stream = model.stream_ids(prompt, GREEDY)
    list(stream.ids())
    assert stream.result.finish_reason in ("stop", "length")
