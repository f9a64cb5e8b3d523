"""Models run by transformers: the same logits as there, prompts, caches, and errors."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer, decoders, models
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    PreTrainedModel,
)

from glmtui.chat import Message, SamplingParams
from glmtui.engine import load_model
from glmtui.engine.catalog import resolver
from glmtui.engine.catalog.families import detect_family, transformers_classes
from glmtui.engine.compatibility.transformers_model import TransformersCache, TransformersDecoder
from glmtui.engine.model_info import LoadOptions, ModelInfo
from glmtui.engine.runtime.model_runner import LoadedModel
from glmtui.errors import BadCheckpoint, EngineError, UnsupportedModel
from support.checkpoints import TEMPLATE, TOKENS
from support.tiny_models import make
from support.transformers_models import KINDS, OPTIONS, write_model

PROMPT = [3 + i * 7 % 200 for i in range(40)]
GREEDY = SamplingParams(temperature=0, max_new_tokens=16)


@pytest.fixture(scope="module", params=KINDS)
def pair(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[LoadedModel, PreTrainedModel]:
    folder, theirs = write_model(tmp_path_factory.mktemp(request.param) / "model", request.param)
    return load_model(str(folder), OPTIONS), theirs


@pytest.fixture(scope="module")
def qwen2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("qwen2") / "model", "qwen2")[0]


def update_json(folder: Path, name: str, **entries: object) -> None:
    path = folder / name
    path.write_text(json.dumps({**json.loads(path.read_bytes()), **entries}))


# ---- the same logits


def test_logits_and_greedy_replies_equal_those_of_transformers(
    pair: tuple[LoadedModel, PreTrainedModel],
) -> None:
    ours, theirs = pair
    assert ours.info.backend == "compatibility"
    batch = torch.tensor([PROMPT])
    assert torch.allclose(ours.logits(PROMPT), theirs(batch).logits[0], atol=1e-5)
    expected = theirs.generate(batch, max_new_tokens=16, do_sample=False)[0, len(PROMPT) :].tolist()
    reply = list(ours.stream_ids(PROMPT, GREEDY).ids())
    assert reply == [i for i in expected if i not in ours.stop_ids]


def test_a_trimmed_cache_gives_the_same_reply(pair: tuple[LoadedModel, PreTrainedModel]) -> None:
    ours, _ = pair
    reply = list(ours.stream_ids(PROMPT, GREEDY).ids())
    longer, other = [*PROMPT, *reply[:8], 9, 10], [*PROMPT[:25], 7]
    for prompt in (longer, other, PROMPT):
        reused = list(ours.stream_ids(prompt, GREEDY).ids())
        ours.clear_cache()
        assert list(ours.stream_ids(prompt, GREEDY).ids()) == reused
        list(ours.stream_ids(PROMPT, GREEDY).ids())


def test_a_prefix_is_reused_if_the_cache_can_be_rewound(
    pair: tuple[LoadedModel, PreTrainedModel],
) -> None:
    ours, theirs = pair
    ours.clear_cache()
    list(ours.stream_ids(PROMPT, GREEDY).ids())
    stream = ours.stream_ids([*PROMPT[:30], 7, 7], GREEDY)
    list(stream.ids())
    cannot_rewind = theirs.config.model_type in (
        "mistral",
        "mamba",
    )  # a sliding window; a recurrent state
    assert stream.result.stats.reused_tokens == (0 if cannot_rewind else 30)


def test_a_sliding_window_is_reused_when_the_prompt_continues(tmp_path: Path) -> None:
    folder, _ = write_model(tmp_path / "model", "mistral")
    model = load_model(str(folder), OPTIONS)
    reply = list(model.stream_ids(PROMPT, GREEDY).ids())
    stream = model.stream_ids([*PROMPT, *reply, 9], GREEDY)
    list(stream.ids())
    assert stream.result.stats.reused_tokens == len(PROMPT) + len(reply) - 1


def test_a_long_prompt_is_read_in_chunks(qwen2: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load_model(str(qwen2), OPTIONS)
    whole = list(model.stream_ids(PROMPT, GREEDY).ids())
    monkeypatch.setitem(
        sys.modules["glmtui.engine.runtime.model_runner"].PREFILL_CHUNK, "cpu", (7, 7)
    )
    model = load_model(str(qwen2), OPTIONS)
    seen: list[int] = []
    stream = model.stream_ids(
        PROMPT, GREEDY, on_prefill=lambda progress: seen.append(progress.done)
    )
    assert list(stream.ids()) == whole
    assert seen == [0, 7, 14, 21, 28, 35, 40]


def test_memory_sizes_are_reported(qwen2: Path) -> None:
    info = load_model(str(qwen2), OPTIONS).info
    assert info.kv_bytes_per_token == 2 * 2 * 2 * 16 * 4  # layers, k and v, heads, size, float32
    stored = load_file(qwen2 / "model.safetensors").values()
    assert info.weight_bytes == sum(tensor.nbytes for tensor in stored)
    assert info.context_length == 256
    assert load_model(str(qwen2), LoadOptions(device="cpu", context_length=64)).context_length == 64


# ---- a chat


def test_it_chats_with_the_folders_template(qwen2: Path) -> None:
    update_json(qwen2, "generation_config.json", do_sample=True, temperature=0.7, top_k=5)
    model = load_model(str(qwen2), OPTIONS)
    assert model.info.defaults == SamplingParams(temperature=0.7, top_k=5, do_sample=True)
    prompt = model.chat_format.encode([Message("user", "hello <|im_end|>")])
    assert prompt[0] == TOKENS.index("<|im_start|>")
    assert prompt.count(TOKENS.index("<|im_end|>")) == 1  # of the template, not of the user's text
    stream = model.stream([Message("user", "hello")], GREEDY)
    assert "".join(stream) == stream.result.text
    assert stream.result.finish_reason in ("stop", "length")
    assert stream.result.stats.generated_tokens > 0


def test_a_reply_can_be_cancelled(qwen2: Path) -> None:
    model = load_model(str(qwen2), OPTIONS)
    reply: list[int] = []
    stream = model.stream_ids(PROMPT, GREEDY, cancelled=lambda: len(reply) >= 3)
    for token in stream.ids():
        reply.append(token)
    assert stream.result.finish_reason == "cancelled"
    assert len(reply) == 3


def test_a_failed_step_leaves_no_half_written_cache(
    qwen2: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load_model(str(qwen2), OPTIONS)
    whole = list(model.stream_ids(PROMPT, GREEDY).ids())
    for cached in (True, False):  # with a prompt in the cache before, or without
        if not cached:
            model.clear_cache()
        last = model.model.inner.model.layers[1].self_attn

        def fail(*args: object, **kwargs: object) -> None:
            raise RuntimeError("no luck")

        with monkeypatch.context() as patch:
            patch.setattr(last, "forward", fail)
            with pytest.raises(EngineError, match="no luck"):
                list(model.stream_ids([*PROMPT, 5], GREEDY).ids())
        assert list(model.stream_ids(PROMPT, GREEDY).ids()) == whole


@pytest.mark.parametrize(("quant", "kind"), [("int8", "int8"), ("int4", "int4 g32")])
def test_linear_layers_can_be_quantised(qwen2: Path, quant: str, kind: str) -> None:
    whole = load_model(str(qwen2), OPTIONS)
    packed = load_model(str(qwen2), LoadOptions(device="cpu", dtype="float32", quant=quant))
    assert packed.info.quant == kind
    assert packed.info.weight_bytes is not None
    assert whole.info.weight_bytes is not None
    assert packed.info.weight_bytes < whole.info.weight_bytes
    a, b = whole.logits(PROMPT).flatten(), packed.logits(PROMPT).flatten()
    assert float(torch.corrcoef(torch.stack((a, b)))[0, 1]) > (0.99 if quant == "int8" else 0.7)


def test_the_share_of_quantised_weights_is_reported(tmp_path: Path) -> None:
    """Mixtral stores the experts of a layer in one tensor, which is not quantised."""
    theirs = make(tmp_path, "mixtral", num_local_experts=4, sliding_window=None)
    packed = load_model(str(tmp_path), LoadOptions(device="cpu", dtype="float32", quant="int4"))
    linear = [m for m in theirs.model.modules() if type(m) is torch.nn.Linear]
    share = sum(m.weight.numel() for m in linear) / sum(p.numel() for p in theirs.parameters())
    assert 0 < share < 0.5
    assert packed.info.quant == f"int4 g32 ({share:.0%} of weights)"
    assert packed.info.weight_bytes is not None
    assert packed.info.weight_bytes > 4 * (1 - share) * sum(p.numel() for p in theirs.parameters())


# ---- which models


def test_the_table_of_transformers_classes_is_read_correctly() -> None:
    table = transformers_classes()
    names = MODEL_FOR_CAUSAL_LM_MAPPING._model_mapping
    assert table == {kind: name for kind, name in names.items() if isinstance(name, str)}
    assert table["qwen2"] == "Qwen2ForCausalLM"


def test_finding_the_family_imports_neither_torch_nor_transformers(qwen2: Path) -> None:
    code = (
        "import sys; from glmtui.engine.catalog import resolver as catalog;"
        f"info = catalog.resolve({str(qwen2)!r});"
        "print(info.family, info.context_length, 'torch' in sys.modules, "
        "'transformers' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert run.stdout.split() == ["compatibility", "256", "False", "False"]


def test_llama_is_ours_unless_its_config_differs(tmp_path: Path) -> None:
    plain = {"model_type": "llama", "architectures": ["LlamaForCausalLM"]}
    for more, key in (
        ({}, "llama"),
        ({"rope_scaling": None, "mlp_bias": False, "hidden_act": "silu"}, "llama"),
        ({"rope_parameters": {"rope_theta": 1e4}}, "llama"),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 1e4}}, "llama"),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, "compatibility"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "compatibility"),
        ({"mlp_bias": True}, "compatibility"),
        ({"hidden_act": "gelu"}, "compatibility"),
    ):
        assert detect_family({**plain, **more}, tmp_path).key == key


def test_what_is_not_a_chat_model_of_transformers_is_refused(tmp_path: Path) -> None:
    for config in (
        {"model_type": "bert", "architectures": ["BertForMaskedLM"]},
        {"model_type": "qwen2", "architectures": ["Qwen2Model"]},
        {"model_type": "myown", "architectures": ["MyOwnForCausalLM"], "auto_map": {}},
    ):
        with pytest.raises(UnsupportedModel, match="does not support the model"):
            detect_family(config, tmp_path)


def test_code_in_a_checkpoint_is_not_run(qwen2: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(qwen2, folder)
    auto_map = {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}
    update_json(folder, "config.json", auto_map=auto_map)
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    load_model(str(folder), OPTIONS)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("damage", "error", "said"),
    [
        ({"quantization_config": {"quant_method": "gptq"}}, UnsupportedModel, "by gptq"),
        ({"num_hidden_layers": 3}, BadCheckpoint, "lacks 12 tensors"),
        ({"hidden_size": 32}, UnsupportedModel, "cannot run"),
    ],
)
def test_damage_is_named(
    qwen2: Path, tmp_path: Path, damage: dict[str, Any], error: type[Exception], reply: str
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(qwen2, folder)
    if "num_hidden_layers" in damage:
        damage = {**damage, "layer_types": ["full_attention"] * 3}
    update_json(folder, "config.json", **damage)
    with pytest.raises(error, match=reply):
        load_model(str(folder), OPTIONS)


def test_a_folder_without_template_or_tokenizer_is_refused(qwen2: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(qwen2, folder)
    update_json(folder, "tokenizer_config.json", chat_template=None)
    with pytest.raises(UnsupportedModel, match="no chat template"):
        load_model(str(folder), OPTIONS)
    (folder / "tokenizer.json").unlink()
    with pytest.raises(UnsupportedModel, match="no tokenizer files"):
        load_model(str(folder), OPTIONS)


def test_a_tokenizer_in_an_older_format_is_converted(qwen2: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(qwen2, folder)
    fast = json.loads((folder / "tokenizer.json").read_bytes())["model"]
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.json").write_text(json.dumps(fast["vocab"]))
    merges = (" ".join(merge) for merge in fast["merges"])
    (folder / "merges.txt").write_text("\n".join(("#version: 0.2", *merges)) + "\n")
    settings = {"tokenizer_class": "Qwen2Tokenizer", "chat_template": TEMPLATE}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    model = load_model(str(folder), OPTIONS)
    ids = model.tokenizer.encode("hello")
    assert [TOKENS[i] for i in ids] == ["hello"]


# ---- the cache


def test_the_cache_can_be_trimmed(qwen2: Path) -> None:
    model = load_model(str(qwen2), OPTIONS).model
    assert isinstance(model, TransformersDecoder)
    cache = model.new_cache(64, torch.float32, torch.device("cpu"))
    assert isinstance(cache, TransformersCache)
    with torch.inference_mode():
        model(torch.tensor([PROMPT]), cache)
        before = cache.nbytes
        cache.trim(100)
        assert cache.offset == len(PROMPT)
        cache.trim(10)
        assert (cache.offset, cache.nbytes) == (10, before // 4)
        cache.trim(0)
        assert (cache.offset, cache.nbytes) == (0, 0)


# ---- leading spaces


@pytest.mark.parametrize("strips", [True, False])
def test_a_leading_space_that_decode_strips_is_detected(tmp_path: Path, strips: bool) -> None:
    from glmtui.engine.tokenization.hf_tokenizer import TokenizerJson

    fast = Tokenizer(models.BPE({"▁": 0, "▁a": 1, "b": 2, "<0xC3>": 3, "<0xA9>": 4}, []))
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    fast.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)] if strips else steps)
    fast.save(str(tmp_path / "tokenizer.json"))
    tokenizer = TokenizerJson.load(tmp_path)
    assert tokenizer is not None
    assert tokenizer.strips_leading_space is strips
    assert tokenizer.decode([1, 2, 3, 4]) == ("abé" if strips else " abé")


def test_the_info_of_a_model_in_a_folder(qwen2: Path) -> None:
    info = resolver.resolve(str(qwen2))
    assert isinstance(info, ModelInfo)
    assert (info.family, info.stored) == ("compatibility", "float32")
