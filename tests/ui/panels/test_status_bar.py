"""The status bar: one line of exactly the given width, with as many details as fit."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glmtui.engine.hardware.gpu import Gpu
from glmtui.engine.hardware.host_memory import HostMemory
from glmtui.engine.hardware.machine import Snapshot
from glmtui.ui.panels.device_memory import (
    DeviceMemory,
    measured_memories,
    memory_meter,
    nearly_equal,
)
from glmtui.ui.panels.status_bar import Status, context_meter, status_line
from glmtui.ui.widgets.meters import bar, format_gigabytes, format_token_count

GB = 10**9
FACTS = Status(
    "27 tok/s", "good", "smollm2", 512, 2048, (DeviceMemory("GPU", 24 * GB, 18 * GB, 6 * GB),)
)


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
def test_the_line_fills_its_width_exactly(
    width: int, gpus: int, state: str, model: str, used: int | None, limit: int | None
) -> None:
    from glmtui.sanitize import sanitize_line

    devices = tuple(DeviceMemory(f"GPU{n}", 80 * GB, n * 10 * GB, None) for n in range(gpus))
    line = status_line(
        Status(sanitize_line(state), "idle", sanitize_line(model), used, limit, devices), width
    )
    assert line.cell_length == width
    assert "\n" not in line.plain


@pytest.mark.parametrize("gpus", range(9))
def test_every_gpu_is_named_if_there_is_room(gpus: int) -> None:
    devices = tuple(DeviceMemory(f"GPU{n}", 80 * GB, 40 * GB, 0) for n in range(gpus))
    line = status_line(replace(FACTS, memories=devices), 120).plain
    assert all(f"GPU{n}" in line for n in range(gpus))


def test_of_eight_gpus_in_80_columns_the_fullest_is_shown() -> None:
    devices = tuple(DeviceMemory(f"GPU{n}", 100 * GB, n * 10 * GB) for n in range(8))
    assert "8 GPUs, fullest 70%" in status_line(replace(FACTS, memories=devices), 80).plain


def test_own_others_and_free_memory_differ_without_colour() -> None:
    assert memory_meter(DeviceMemory("GPU", 100, 60, 20), 3).plain.startswith("GPU ━━╍╍╍╍──── ")
    assert memory_meter(DeviceMemory("GPU", 100, 60, None), 3).plain.startswith("GPU ━━━━━━──── ")


def test_unknown_values_are_not_shown_as_zero() -> None:
    assert memory_meter(DeviceMemory("GPU", None, None), 3).plain == "GPU ────────── n/a"
    assert context_meter(None, 2048, 2).plain == "ctx n/a/2,048"
    assert context_meter(None, None, 2).plain == ""
    assert context_meter(700, None, 0).plain == "ctx 700"


def test_a_small_part_gets_a_cell_and_a_full_bar_is_full() -> None:
    assert bar([(0.001, "━", "red")], 10).plain == "━─────────"
    assert bar([(0.0, "━", "red")], 10).plain == "──────────"
    assert bar([(0.001, "━", "red"), (0.001, "╍", "red")], 10).plain == "━╍────────"
    assert bar([(1.0, "━", "red"), (0.5, "╍", "red")], 10).plain == "━━━━━━━━━━"


@given(st.lists(st.floats(0, 2), max_size=4), st.integers(0, 50))
def test_a_bar_has_its_width(shares: list[float], width: int) -> None:
    assert bar([(share, "━", "red") for share in shares], width).cell_length == width


def test_a_nearly_full_context_has_another_colour() -> None:
    styles = [{str(span.style) for span in context_meter(n, 1000, 3).spans} for n in (849, 851)]
    assert "$warning" not in styles[0]
    assert "$warning" in styles[1]


@pytest.mark.parametrize(
    ("count", "text"), [(None, "n/a"), (0, "0"), (12_288, "12,288"), (131_072, "131k")]
)
def test_token_counts_are_formatted(count: int | None, text: str) -> None:
    assert format_token_count(count) == text


@pytest.mark.parametrize(
    ("nbytes", "text"), [(0, "0.0"), (15_640_000_000, "15.6"), (192 * GB, "192")]
)
def test_gigabytes_are_formatted(nbytes: int, text: str) -> None:
    assert format_gigabytes(nbytes) == text


def test_meters_show_the_gpus_or_else_the_host() -> None:
    host = HostMemory(16 * GB, 10 * GB, 2 * GB)
    assert measured_memories(Snapshot((), host)) == (
        DeviceMemory("RAM", 16 * GB, 6 * GB, 2 * GB, "cpu"),
    )
    assert measured_memories(Snapshot((), HostMemory())) == (
        DeviceMemory("RAM", None, None, None, "cpu"),
    )
    gpu = Gpu(0, "H200", 100, 30, 70, None)
    assert measured_memories(Snapshot((gpu,), host)) == (
        DeviceMemory("GPU", 100, 30, None, "cuda:0"),
    )
    two = measured_memories(Snapshot((gpu, replace(gpu, index=1)), host))
    assert [memory.name for memory in two] == ["GPU0", "GPU1"]


def test_small_memory_changes_are_not_redrawn() -> None:
    before = (DeviceMemory("GPU0", 1000, 500, None), DeviceMemory("GPU1", 1000, None, None))
    assert nearly_equal(before, before)
    assert nearly_equal((replace(before[0], used=504), before[1]), before)
    assert not nearly_equal((replace(before[0], used=506), before[1]), before)
    assert not nearly_equal((before[0], replace(before[1], used=0)), before)
    assert not nearly_equal(before[:1], before)
    assert not nearly_equal(before, ())
