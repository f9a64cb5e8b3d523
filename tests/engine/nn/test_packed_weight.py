"""Weights in 4 and 8 bits: packing is exact, and errors of quantization are bounded."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from glmtui.engine.nn.packed_weight import (
    CPU_BLOCK,
    PackedWeight,
    concat_rows,
    quantize,
    row_blocks,
)
from glmtui.errors import BadCheckpoint
from support.weights import random_int4, random_weight


@given(st.lists(st.integers(0, 15), min_size=8, max_size=8))
def test_even_columns_are_in_the_low_half_of_a_byte(numbers: list[int]) -> None:
    packed = [low | high << 4 for low, high in zip(numbers[::2], numbers[1::2], strict=True)]
    weight = PackedWeight(torch.tensor([packed], dtype=torch.uint8), torch.ones(1, 1))
    assert weight.integers().tolist() == [numbers]
    assert weight.dequantize(torch.float32).tolist() == [numbers]
    assert weight.shape == (1, 8)


def test_a_weight_is_q_times_scale_plus_zero() -> None:
    four = PackedWeight(
        torch.tensor([[0x10, 0x32], [0xFE, 0x0D]], dtype=torch.uint8),
        torch.tensor([[0.5, 2.0], [1.0, 0.25]]),
        torch.tensor([[-1.0, 0.0], [0.0, 8.0]]),
    )
    assert four.dequantize(torch.float32).tolist() == [[-1, -0.5, 4, 6], [14, 15, 11.25, 8]]
    eight = PackedWeight(
        torch.tensor([[-127, 0, 5, 127]], dtype=torch.int8), torch.tensor([[2.0, 0.5]])
    )
    assert eight.dequantize(torch.float32).tolist() == [[-254, 0, 2.5, 63.5]]


def test_the_properties_of_a_packed_weight() -> None:
    weight = random_int4(6, 128, 32)
    assert (weight.bits, weight.group, weight.kind) == (4, 32, "int4 g32")
    assert weight.nbytes == 6 * 64 + 2 * (6 * 4 * 2)
    whole = quantize(random_weight(6, 128), 8)
    assert (whole.bits, whole.group, whole.kind) == (8, 128, "int8")
    assert whole.nbytes == 6 * 128 + 6 * 2


@pytest.mark.parametrize("scales", [(5, 4), (6, 3)])
def test_scales_that_do_not_match_are_rejected(scales: tuple[int, int]) -> None:
    with pytest.raises(BadCheckpoint, match="do not match"):
        PackedWeight(torch.zeros(6, 64, dtype=torch.uint8), torch.ones(scales))


def test_rows_can_be_sliced_and_concatenated() -> None:
    weight = random_int4(10, 64, 32)
    whole = weight.dequantize(torch.float32)
    assert torch.equal(weight[2:7].dequantize(torch.float32), whole[2:7])
    again = PackedWeight.cat([weight[:3], weight[3:4], weight[4:]])
    assert torch.equal(again.dequantize(torch.float32), whole)
    without = random_int4(4, 64, 32, zero=False)
    assert PackedWeight.cat([without, without]).zero is None


def test_regrouping_does_not_change_the_weight() -> None:
    for zero in (True, False):
        weight = random_int4(6, 128, 128, zero=zero)
        for group in (128, 64, 32):
            finer = weight.regroup(group)
            assert finer.group == group
            assert torch.equal(finer.dequantize(torch.float32), weight.dequantize(torch.float32))


def test_concatenation_keeps_parts_of_one_format_packed_and_unpacks_others() -> None:
    four, eight, plain = (
        random_int4(4, 64, 32),
        quantize(random_weight(3, 64), 8),
        random_weight(2, 64),
    )
    assert isinstance(concat_rows([four, four], torch.float16), PackedWeight)
    for parts in (
        [four, eight],
        [four, random_int4(4, 64, 64)],
        [four, random_int4(4, 64, 32, zero=False)],
    ):
        whole = concat_rows(parts, torch.float16)
        assert isinstance(whole, Tensor)
        assert torch.equal(whole, torch.cat([p.dequantize(torch.float16) for p in parts]))
    assert torch.equal(concat_rows([plain, eight], torch.float32)[:2], plain)  # type: ignore[arg-type]
    assert concat_rows([plain], torch.float16) is plain


def test_blocks_cover_all_rows_once() -> None:
    for shape, multiple in (((10, 8), 1), ((5000, 2048), 64), ((3, 2 * CPU_BLOCK), 1)):
        blocks = list(row_blocks(shape, multiple))
        rows = [row for block in blocks for row in range(shape[0])[block]]
        assert rows == list(range(shape[0]))
        assert all((block.stop - block.start) % multiple == 0 for block in blocks[:-1])
    assert len(list(row_blocks((5000, 2048), 64))) > 1


def test_rows_beyond_a_block_are_quantized_in_the_same_way() -> None:
    columns = 8192
    rows = CPU_BLOCK // columns + 3
    weight = random_weight(rows, columns)
    for bits, group in ((4, 64), (8, None)):
        packed = quantize(weight, bits, group)
        last = quantize(weight[-5:], bits, group)
        assert torch.equal(packed.q[-5:], last.q)
        whole = packed.dequantize(torch.bfloat16)
        assert torch.equal(whole[-5:], last.dequantize(torch.bfloat16))


def test_unpacking_rounds_once() -> None:
    weight = random_int4(16, 128, 32)
    exact = weight.dequantize(torch.float32)
    for dtype in (torch.bfloat16, torch.float16):
        assert torch.equal(weight.dequantize(dtype), exact.to(dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_the_error_of_8_bits_is_at_most_half_a_step(dtype: torch.dtype) -> None:
    weight = random_weight(40, 96).to(dtype)
    packed = quantize(weight, 8)
    step = weight.float().abs().amax(1, keepdim=True) / 127
    error = (packed.dequantize(torch.float32) - weight.float()).abs()
    # and more for the largest values, because the scale is rounded to float16 and q clamped to 127
    assert bool((error <= step * (0.5 + 127 * 2**-11)).all())


@pytest.mark.parametrize("group", [32, 64, None])
def test_the_error_of_4_bits_is_at_most_half_a_step(group: int | None) -> None:
    weight = random_weight(40, 192) + 0.3
    packed = quantize(weight, 4, group)
    assert packed.group == (group or 192)
    grouped = weight.view(40, -1, packed.group)
    spread = (grouped.amax(-1) - grouped.amin(-1)).unsqueeze(-1)
    error = (packed.dequantize(torch.float32).view_as(grouped) - weight.view_as(grouped)).abs()
    assert bool((error <= spread / 15 * 0.51).all())


def test_groups_are_reduced_to_a_divisor_of_the_row() -> None:
    assert quantize(random_weight(2, 176), 4, 64).group == 16
    assert quantize(random_weight(2, 192), 4, 128).group == 64


def test_groups_of_equal_values_are_exact() -> None:
    for value in (0.0, 1.0, -0.25):
        weight = torch.full((3, 64), value)
        assert torch.equal(quantize(weight, 4, 32).dequantize(torch.float32), weight)
    nothing = torch.zeros(3, 64)
    assert torch.equal(quantize(nothing, 8).dequantize(torch.float32), nothing)


def test_4_bits_are_most_precise_in_important_columns() -> None:
    weight, importance = random_weight(40, 192), random_weight(1, 192, seed=2)[0].abs() ** 6 + 1e-3
    plain = quantize(weight, 4, 32).dequantize(torch.float32) - weight
    packed = quantize(weight, 4, 32, importance)
    error = packed.dequantize(torch.float32) - weight
    assert float((error.square() * importance).sum()) < 0.5 * float(
        (plain.square() * importance).sum()
    )
    assert float(error.square().sum()) < 2 * float(plain.square().sum())
    alike = quantize(weight, 4, 32, torch.ones(192)).dequantize(torch.float32) - weight
    assert float(alike.square().sum()) < 0.91 * float(plain.square().sum())
    blind = quantize(weight, 4, 32, torch.zeros(192)).dequantize(torch.float32) - weight
    assert float(blind.square().sum()) < 1.1 * float(plain.square().sum())


def test_a_grid_of_16_values_is_kept_with_any_importance() -> None:
    importance = random_weight(1, 128, seed=2)[0].square()
    weight = random_int4(20, 128, 32)
    weight.q[:, ::16] = 0xF0  # each group has both ends of its grid
    whole = weight.dequantize(torch.float32)
    error = quantize(whole, 4, 32, importance).dequantize(torch.float32) - whole
    assert float(error.abs().max()) <= float(whole.abs().max()) * 2**-10
