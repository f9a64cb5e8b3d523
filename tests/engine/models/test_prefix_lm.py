"""Masks and positions of a prefix language model, by hand and as the original computes them."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file

from glmtui.engine.models.prefix_lm import MarkerIds, Prefix, PrefixLMCache
from glmtui.errors import EngineError
from support.goldens import SHARED_MODELS, read_shared_json

GMASK, MASK, SOP = 90, 91, 92
MARKERS = MarkerIds(GMASK, MASK, SOP)


def prefix(*ids: int) -> Prefix:
    return Prefix.from_ids(torch.tensor([ids]), MARKERS, None)


def mask_rows(context: Prefix, start: int, length: int) -> list[str]:
    """The rows of the mask; 1 is a visible token."""
    mask = context.mask(start, length, torch.float32)
    assert mask is not None
    return ["".join("1" if value == 0 else "." for value in row) for row in mask[0, 0].tolist()]


def test_the_context_sees_itself_and_the_block_sees_what_is_before_it() -> None:
    context = prefix(5, GMASK, SOP, 7)
    assert context.positions(0, 4)[0].tolist() == [[0, 0], [1, 0], [1, 1], [1, 2]]
    assert mask_rows(context, 0, 4) == ["11..", "11..", "111.", "1111"]
    # the same for later tokens
    assert context.positions(4, 2)[0].tolist() == [[1, 3], [1, 4]]
    assert mask_rows(context, 4, 2) == ["11111.", "111111"]
    assert context.mask(6, 1, torch.float32) is None


@pytest.mark.parametrize(
    ("ids", "place"),
    [
        ((5, MASK, 6, SOP, 7), 1),
        ((MASK, 5, GMASK, SOP, 7), 2),  # [gMASK] wins over [MASK], whatever their order
        ((GMASK, 5, GMASK, SOP, 7), 0),  # the first of two
        ((5, GMASK, SOP, 7, SOP), 1),  # a later <sop> is part of the block
    ],
)
def test_the_block_stands_where_the_mask_is(ids: tuple[int, ...], place: int) -> None:
    positions = prefix(*ids).positions(0, len(ids))[0]
    block = ids.index(SOP)
    assert positions[:block].tolist() == [[i, 0] for i in range(block)]
    assert positions[block:].tolist() == [[place, i + 1] for i in range(len(ids) - block)]


def test_padding_is_hidden_and_has_no_positions() -> None:
    ids = torch.tensor([[3, 3, 5, GMASK, SOP], [5, 6, 7, GMASK, SOP]])
    both = Prefix.from_ids(ids, MARKERS, torch.tensor([2, 0]))
    assert both.positions(0, 5)[0].tolist() == [[0, 0], [0, 0], [0, 0], [1, 0], [1, 1]]
    assert both.positions(0, 5)[1].tolist() == [[0, 0], [1, 0], [2, 0], [3, 0], [3, 1]]
    mask = both.mask(0, 5, torch.float32)
    assert mask is not None
    assert torch.isinf(mask[0, 0, 2:, :2]).all()
    assert not torch.isinf(mask[0, 0, :2]).any()  # or softmax would divide by zero
    later = both.mask(5, 1, torch.float32)
    assert later is not None
    assert torch.isinf(later[:, 0, 0]).tolist() == [[True] * 2 + [False] * 4, [False] * 6]


def test_a_forked_cache_has_its_own_context() -> None:
    cache = PrefixLMCache(1, 1, 4, 64, dtype=torch.float32, device=torch.device("cpu"))
    cache.prefix = prefix(5, GMASK, SOP, 7)
    cache.advance(4)
    first = cache.tensors()
    twin = cache.fork(4)
    assert isinstance(twin, PrefixLMCache)
    twin.trim(0)
    twin.prefix = prefix(5, 6, 8, GMASK, SOP)
    assert cache.prefix.positions(4, 1).tolist() == [[[1, 3]]]
    assert twin.prefix.positions(5, 1).tolist() == [[[3, 2]]]
    cache.trim(0)
    cache.prefix = prefix(5, 6, GMASK, SOP)
    assert cache.prefix.positions(4, 1).tolist() == [[[2, 2]]]
    assert all(a is b for a, b in zip(cache.tensors(), first, strict=True))


def test_ids_without_markers_are_refused() -> None:
    for ids in ((5, 6), (5, SOP), (5, GMASK)):
        with pytest.raises(EngineError, match="gMASK"):
            prefix(*ids)


# ---- the larger set, if it is at ../shared


@pytest.mark.parametrize("name", ["v1_tiny", "v1_deep28", "v1_twin_orig", "v1_realvocab_slim"])
def test_masks_and_positions_are_the_originals(name: str) -> None:
    config = read_shared_json("models", name, "config.json")
    markers = MarkerIds(config["gmask_token_id"], config["mask_token_id"], config["bos_token_id"])
    folder = SHARED_MODELS / name
    expected = load_file(folder / "expected.safetensors")
    for case in json.loads((folder / "cases.json").read_bytes())["cases"]:
        ids = torch.tensor([case["input_ids"]])
        context = Prefix.from_ids(ids, markers, None)
        positions = expected[f"position_ids.{case['name']}"].T
        hidden = expected[f"attention_masked.{case['name']}"].bool()
        mask = context.mask(0, ids.shape[1], torch.float32)
        assert torch.equal(context.positions(0, ids.shape[1])[0], positions.long()), case["name"]
        assert mask is not None
        assert torch.equal(torch.isinf(mask[0, 0]), hidden), case["name"]


def test_padded_batches_have_the_masks_of_the_original() -> None:
    expected = read_shared_json("tokenizer", "padding.json")["v1"]
    ids = torch.tensor(expected["input_ids"])
    padding = (ids == 3).int().cumprod(1).sum(1)
    context = Prefix.from_ids(ids, MarkerIds(130001, 130000, 130004), padding)
    mask = context.mask(0, ids.shape[1], torch.float32)
    assert mask is not None
    assert torch.equal(
        context.positions(0, ids.shape[1]).mT, torch.tensor(expected["position_ids"])
    )
    for row, first in enumerate(padding.tolist()):
        hidden = [
            [c == "1" for c in line] for line in expected["attention_masked_rows_as_strings"][row]
        ]
        assert torch.equal(torch.isinf(mask[row, 0, first:]), torch.tensor(hidden)[first:])
