"""Llama-shaped models: our logits and replies against transformers' own, on tiny random weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM

from glmtui.chat import SamplingParams
from glmtui.engine import LoadOptions
from glmtui.engine.loading.loader import load
from glmtui.engine.model_info import ModelInfo
from glmtui.engine.models import llama
from glmtui.engine.runtime.model_runner import LoadedModel
from glmtui.errors import UnsupportedModel

SHAPES = {
    "grouped": {"num_key_value_heads": 2},
    "ungrouped, untied, biased": {
        "num_key_value_heads": 4,
        "tie_word_embeddings": False,
        "attention_bias": True,
    },
    "wide heads": {"num_key_value_heads": 1, "head_dim": 32, "rope_theta": 500.0},
}
IDS = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5]


def reference(shape: dict[str, object]) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=96,
        hidden_size=64,
        intermediate_size=192,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=128,
        **{"tie_word_embeddings": True, "initializer_range": 0.3, **shape},
    )
    model = LlamaForCausalLM(config).eval()
    for name, parameter in model.named_parameters():  # norms and biases that matter
        if "norm" in name or "bias" in name:
            parameter.data.uniform_(-1, 1)
    return model


def saved(model: LlamaForCausalLM, folder: Path) -> ModelInfo:
    state = {k: v.contiguous().clone() for k, v in model.state_dict().items()}
    if model.config.tie_word_embeddings:
        del state["lm_head.weight"]
    save_file(state, folder / "model.safetensors")
    model.config.save_pretrained(folder)
    return ModelInfo("tiny", folder, "llama", 128, 0, "float32")


@pytest.fixture(params=SHAPES.values(), ids=SHAPES.keys())
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[LlamaForCausalLM, LoadedModel]:
    theirs = reference(request.param)
    options = LoadOptions(device="cpu", dtype="float32", quant=None)
    return theirs, load(saved(theirs, tmp_path), options)


def test_logits_agree(pair: tuple[LlamaForCausalLM, LoadedModel]) -> None:
    theirs, ours = pair
    with torch.inference_mode():
        expected = theirs(torch.tensor([IDS])).logits[0]
    torch.testing.assert_close(ours.logits(IDS), expected, atol=1e-4, rtol=1e-4)


def test_greedy_replies_agree(pair: tuple[LlamaForCausalLM, LoadedModel]) -> None:
    theirs, ours = pair
    with torch.inference_mode():
        expected = theirs.generate(
            torch.tensor([IDS]), do_sample=False, max_new_tokens=24, eos_token_id=None
        )
    ours.stop_ids = frozenset()
    stream = ours.stream_ids(IDS, SamplingParams(temperature=0, max_new_tokens=24))
    assert list(stream.ids()) == expected[0, len(IDS) :].tolist()


def test_cached_and_uncached_agree(pair: tuple[LlamaForCausalLM, LoadedModel]) -> None:
    _, ours = pair
    whole = ours.logits(IDS)
    cache = ours.model.new_cache(64, torch.float32, torch.device("cpu"))
    with torch.inference_mode():
        parts = [
            ours.model(torch.tensor([IDS[a:b]]), cache)[0] for a, b in ((0, 4), (4, 5), (5, 11))
        ]
    torch.testing.assert_close(torch.cat(parts), whole, atol=1e-4, rtol=1e-4)


def test_the_cache_grows_past_its_first_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("glmtui.engine.nn.kv_cache.BLOCK_TOKENS", 4)
    ours = load(saved(reference({}), tmp_path), LoadOptions(dtype="float32", quant=None))
    cache = ours.model.new_cache(64, torch.float32, torch.device("cpu"))
    with torch.inference_mode():
        parts = [ours.model(torch.tensor([[i]]), cache)[0] for i in IDS]
    torch.testing.assert_close(torch.cat(parts), ours.logits(IDS), atol=1e-4, rtol=1e-4)
    assert cache.allocated_tokens == 12  # whole blocks of 4 for 11 tokens


@pytest.mark.parametrize(("quant", "tolerance"), [("int8", 0.03), ("int4", 0.3)])
def test_quantised_logits_stay_near(tmp_path: Path, quant: str, tolerance: float) -> None:
    # weights that keep the size of what goes through them, as trained ones do
    info = saved(reference({"initializer_range": 64**-0.5}), tmp_path)
    exact = load(info, LoadOptions(dtype="float32", quant=None)).logits(IDS)
    near = load(info, LoadOptions(dtype="float32", quant=quant))
    assert near.info.quant.startswith(quant)
    error = (near.logits(IDS) - exact).norm() / exact.norm()
    assert 0 < float(error) < tolerance


def test_scaled_rotary_positions_are_refused() -> None:
    raw = LlamaConfig().to_dict() | {"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}
    raw.pop("rope_parameters", None)
    with pytest.raises(UnsupportedModel, match="llama3"):
        llama.load_config(raw)
