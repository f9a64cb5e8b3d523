"""Memory of the devices: its parts, the growth of the KV cache, warnings and statistics."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glmtui.chat import GenerationStats, Message, last_turns
from glmtui.engine.model_info import LoadedInfo
from glmtui.ui.panels import stats
from glmtui.ui.panels.device_memory import (
    DeviceMemory,
    ModelMemory,
    memory_bar,
    memory_meter,
    memory_parts,
    model_memory,
    with_model_memory,
)
from glmtui.ui.widgets.meters import sparkline
from support.app_pilot import SERVER, AppDriver, folders, run_app
from support.fake_engine import FakeEngine

__all__ = ["folders"]

MODEL = LoadedInfo("glm", "cuda:0", context_length=1000, weight_bytes=30, kv_bytes_per_token=1)
GPU = DeviceMemory(
    "GPU", 100, 60, 40, "cuda:0", ModelMemory("cuda:0", weights=30, cache=10, full=40)
)


def test_model_memory_is_computed_from_the_model_info() -> None:
    assert model_memory(MODEL, 200, 1000) == ModelMemory("cuda:0", 30, 200, 1000)
    assert model_memory(None, 200, 1000) is None
    assert model_memory(LoadedInfo("s", "http://x"), 200, 1000) is None, "a server does not say"


def test_model_memory_belongs_to_the_device_of_the_model() -> None:
    both = with_model_memory([replace(GPU, device="cuda:1"), replace(GPU, model=None)], GPU.model)
    assert [memory.model for memory in both] == [None, GPU.model]


def test_all_five_parts_differ_without_colour() -> None:
    assert [(nbytes, glyph) for nbytes, glyph, _ in memory_parts(GPU)] == [
        (30, "━"),
        (10, "═"),
        (20, "╍"),
        (30, "┄"),
    ]
    assert memory_bar(GPU, 10).plain == "━━━═╍╍┄┄┄─"


def test_without_driver_numbers_the_model_count_is_used() -> None:
    assert [nbytes for nbytes, *_ in memory_parts(replace(GPU, ours=None))] == [30, 10, 20, 30]


@given(st.integers(0, 100), st.none() | st.integers(0, 100), st.integers(0, 90), st.integers(0, 90))
def test_the_used_parts_add_up_to_the_used_memory(
    used: int, ours: int | None, weights: int, cache: int
) -> None:
    memory = DeviceMemory(
        "GPU", 100, used, ours, "cuda:0", ModelMemory("cuda:0", weights, cache, 2 * cache)
    )
    *in_use, to_come = [nbytes for nbytes, *_ in memory_parts(memory)]
    assert sum(in_use) == used
    assert min(in_use) >= 0
    assert to_come == cache


@pytest.mark.parametrize(("used", "lacking"), [(60, 0), (70, 0), (71, 1), (95, 25)])
def test_the_meter_warns_if_the_full_context_will_not_fit(used: int, lacking: int) -> None:
    memory = replace(GPU, used=used)
    assert memory.shortfall == lacking
    styles = {str(span.style) for span in memory_meter(memory, 3).spans}
    assert ("$text-warning" in styles) == bool(lacking)


def test_memory_is_low_once_little_is_free() -> None:
    assert not replace(GPU, used=75).is_low
    assert replace(GPU, used=95).is_low


def test_the_last_turns_begin_with_the_last_questions() -> None:
    said = [Message("system", "S")]
    for n in range(3):
        said += [Message("user", f"q{n}"), Message("assistant", f"a{n}")]
    asked = [*said, Message("user", "q3")]
    assert [m.content for m in last_turns(asked, 2)] == ["S", "q2", "a2", "q3"]
    assert last_turns(asked, 4) == last_turns(asked, 9) == tuple(asked)
    assert [m.content for m in last_turns(asked[1:], 1)] == ["q3"]


def test_a_sparkline_has_a_block_for_each_value() -> None:
    assert sparkline([1, 2, 3], 8) == "▁▅█"
    assert sparkline([5, 5], 8) == "▄▄"
    assert sparkline(range(20), 4) == sparkline(range(16, 20), 9)
    assert sparkline([], 8) == sparkline([1], 0) == ""


STATS = GenerationStats(1234, 1000, 256, 0.5, 10.0, 0.42, 7 * 10**9)


def test_the_page_shows_the_last_reply() -> None:
    text = stats.stats_page([Message("assistant", "a", stats=STATS)], [GPU], 72).plain
    for words in (
        "1,234 tokens",
        "1,000 of them cached",
        "468.0 tok/s",
        "256 tokens",
        "25.5 tok/s",
    ):
        assert words in text
    for words in ("0.42 s", "7.0 GB", "weights", "KV cache now", "other programs", "free"):
        assert words in text
    assert "Over the conversation" not in text
    assert "No reply yet" in stats.stats_page([], [], 72).plain


def test_the_page_shows_the_whole_conversation() -> None:
    later = replace(STATS, decode_seconds=5.0, peak_memory=8 * 10**9)
    said = [Message("assistant", "a", stats=one) for one in (STATS, later)]
    text = stats.stats_page(said, [], 72).plain
    assert "▁█  25.5 – 51.0 tok/s" in text
    assert "▁█  7.0 – 8.0 GB" in text


def test_the_page_shows_advice_if_the_context_will_not_fit() -> None:
    assert "/keep N" not in stats.stats_page([], [GPU], 72).plain
    text = stats.stats_page([], [replace(GPU, used=90)], 72).plain
    for way in ("/keep N", "/quant int8", "/quant int4", "/clear"):
        assert way in text


# ---- in the app


def loaded_on_the_gpu(engine: FakeEngine) -> None:
    engine.model = replace(MODEL, weight_bytes=10**9, kv_bytes_per_token=10**6)


async def show(driver: AppDriver, used: int) -> None:
    memory = DeviceMemory("GPU", 10 * 10**9, used, 2 * 10**9, "cuda:0")
    driver.app.chat.show_memory((memory,))


async def test_the_app_warns_in_time_and_once(folders: Path) -> None:
    async with run_app(engine=loaded_on_the_gpu) as driver:
        await show(driver, 5 * 10**9)
        assert not driver.app.chat.notice.display
        await show(driver, int(9.5 * 10**9))
        await driver.wait_for_text(
            "GPU is nearly full: the full context needs 0.5 GB more than is free."
        )
        await driver.pilot.press("escape")
        await show(driver, int(9.6 * 10**9))
        assert not driver.app.chat.notice.display


async def test_f3_shows_statistics_and_updates_them(folders: Path) -> None:
    async with run_app(engine=loaded_on_the_gpu) as driver:
        await driver.ask("Go")
        await show(driver, 5 * 10**9)
        await driver.pilot.press("f3")
        await driver.wait_for_text("12 tokens")
        await driver.wait_for_text("3.00 GB  other programs")
        await show(driver, 4 * 10**9)
        await driver.wait_for_text("2.00 GB  other programs")
        await driver.pilot.press("f3")
        await driver.wait_until(lambda: "other programs" not in driver.screen_text())


async def test_keep_sends_the_last_turns_and_deletes_nothing(folders: Path) -> None:
    async with run_app() as driver:
        for text in ("one", "two", "three"):
            await driver.ask(text)
        await driver.submit("/keep 1")
        await driver.ask("four")
        assert [m.content for m in driver.engine.requests[-1].messages] == ["four"]
        await driver.submit("/keep")
        await driver.ask("five")
        assert len(driver.engine.requests[-1].messages) == 9
        await driver.submit("/keep 0")
        await driver.wait_for_text("must be from 1 to 10000, not 0")
    async with run_app(replace(SERVER, keep_turns=1)) as driver:
        assert driver.app.session.keep_turns == 1


async def test_clear_frees_the_cache(folders: Path) -> None:
    async with run_app(engine=loaded_on_the_gpu) as driver:
        await driver.ask("Go")
        assert driver.app.session.cached_tokens == 15
        await driver.submit("/clear")
        assert driver.engine.cache_clears == 1
        assert driver.app.session.cached_tokens == 0
        assert not driver.app.session.conversation.messages
        assert driver.store.load("last").path[-1].content == "Hello there."


async def test_quant_loads_the_model_again(folders: Path) -> None:
    async with run_app() as driver:
        await driver.submit("/quant int4")
        await driver.wait_until(lambda: len(driver.engine.loads) == 2)
        assert driver.engine.loads[-1][1].quant == "int4"
        await driver.submit("/quant int5")
        await driver.wait_for_text("must be one of auto, none, int8, int4")
