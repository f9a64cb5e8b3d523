"""The settings panel: validation, effect on replies, notes about values without effect."""

from __future__ import annotations

from dataclasses import replace

import pytest
from textual.widgets import Input, TextArea

from glmtui.chat import Conversation, SamplingParams
from glmtui.config import SAMPLING_FIELDS
from glmtui.ui.panels.settings_panel import SettingRow, format_value, no_effect_reason
from support.app_pilot import SERVER, AppDriver, folders, run_app
from support.fake_engine import FakeEngine

pytestmark = pytest.mark.usefixtures(folders.__name__)


def row(driver: AppDriver, name: str) -> SettingRow:
    assert driver.app.chat.settings.panel is not None
    return next(row for row in driver.app.chat.settings.panel.rows if row.setting.name == name)


def field(driver: AppDriver, name: str) -> Input:
    return row(driver, name).query_one(Input)


async def test_every_sampling_setting_and_the_system_prompt_have_a_row() -> None:
    async with run_app(size=(120, 40)) as driver:
        await driver.pilot.press("f2")
        for setting in SAMPLING_FIELDS:
            await driver.wait_for_text(setting.name)
        await driver.wait_for_text("system_prompt")
        await driver.wait_for_text("Maximum length of the reply, in tokens.")


async def test_a_valid_value_applies_from_the_next_reply_and_is_saved() -> None:
    async with run_app() as driver:
        await driver.pilot.press("f2", *"0.25")
        assert driver.app.session.conversation.params.temperature == 0.25
        await driver.pilot.press("down", *"7", "escape")
        await driver.ask("Go")
        assert driver.engine.requests[0].params == SamplingParams(temperature=0.25, top_k=7)
        assert driver.store.load("last").params.temperature == 0.25


async def test_an_invalid_value_shows_an_error_and_changes_nothing() -> None:
    async with run_app(size=(120, 40)) as driver:
        await driver.pilot.press("f2", *"1.5")
        await driver.pilot.press("backspace", "backspace", "backspace", *"9")
        await driver.wait_for_text("must be from 0 to 2, not 9")
        assert row(driver, "temperature").has_class("-invalid")
        assert driver.app.session.conversation.params.temperature in (None, 1.0)
        await driver.pilot.press("backspace")
        await driver.wait_until(lambda: not row(driver, "temperature").has_class("-invalid"))
        assert driver.app.session.conversation.params.temperature is None


async def test_text_being_typed_is_not_overwritten() -> None:
    async with run_app() as driver:
        await driver.pilot.press("f2", *"99")
        driver.app.chat.refresh_state()
        assert field(driver, "temperature").value == "99"


async def test_an_empty_field_shows_the_model_default() -> None:
    async with run_app() as driver:
        await driver.pilot.press("f2")
        await driver.wait_until(lambda: field(driver, "top_k").placeholder == "50 (model default)")
        assert field(driver, "temperature").placeholder == "0.8 (model default)"
        assert field(driver, "seed").placeholder == "model default"


async def test_the_system_prompt_is_part_of_the_conversation() -> None:
    async with run_app(size=(120, 40)) as driver:
        await driver.pilot.press("f2")
        area = row(driver, "system_prompt").query_one(TextArea)
        area.focus()
        await driver.pilot.press(*"Be brief")
        assert driver.app.session.conversation.system == "Be brief"
        await driver.pilot.press("escape")
        driver.app.chat.conversations.show(Conversation.new(system="Be long"))
        await driver.pilot.press("f2")
        await driver.wait_until(lambda: area.text == "Be long")


async def test_the_panel_shows_values_set_by_command() -> None:
    async with run_app(size=(120, 40)) as driver:
        await driver.pilot.press("f2", "escape")
        await driver.submit("/set top_p 0.5")
        await driver.pilot.press("f2")
        await driver.wait_until(lambda: field(driver, "top_p").value == "0.5")


async def test_the_panel_is_beside_the_conversation_where_there_is_room() -> None:
    async with run_app(replace(SERVER, panel=True), size=(120, 40)) as driver:
        await driver.ask("Go")
        await driver.wait_for_text("Hello there.")
        assert "temperature" in driver.screen_text()
        assert driver.app.chat.prompt.has_focus


async def test_the_conversation_is_wrapped_again_when_the_panel_toggles() -> None:
    def prepare(engine: FakeEngine) -> None:
        engine.pieces = ["words " * 15]

    async with run_app(size=(120, 40), engine=prepare) as driver:

        def rows() -> int:
            return sum("words" in line for line in driver.screen_text().splitlines())

        await driver.ask("Go")
        for _ in range(2):  # the second time, the panel's widgets are there already
            await driver.wait_until(lambda: rows() == 1)
            await driver.pilot.press("f2")
            await driver.wait_until(lambda: rows() == 2)
            await driver.pilot.press("f2")


async def test_the_panel_hides_when_the_window_becomes_narrow() -> None:
    async with run_app(replace(SERVER, panel=True), size=(120, 40)) as driver:
        await driver.ask("Go")
        await driver.pilot.resize_terminal(80, 24)
        await driver.wait_until(lambda: "temperature" not in driver.screen_text())
        await driver.wait_for_text("Hello there.")


async def test_at_80x24_every_row_is_visible() -> None:
    async with run_app() as driver:
        await driver.pilot.press("f2")
        for setting in SAMPLING_FIELDS:
            await driver.wait_for_text(setting.name)
        await driver.wait_for_text("system_prompt")
        await driver.pilot.press("f2")
        await driver.wait_until(lambda: "top_p" not in driver.screen_text())
        assert driver.app.chat.prompt.has_focus


@pytest.mark.parametrize(
    ("name", "params", "cause"),
    [
        ("top_p", SamplingParams(temperature=0.0), "temperature is 0"),
        ("seed", SamplingParams(do_sample=False), "do_sample is false"),
        ("temperature", SamplingParams(temperature=0.7, do_sample=False), "do_sample is false"),
        ("top_p", SamplingParams(temperature=0.7, top_k=1), "top_k is 1"),
        ("top_p", SamplingParams(temperature=0.7), ""),
        ("temperature", SamplingParams(temperature=0.0), ""),
        ("repetition_penalty", SamplingParams(temperature=0.0), ""),
    ],
)
def test_a_value_without_effect_has_a_note(name: str, params: SamplingParams, cause: str) -> None:
    note = no_effect_reason(name, params)
    assert (cause in note) if cause else note == ""


async def test_the_note_follows_the_typed_values() -> None:
    async with run_app(size=(120, 40)) as driver:
        await driver.pilot.press("f2", "0")
        await driver.wait_for_text("No effect: temperature is 0.")
        await driver.pilot.press("backspace")
        await driver.wait_until(lambda: "No effect" not in driver.screen_text())


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, ""), (True, "true"), (0.7, "0.7"), (1.0, "1"), (42, "42"), ("a", "a")],
)
def test_values_are_formatted_as_the_user_types_them(value: object, text: str) -> None:
    assert format_value(value) == text  # type: ignore[arg-type]
