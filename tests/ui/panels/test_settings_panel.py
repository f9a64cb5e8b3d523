"""The settings panel: validation, effect on replies, notes about values without effect."""

from __future__ import annotations

from dataclasses import replace

import pytest
from textual.widgets import Input, TextArea

from glmtui.chat import Conversation, SamplingParams
from glmtui.config import SAMPLING_FIELDS
from glmtui.ui.panels.settings_panel import SettingRow, format_value, no_effect_reason
from support.app_pilot import SERVER, AppDesk, folders, running
from support.fake_engine import FakeEngine

pytestmark = pytest.mark.usefixtures(folders.__name__)


def row(desk: AppDesk, name: str) -> SettingRow:
    assert desk.app.chat.panel is not None
    return next(row for row in desk.app.chat.panel.rows if row.setting.name == name)


def field(desk: AppDesk, name: str) -> Input:
    return row(desk, name).query_one(Input)


async def test_every_sampling_setting_and_the_system_prompt_have_a_row() -> None:
    async with running(size=(120, 40)) as desk:
        await desk.pilot.press("f2")
        for setting in SAMPLING_FIELDS:
            await desk.shows(setting.name)
        await desk.shows("system_prompt")
        await desk.shows("Longest reply, in tokens.")


async def test_a_valid_value_applies_from_the_next_reply_and_is_saved() -> None:
    async with running() as desk:
        await desk.pilot.press("f2", *"0.25")
        assert desk.app.session.conversation.params.temperature == 0.25
        await desk.pilot.press("down", *"7", "escape")
        await desk.ask("Go")
        assert desk.engine.requests[0].params == SamplingParams(temperature=0.25, top_k=7)
        assert desk.store.load("last").params.temperature == 0.25


async def test_an_invalid_value_shows_an_error_and_changes_nothing() -> None:
    async with running(size=(120, 40)) as desk:
        await desk.pilot.press("f2", *"1.5")
        await desk.pilot.press("backspace", "backspace", "backspace", *"9")
        await desk.shows("is not a number from 0 to 2")
        assert row(desk, "temperature").has_class("-invalid")
        assert desk.app.session.conversation.params.temperature in (None, 1.0)
        await desk.pilot.press("backspace")
        await desk.until(lambda: not row(desk, "temperature").has_class("-invalid"))
        assert desk.app.session.conversation.params.temperature is None


async def test_text_being_typed_is_not_overwritten() -> None:
    async with running() as desk:
        await desk.pilot.press("f2", *"99")
        desk.app.chat.refresh_state()
        assert field(desk, "temperature").value == "99"


async def test_an_empty_field_shows_the_model_default() -> None:
    async with running() as desk:
        await desk.pilot.press("f2")
        await desk.until(lambda: field(desk, "top_k").placeholder == "50 (model default)")
        assert field(desk, "temperature").placeholder == "0.8 (model default)"
        assert field(desk, "seed").placeholder == "model default"


async def test_the_system_prompt_is_part_of_the_conversation() -> None:
    async with running(size=(120, 40)) as desk:
        await desk.pilot.press("f2")
        area = row(desk, "system_prompt").query_one(TextArea)
        area.focus()
        await desk.pilot.press(*"Be brief")
        assert desk.app.session.conversation.system == "Be brief"
        await desk.pilot.press("escape")
        desk.app.leave_conversation(Conversation.new(system="Be long"))
        await desk.pilot.press("f2")
        await desk.until(lambda: area.text == "Be long")


async def test_the_panel_shows_values_set_by_command() -> None:
    async with running(size=(120, 40)) as desk:
        await desk.pilot.press("f2", "escape")
        await desk.type("/set top_p 0.5")
        await desk.pilot.press("f2")
        await desk.until(lambda: field(desk, "top_p").value == "0.5")


async def test_the_panel_is_beside_the_conversation_where_there_is_room() -> None:
    async with running(replace(SERVER, panel=True), size=(120, 40)) as desk:
        await desk.ask("Go")
        await desk.shows("Hello there.")
        assert "temperature" in desk.screen()
        assert desk.app.chat.prompt.has_focus


async def test_the_conversation_is_wrapped_again_when_the_panel_toggles() -> None:
    def prepare(engine: FakeEngine) -> None:
        engine.pieces = ["words " * 15]

    async with running(size=(120, 40), engine=prepare) as desk:

        def rows() -> int:
            return sum("words" in line for line in desk.screen().splitlines())

        await desk.ask("Go")
        for _ in range(2):  # the second time, the panel's widgets are there already
            await desk.until(lambda: rows() == 1)
            await desk.pilot.press("f2")
            await desk.until(lambda: rows() == 2)
            await desk.pilot.press("f2")


async def test_the_panel_hides_when_the_window_becomes_narrow() -> None:
    async with running(replace(SERVER, panel=True), size=(120, 40)) as desk:
        await desk.ask("Go")
        await desk.pilot.resize_terminal(80, 24)
        await desk.until(lambda: "temperature" not in desk.screen())
        await desk.shows("Hello there.")


async def test_at_80x24_every_row_is_visible() -> None:
    async with running() as desk:
        await desk.pilot.press("f2")
        for setting in SAMPLING_FIELDS:
            await desk.shows(setting.name)
        await desk.shows("system_prompt")
        await desk.pilot.press("f2")
        await desk.until(lambda: "top_p" not in desk.screen())
        assert desk.app.chat.prompt.has_focus


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
    async with running(size=(120, 40)) as desk:
        await desk.pilot.press("f2", "0")
        await desk.shows("No effect: temperature is 0.")
        await desk.pilot.press("backspace")
        await desk.until(lambda: "No effect" not in desk.screen())


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, ""), (True, "true"), (0.7, "0.7"), (1.0, "1"), (42, "42"), ("a", "a")],
)
def test_values_are_formatted_as_the_user_types_them(value: object, text: str) -> None:
    assert format_value(value) == text  # type: ignore[arg-type]
