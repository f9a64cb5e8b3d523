"""The GLM families' logits and greedy replies against what the original code computes.

`tests/golden` holds a few models; the larger set is checked where it lies beside the repository.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from glmtui.chat import SamplingParams
from glmtui.engine import load_model
from glmtui.engine.model_info import LoadOptions
from glmtui.engine.models import chatglm, chatglm2, chatglm3
from glmtui.engine.runtime.model_runner import LoadedModel
from glmtui.errors import EngineError, UnsupportedModel
from support.goldens import GOLDEN, SHARED, TOLERANCE, load

FIXTURES = SHARED / "fixtures" / "models"
SMALL = sorted(path.name for path in GOLDEN.iterdir() if path.is_dir())
LARGE = sorted(path.name for path in FIXTURES.iterdir()) if FIXTURES.is_dir() else []


@dataclass
class Case:
    """Prompt ids, the logits after each, and the ids that follow greedily."""

    ids: list[int]
    logits: Tensor | None
    greedy: list[int]
    likeliest: tuple[Tensor, Tensor] | None = None  # ids [S, 20] and their logits


@dataclass
class Batch:
    """Prompts padded on the left, and the ids that follow the first few greedily."""

    ids: Tensor
    padding: Tensor
    logits: Tensor
    greedy: Tensor


@dataclass
class Golden:
    name: str
    model: LoadedModel
    cases: dict[str, Case]
    batch: Batch | None
    tolerance: float
    ends: frozenset[int]

    @property
    def cut(self) -> int:
        """First columns of the logits that are not in memory."""
        return getattr(self.model.model.config, "cut", 0)


def read_golden(folder: Path) -> Golden:
    if (folder / "golden.safetensors").is_file():
        cases, batch = read_small(load_file(folder / "golden.safetensors"))
    else:  # sharded copies of a model have no numbers of their own
        cases, batch = read_large(folder.with_name(folder.name.removesuffix("_sharded_fp16")))
    ends = chatglm2.stop_ids(json.loads((folder / "config.json").read_bytes()))
    return Golden(folder.name, load(folder), cases, batch, TOLERANCE[folder.name[:2]], ends)


def read_small(tensors: dict[str, Tensor]) -> tuple[dict[str, Case], Batch | None]:
    names = [key[4:] for key in tensors if key.startswith("ids.")]
    cases = {
        name: Case(
            tensors[f"ids.{name}"].tolist(),
            tensors[f"logits.{name}"],
            tensors.get(f"greedy.{name}", torch.empty(0)).tolist(),
        )
        for name in names
    }
    batch = [tensors.get(f"batch.{key}") for key in ("ids", "padding", "logits", "greedy")]
    return cases, None if batch[0] is None else Batch(*batch)


def read_large(folder: Path) -> tuple[dict[str, Case], Batch | None]:
    expected = load_file(folder / "expected.safetensors")
    greedy = json.loads((folder / "greedy.json").read_bytes())
    cases = {}
    for case in json.loads((folder / "cases.json").read_bytes())["cases"]:
        name = case["name"]
        top = expected.get(f"top_ids.{name}"), expected.get(f"top_logits.{name}")
        cases[name] = Case(
            case["input_ids"],
            expected.get(f"logits.{name}"),
            greedy.get(name, {}).get("new_ids", []),
            None if top[0] is None else top,
        )
    if not (folder / "batch.safetensors").is_file():
        return cases, None
    tensors = load_file(folder / "batch.safetensors")
    valid = tensors.get("valid", tensors.get("attention_mask"))
    followed = tensors.get("greedy12", tensors.get("greedy12_rows01"))
    padding = (1 - valid.int()).cumprod(1).sum(1)
    return cases, Batch(tensors["input_ids"], padding, tensors["logits"], followed)


@pytest.fixture(
    scope="module",
    params=[*(GOLDEN / name for name in SMALL), *(FIXTURES / name for name in LARGE)],
    ids=[*SMALL, *(f"all_of_{name}" for name in LARGE)],
)
def golden(request: pytest.FixtureRequest) -> Golden:
    return read_golden(request.param)


def test_logits_are_the_originals(golden: Golden) -> None:
    for name, case in golden.cases.items():
        ours = golden.model.logits(case.ids)
        if case.likeliest is not None:
            at, theirs = case.likeliest
            ours = ours.gather(1, at.long())
        else:
            assert case.logits is not None
            ours, theirs = ours[:, golden.cut :], case.logits[:, golden.cut :]
        worst = float((ours - theirs).abs().max())
        assert worst <= golden.tolerance, f"{name} is off by {worst:.1e}"


def test_greedy_replies_are_the_originals_with_and_without_a_cache(golden: Golden) -> None:
    for name, case in golden.cases.items():
        greedy = [i for i in case.greedy if i not in golden.model.stop_ids]
        params = SamplingParams(temperature=0, max_new_tokens=len(case.greedy) or 1)
        stream = golden.model.stream_ids(case.ids, params)
        cached = list(stream.ids())
        uncached = golden.model.logits(case.ids + cached).argmax(-1).tolist()
        assert not case.greedy or cached == greedy, name
        assert cached == uncached[len(case.ids) - 1 :][: len(cached)], name


def test_padded_batches_are_the_originals(golden: Golden) -> None:
    if golden.batch is None:
        return
    batch, model = golden.batch, golden.model.model
    ids, padding = batch.ids.long(), batch.padding.long()
    with torch.inference_mode():
        off = (model(ids, padding=padding) - batch.logits).abs()
        real = torch.arange(ids.shape[1]) >= padding[:, None]
        assert float(off[real].max()) <= golden.tolerance

        rows, steps = batch.greedy.shape
        ids, padding = ids[:rows], padding[:rows]
        cache = model.new_cache(64, torch.float32, torch.device("cpu"), batch=rows)
        for step in range(steps):
            best = model(ids, cache, last_only=True, padding=padding)[:, -1].argmax(-1)
            wanted = batch.greedy[:, step].long()
            # a row that has ended goes on with padding, whatever the model would say
            said = batch.greedy[:, :step].tolist()
            ended = torch.tensor([not golden.ends.isdisjoint(row) for row in said])
            assert torch.equal(torch.where(ended, wanted, best), wanted)
            ids = wanted[:, None]


# ---- ChatGLM-6B's own


@pytest.fixture(scope="module")
def chatglm_6b() -> LoadedModel:
    return load(GOLDEN / "v1_tiny_sharded_fp16")


GREEDY = SamplingParams(temperature=0, max_new_tokens=8)
GMASK, SOP = 321, 324  # of the tiny model
QUESTION = [17, 62, 34, 101, 55]


def test_a_context_is_reused_whole_or_not_at_all(chatglm_6b: LoadedModel) -> None:
    prompt = [*QUESTION, GMASK, SOP]
    first = chatglm_6b.stream_ids(prompt, GREEDY)
    reply = list(first.ids())

    again = chatglm_6b.stream_ids(prompt, GREEDY)
    assert list(again.ids()) == reply
    assert again.result.stats.reused_tokens == len(prompt) - 1

    going_on = chatglm_6b.stream_ids(prompt + reply[:4], replace(GREEDY, max_new_tokens=4))
    assert list(going_on.ids()) == reply[4:]
    assert going_on.result.stats.reused_tokens >= len(prompt)

    # the same ids in a longer context have seen other things
    longer = [*QUESTION, 4, *reply, 4, *QUESTION, GMASK, SOP]
    other = chatglm_6b.stream_ids(longer, GREEDY)
    answer = list(other.ids())
    assert other.result.stats.reused_tokens == 0
    chatglm_6b.clear_cache()
    assert answer == list(chatglm_6b.stream_ids(longer, GREEDY).ids())


def test_reuse_ends_where_the_context_does(chatglm_6b: LoadedModel) -> None:
    reusable = chatglm_6b.model.reusable_prefix
    assert reusable([1, 2, SOP, 5, 6], [1, 2, SOP, 5, 7, 8]) == 4
    assert reusable([1, 2, SOP, 5, 6], [1, 2, SOP]) == 3
    assert reusable([1, 2, 3, SOP], [1, 2, SOP]) == 0
    assert reusable([], [1, 2, SOP]) == 0


def test_a_cache_cut_into_its_context_is_empty(chatglm_6b: LoadedModel) -> None:
    model = chatglm_6b.model
    cache = model.new_cache(32, torch.float32, torch.device("cpu"))
    with torch.inference_mode():
        model(torch.tensor([[*QUESTION, GMASK, SOP, 9, 9]]), cache)
    cache.trim(len(QUESTION) + 1)
    assert cache.offset == len(QUESTION) + 1
    cache.trim(len(QUESTION))
    assert cache.offset == 0


def test_a_prompt_without_its_marks_is_refused(chatglm_6b: LoadedModel) -> None:
    for ids in ([*QUESTION, SOP], [*QUESTION, GMASK]):
        with pytest.raises(EngineError, match="gMASK"):
            chatglm_6b.logits(ids)


def test_rows_of_image_tokens_stay_out_of_memory_unless_asked_for() -> None:
    slim = load(GOLDEN / "v1_twin_orig")
    assert slim.model.embedding.weight.shape == (288 - 64, 32)
    assert slim.model.skipped_bytes == 64 * 32 * 4
    assert slim.info.saved_bytes == slim.model.skipped_bytes
    options = LoadOptions(device="cpu", dtype="float32", quant=None, slim=False)
    whole = load_model(str(GOLDEN / "v1_twin_orig"), options)
    assert whole.info.saved_bytes == whole.model.skipped_bytes == 0
    expected = load_file(GOLDEN / "v1_twin_orig" / "golden.safetensors")
    ids = expected["ids.tw_2"].tolist()
    cut, full = slim.logits(ids), whole.logits(ids)
    assert float((full - expected["logits.tw_2"]).abs().max()) <= TOLERANCE["v1"]
    assert cut.shape == full.shape
    assert torch.allclose(cut[:, 64:], full[:, 64:], atol=1e-6)
    assert float(cut[:, :64].softmax(-1).max()) > 0  # finite
    assert float(cut.softmax(-1)[:, :64].max()) == 0


def test_image_rows_are_told_from_either_vocabulary() -> None:
    assert chatglm.image_rows({"bos_token_id": 130004, "pad_token_id": 3}) == 0
    assert chatglm.image_rows({"bos_token_id": 150004, "pad_token_id": 20003}) == 20_000
    # the first weeks' config.json has no padding, and code that never set it says 0
    assert chatglm.image_rows({"bos_token_id": 150004}) == 20_000
    assert chatglm.image_rows({"bos_token_id": 150004, "pad_token_id": 0}) == 20_000
    assert chatglm.image_rows({"bos_token_id": 130004}) == 0


def test_marks_of_the_first_releases_are_known_without_their_config() -> None:
    raw = json.loads((GOLDEN / "v1_twin_orig" / "config.json").read_bytes())
    for key in ("mask_token_id", "gmask_token_id"):
        del raw[key]
    early = raw | {"bos_token_id": 150004, "eos_token_id": 150005, "pad_token_id": 20003}
    assert chatglm.load_config(early).marks == (150001, 150000, 150004)
    assert chatglm.stop_ids(early) == {150005}


# ---- ChatGLM2's and 3's


def test_rope_ratio_means_another_thing_in_each_family() -> None:
    raw = json.loads((GOLDEN / "v2_32k_tiny" / "config.json").read_bytes())
    assert chatglm2.load_config(raw).position_scale == 16
    assert chatglm2.load_config(raw).rope_base == 10_000
    assert chatglm3.load_config(raw).position_scale == 1
    assert chatglm3.load_config(raw).rope_base == 160_000


def test_the_context_is_what_a_model_was_trained_on() -> None:
    raw = json.loads((GOLDEN / "v2_int4" / "config.json").read_bytes())
    assert raw["seq_length"] == 32768
    assert chatglm2.load_config(raw).context_length == 8192
    assert chatglm2.load_config(raw | {"rope_ratio": 16}).context_length == 32768
    assert chatglm3.load_config(raw).context_length == 32768


def test_a_decoder_of_another_shape_is_refused() -> None:
    raw = json.loads((GOLDEN / "v2_int4" / "config.json").read_bytes())
    with pytest.raises(UnsupportedModel, match="multi_query_attention"):
        chatglm2.load_config(raw | {"multi_query_attention": False})


@pytest.mark.parametrize("name", ["v1_int8", "v2_int4", "v3_int8", "glm4_tiny"])
def test_what_p_tuning_made_is_refused(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    shutil.copytree(GOLDEN / name, folder)
    raw = json.loads((folder / "config.json").read_bytes())
    (folder / "config.json").write_text(json.dumps(raw | {"pre_seq_len": 128}))
    with pytest.raises(UnsupportedModel, match=r"P-tuning.*128"):
        load(folder)
    (folder / "config.json").write_text(json.dumps(raw | {"pre_seq_len": None}))
    load(folder)
