"""GPTQ checkpoints: by the format's definition, and as a current tool writes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

from glmtui.engine import LoadOptions, load_model
from glmtui.engine.checkpoint.checkpoint import Checkpoint
from glmtui.engine.checkpoint.gptq import GptqFormat, read_gptq_format, unpack_gptq
from glmtui.engine.nn.linear import ReorderedLinear, make_linear
from glmtui.engine.nn.packed_weight import PackedWeight, concat_rows
from glmtui.errors import BadCheckpoint, UnsupportedModel
from support.gptq_folders import MADE_BY_A_TOOL
from support.weights import random_weight

BITS = (4, 8)
V1 = {bits: read_gptq_format({"bits": bits}) for bits in BITS}
V2 = {bits: read_gptq_format({"bits": bits, "checkpoint_format": "gptq_v2"}) for bits in BITS}


def int32(word: int) -> int:
    """The 32 bits as a signed number."""
    return (word + 2**31) % 2**32 - 2**31


def words(numbers: list[int], bits: int = 4, *, less: int = 0) -> list[int]:
    """As many numbers as fit to a word, the first lowest; `less` is subtracted from each number.

    By whole words, so that one below 0 borrows from the next.
    """
    n = 32 // bits
    return [
        int32(sum((number - less) << bits * i for i, number in enumerate(numbers[at : at + n])))
        for at in range(0, len(numbers), n)
    ]


def layer(
    rows: int,
    columns: int,
    group: int,
    bits: int = 4,
    *,
    act_order: bool = False,
    v1: bool = True,
    zeros: Tensor | None = None,
) -> tuple[dict[str, Tensor], Tensor]:
    """The four tensors of a layer as GPTQ's definition has them, and the weight they mean."""
    random = torch.Generator().manual_seed(rows + columns)
    groups = -(-columns // group)
    q = torch.randint(0, 2**bits, (rows, columns), generator=random)
    if zeros is None:
        zeros = torch.randint(0, 2**bits, (rows, groups), generator=random)
    scales = (torch.rand(rows, groups, generator=random) * 0.1 + 0.01).half()
    g_idx = torch.arange(columns) // group
    if act_order:
        g_idx = g_idx[torch.randperm(columns, generator=random)]
    padded = F.pad(zeros, (0, 0, 0, -rows % (32 // bits)))
    tensors = {
        "qweight": torch.tensor([words(row, bits) for row in q.tolist()], dtype=torch.int32).t(),
        "qzeros": torch.tensor(
            [words(z, bits, less=int(v1)) for z in padded.t().tolist()], dtype=torch.int32
        ),
        "scales": scales.t(),
        "g_idx": g_idx.int(),
    }
    weight = (q - zeros[:, g_idx]).float() * scales.float()[:, g_idx]
    return {name: tensor.contiguous() for name, tensor in tensors.items()}, weight


def unpacked(tensors: dict[str, Tensor], packing: GptqFormat = V1[4]) -> PackedWeight:
    return unpack_gptq(**{"g_idx": None} | tensors, packing=packing)


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("v1", [True, False])
@pytest.mark.parametrize("act_order", [True, False])
@pytest.mark.parametrize(
    ("rows", "columns", "group"), [(16, 128, 32), (24, 96, 96), (8, 144, 64), (20, 64, 32)]
)
def test_it_is_read_without_loss(
    rows: int, columns: int, group: int, act_order: bool, v1: bool, bits: int
) -> None:
    tensors, weight = layer(rows, columns, group, bits, act_order=act_order, v1=v1)
    packed = unpacked(tensors, V1[bits] if v1 else V2[bits])
    assert packed.bits == bits
    assert packed.group == (16 if columns == 144 else group)  # 144 is 64 + 64 + 16
    assert (packed.order is None) == (not act_order or group >= columns)
    assert torch.equal(packed.dequantize(torch.float32), weight)
    assert torch.equal(packed[3:7].dequantize(torch.float32), weight[3:7])


def test_the_first_format_borrows_between_zero_points() -> None:
    """A zero point of 0, less one, takes from its neighbour; adding to the word gives it back."""
    tensors, weight = layer(8, 32, 32, zeros=torch.tensor([[0, 8, 0, 0, 15, 0, 1, 8]]).t())
    assert torch.equal(unpacked(tensors).dequantize(torch.float32), weight)


def test_the_first_format_borrows_between_zero_points_of_8_bits() -> None:
    zeros = torch.tensor([[0, 128, 0, 0, 255, 0, 1, 128]]).t()
    tensors, weight = layer(8, 32, 32, 8, zeros=zeros)
    assert torch.equal(unpacked(tensors, V1[8]).dequantize(torch.float32), weight)


def test_8_bits_around_128_need_no_zero_points() -> None:
    tensors, weight = layer(8, 64, 64, 8, zeros=torch.full((8, 1), 128))
    assert set(tensors["qzeros"].flatten().tolist()) == {0x7F7F7F7F}  # as the tools write it
    packed = unpacked(tensors, V1[8])
    assert packed.zero is None
    assert packed.kind == "int8"
    assert torch.equal(packed.dequantize(torch.float32), weight)
    # the numbers by hand: the first word of the first row holds columns 0 to 3
    word = int(tensors["qweight"][0, 0]) % 2**32
    assert packed.q[0, :4].tolist() == [(word >> 8 * i & 255) - 128 for i in range(4)]


def test_groups_that_are_not_said() -> None:
    tensors, weight = layer(16, 128, 32)
    del tensors["g_idx"]
    assert torch.equal(unpacked(tensors).dequantize(torch.float32), weight)
    nothing = tensors | {"g_idx": torch.zeros(128, dtype=torch.int32)}
    assert torch.equal(unpacked(nothing).dequantize(torch.float32), weight)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_products_take_inputs_in_the_weights_order(dtype: torch.dtype) -> None:
    tensors, weight = layer(16, 128, 32, act_order=True)
    linear = make_linear(unpacked(tensors), None, dtype)
    assert isinstance(linear, ReorderedLinear)
    for tokens in (1, 9):
        x = random_weight(tokens, 128).to(dtype)
        exact = F.linear(x.double(), weight.double())
        allowed = 1e-4 if dtype == torch.float32 else 0.02 * float(exact.std()) * 3
        assert float((linear(x).double() - exact).abs().max()) < allowed


def test_parts_of_one_layer_keep_a_common_order_and_else_are_unpacked() -> None:
    one, other = layer(16, 128, 32, act_order=True), layer(8, 128, 32, act_order=True)
    parts = [unpacked(tensors) for tensors, _ in (one, other)]
    mixed = concat_rows(parts, torch.float32)
    assert isinstance(mixed, Tensor)
    assert torch.equal(mixed, torch.cat((one[1], other[1])))
    same = concat_rows([parts[0], parts[0][:4]], torch.float32)
    assert isinstance(same, PackedWeight)
    assert torch.equal(same.dequantize(torch.float32), torch.cat((one[1], one[1][:4])))


# ---- as a tool writes them


@pytest.mark.parametrize(
    ("name", "kind"),
    [("act_order", "int4 g32"), ("in_order_v2", "int4 g32"), ("act_order_8_bits", "int8 g32")],
)
def test_logits_are_the_tools(name: str, kind: str) -> None:
    expected = load_file(MADE_BY_A_TOOL / name / "logits.safetensors")
    folder = str(MADE_BY_A_TOOL / name)
    ids = expected["ids"].tolist()
    exact = load_model(folder, LoadOptions(device="cpu", dtype="float32"))
    assert float((exact.logits(ids) - expected["logits"]).abs().max()) < 1e-2
    packed = load_model(folder, LoadOptions(device="cpu", dtype="bfloat16"))
    assert packed.info.quant == kind
    assert float((packed.logits(ids) - expected["logits"]).std()) < 0.04


def test_activation_order_is_read_where_the_tool_used_it() -> None:
    for name in ("act_order", "in_order_v2"):
        folder = MADE_BY_A_TOOL / name
        checkpoint = Checkpoint(folder, json.loads((folder / "config.json").read_bytes()))
        weight = checkpoint.read_weight("model.layers.0.mlp.down_proj.weight")
        assert isinstance(weight, PackedWeight)
        assert (weight.order is not None) == (name == "act_order")


# ---- what is refused


def stored(folder: Path, config: dict[str, Any] | None, **edits: Tensor) -> Checkpoint:
    tensors = {f"a.{part}": tensor for part, tensor in (layer(16, 64, 32)[0] | edits).items()}
    save_file(tensors, folder / "model.safetensors")
    return Checkpoint(folder, {} if config is None else {"quantization_config": config})


def test_the_config_may_lie_in_a_file_of_its_own(tmp_path: Path) -> None:
    config = {"bits": 4, "group_size": 32, "desc_act": False}  # as AutoGPTQ's first files
    (tmp_path / "quantize_config.json").write_text(json.dumps(config))
    weight = stored(tmp_path, None).read_weight("a.weight")
    assert isinstance(weight, PackedWeight)
    assert torch.equal(weight.dequantize(torch.float32), layer(16, 64, 32)[1])


def test_a_checkpoint_of_8_bits(tmp_path: Path) -> None:
    tensors, weight = layer(16, 64, 32, 8, act_order=True)
    config = {"quant_method": "gptq", "bits": 8, "desc_act": True}
    read = stored(tmp_path, config, **tensors).read_weight("a.weight")
    assert isinstance(read, PackedWeight)
    assert (read.kind, read.order is None) == ("int8 g32", False)
    assert torch.equal(read.dequantize(torch.float32), weight)


@pytest.mark.parametrize(
    "config",
    [
        {"quant_method": "awq", "bits": 4},
        {"quant_method": "gptq", "bits": 3},
        {"quant_method": "gptq", "bits": "8"},
        {"quant_method": "gptq", "bits": 4, "checkpoint_format": "marlin"},
        {"quant_method": "fp8"},
    ],
)
def test_other_ways_are_refused_by_name(tmp_path: Path, config: dict[str, Any]) -> None:
    with pytest.raises(UnsupportedModel, match=str(config["quant_method"])):
        stored(tmp_path, config)


def test_packing_that_nothing_is_said_of(tmp_path: Path) -> None:
    with pytest.raises(BadCheckpoint, match=r"quantize_config\.json"):
        stored(tmp_path, None).read_weight("a.weight")


@pytest.mark.parametrize(
    "damage",
    [
        {"scales": torch.ones(2, 8).half()},
        {"qzeros": torch.zeros(3, 2, dtype=torch.int32)},
        {"g_idx": torch.full((64,), 2, dtype=torch.int32)},
        {"g_idx": torch.zeros(60, dtype=torch.int32) + 1},
        {"g_idx": torch.full((64,), -1, dtype=torch.int32)},
        {"qweight": torch.zeros(8, 16)},
        {"scales": torch.ones(16).half()},
    ],
)
def test_tensors_that_do_not_fit(tmp_path: Path, damage: dict[str, Tensor]) -> None:
    with pytest.raises(BadCheckpoint, match="GPTQ"):
        stored(tmp_path, {"quant_method": "gptq", "bits": 4}, **damage).read_weight("a.weight")


def test_a_missing_part(tmp_path: Path) -> None:
    tensors = {f"a.{part}": tensor for part, tensor in layer(16, 64, 32)[0].items()}
    del tensors["a.scales"]
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(BadCheckpoint, match=r"no tensor a\.scales"):
        Checkpoint(tmp_path, {"quantization_config": {"bits": 4}}).read_weight("a.weight")
