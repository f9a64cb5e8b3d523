"""The status line: always one line of the width it has, richest first."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glmtui.engine.hardware.gpu import Gpu
from glmtui.engine.hardware.host_memory import HostMemory
from glmtui.engine.hardware.machine import Snapshot
from glmtui.ui.panels.device_memory import Memory, memories, memory_meter, much_the_same
from glmtui.ui.panels.status_bar import Facts, context_meter, status_line
from glmtui.ui.widgets.meters import bar, gigabytes, tokens

GB = 10**9
FACTS = Facts("27 tok/s", "good", "smollm2", 512, 2048, (Memory("GPU", 24 * GB, 18 * GB, 6 * GB),))


def test_one_gpu_at_80_columns() -> None:
    line = status_line(FACTS, 80).plain
    assert line.startswith(" 27 tok/s  smollm2 ")
    assert line.endswith("ctx ━━────── 512/2,048   GPU ━━╍╍╍╍╍╍── 18.0/24.0 GB ")


@given(
    st.integers(1, 250),
    st.integers(0, 8),
    st.text(max_size=60),
    st.text(max_size=60),
    st.none() | st.integers(0, 10**7),
    st.none() | st.integers(0, 10**7),
)
def test_it_fills_its_width_exactly_whatever_it_says(
    width: int, gpus: int, state: str, model: str, used: int | None, limit: int | None
) -> None:
    from glmtui.sanitize import sanitize_line

    devices = tuple(Memory(f"GPU{n}", 80 * GB, n * 10 * GB, None) for n in range(gpus))
    line = status_line(
        Facts(sanitize_line(state), "calm", sanitize_line(model), used, limit, devices), width
    )
    assert line.cell_length == width
    assert "\n" not in line.plain


@pytest.mark.parametrize("gpus", range(9))
def test_every_gpu_is_named_where_there_is_room(gpus: int) -> None:
    devices = tuple(Memory(f"GPU{n}", 80 * GB, 40 * GB, 0) for n in range(gpus))
    line = status_line(replace(FACTS, memories=devices), 120).plain
    assert all(f"GPU{n}" in line for n in range(gpus))


def test_of_eight_gpus_in_80_columns_the_fullest_is_shown() -> None:
    devices = tuple(Memory(f"GPU{n}", 100 * GB, n * 10 * GB) for n in range(8))
    assert "8 GPUs, fullest 70%" in status_line(replace(FACTS, memories=devices), 80).plain


def test_ours_others_and_free_are_told_apart_without_colour() -> None:
    assert memory_meter(Memory("GPU", 100, 60, 20), 3).plain.startswith("GPU ━━╍╍╍╍──── ")
    assert memory_meter(Memory("GPU", 100, 60, None), 3).plain.startswith("GPU ━━━━━━──── ")


def test_what_is_not_known_is_not_called_zero() -> None:
    assert memory_meter(Memory("GPU", None, None), 3).plain == "GPU ────────── n/a"
    assert context_meter(None, 2048, 2).plain == "ctx n/a/2,048"
    assert context_meter(None, None, 2).plain == ""
    assert context_meter(700, None, 0).plain == "ctx 700"


def test_a_little_is_not_nothing_and_all_is_all() -> None:
    assert bar([(0.001, "━", "red")], 10).plain == "━─────────"
    assert bar([(0.0, "━", "red")], 10).plain == "──────────"
    assert bar([(0.001, "━", "red"), (0.001, "╍", "red")], 10).plain == "━╍────────"
    assert bar([(1.0, "━", "red"), (0.5, "╍", "red")], 10).plain == "━━━━━━━━━━"


@given(st.lists(st.floats(0, 2), max_size=4), st.integers(0, 50))
def test_a_bar_has_its_width(shares: list[float], width: int) -> None:
    assert bar([(share, "━", "red") for share in shares], width).cell_length == width


def test_a_nearly_full_context_is_said_in_another_colour() -> None:
    styles = [{str(span.style) for span in context_meter(n, 1000, 3).spans} for n in (849, 851)]
    assert "$warning" not in styles[0]
    assert "$warning" in styles[1]


@pytest.mark.parametrize(
    ("count", "text"), [(None, "n/a"), (0, "0"), (12_288, "12,288"), (131_072, "131k")]
)
def test_counts_of_tokens(count: int | None, text: str) -> None:
    assert tokens(count) == text


@pytest.mark.parametrize(
    ("nbytes", "text"), [(0, "0.0"), (15_640_000_000, "15.6"), (192 * GB, "192")]
)
def test_gigabytes(nbytes: int, text: str) -> None:
    assert gigabytes(nbytes) == text


def test_meters_are_of_the_gpus_or_where_there_is_none_of_the_host() -> None:
    host = HostMemory(16 * GB, 10 * GB, 2 * GB)
    assert memories(Snapshot((), host)) == (Memory("RAM", 16 * GB, 6 * GB, 2 * GB, "cpu"),)
    assert memories(Snapshot((), HostMemory())) == (Memory("RAM", None, None, None, "cpu"),)
    gpu = Gpu(0, "H200", 100, 30, 70, None)
    assert memories(Snapshot((gpu,), host)) == (Memory("GPU", 100, 30, None, "cuda:0"),)
    two = memories(Snapshot((gpu, replace(gpu, index=1)), host))
    assert [memory.name for memory in two] == ["GPU0", "GPU1"]


def test_memory_that_hardly_moves_is_not_drawn_again() -> None:
    before = (Memory("GPU0", 1000, 500, None), Memory("GPU1", 1000, None, None))
    assert much_the_same(before, before)
    assert much_the_same((replace(before[0], used=504), before[1]), before)
    assert not much_the_same((replace(before[0], used=506), before[1]), before)
    assert not much_the_same((before[0], replace(before[1], used=0)), before)
    assert not much_the_same(before[:1], before)
    assert not much_the_same(before, ())
