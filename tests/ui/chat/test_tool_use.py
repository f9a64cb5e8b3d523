"""Tool calls in the app: shown as calls, run only after a yes, or answered by the user."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from glmtui.chat import Message
from glmtui.engine.api import ToolCall
from glmtui.ui.dialogs.list_dialog import ChoiceDialog
from glmtui.ui.dialogs.tool_dialog import ToolDialog
from support.app_pilot import AppDriver, folders, run_app
from support.fake_engine import FakeEngine

pytestmark = pytest.mark.usefixtures(folders.__name__)

CALL = '{"city": "Lima"}'
REMARK = (Message("assistant", "Let me look."), Message("assistant", CALL, metadata="weather"))
TOOLS = """
enabled = true
[tools.weather]
description = "The weather in a city"
command = ["sh", "-c", {script}, "sh", "{{city}}"]
[tools.weather.parameters.city]
description = "The city"
"""
SAYS_IT = "'echo run >> ran; echo sunny in $1'"


@pytest.fixture
def tools(folders: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """tools.toml with a tool that leaves a trace, in the folder the app runs in."""
    monkeypatch.chdir(folders)
    file = folders / "config" / "tools.toml"
    file.parent.mkdir()
    file.write_text(TOOLS.format(script=SAYS_IT))
    return file


def tool_has_run(tools: Path) -> bool:
    return (tools.parents[1] / "ran").exists()


def reply_with_tool_call(engine: FakeEngine) -> None:
    engine.model = replace(engine.model, calls_tools=True)
    engine.pieces = ["Let me look.<|assistant|>weather\n", CALL]
    engine.messages, engine.call = REMARK, ToolCall("weather", {"city": "Lima"}, CALL)


@asynccontextmanager
async def tool_call_dialog(size: tuple[int, int] = (80, 24)) -> AsyncIterator[AppDriver]:
    """The app with its question about a call open; the next reply is a plain one."""
    async with run_app(engine=reply_with_tool_call, size=size) as driver:
        await driver.ask("How is it in Lima?")
        await driver.wait_until(lambda: isinstance(driver.app.screen, ChoiceDialog))
        await driver.wait_for_text("Answer it myself")
        driver.engine.pieces, driver.engine.messages, driver.engine.call = (
            ["It is", " sunny."],
            (),
            None,
        )
        yield driver


async def test_a_yes_runs_the_tool_and_the_model_goes_on(tools: Path) -> None:
    async with tool_call_dialog() as driver:
        await driver.wait_for_text("The model calls weather")
        await driver.wait_for_text("Yes, run it")
        assert "sh -c 'echo run >> ran" in " ".join(driver.screen_text().split())
        assert not tool_has_run(tools)
        await driver.pilot.press("down", "enter")
        await driver.wait_for_text("It is sunny.")
        assert tool_has_run(tools)
        path = driver.app.session.conversation.path
        assert [(m.role, m.content, m.metadata) for m in path[1:]] == [
            ("assistant", "Let me look.", ""),
            ("assistant", CALL, "weather"),
            ("observation", "sunny in Lima", ""),
            ("assistant", "It is sunny.", ""),
        ]
        declared = driver.engine.requests[0].messages[0]
        assert (declared.role, declared.tools[0]["name"]) == ("system", "weather")
        assert [m.role for m in driver.engine.requests[1].messages] == [
            "system",
            "user",
            "assistant",
            "assistant",
            "observation",
        ]
        for line in ("calls weather", "city: Lima", "observation", "sunny in Lima"):
            assert line in driver.screen_text()
        assert "<|assistant|>" not in driver.screen_text()


@pytest.mark.parametrize("keys", [("escape",), ("enter",)], ids=["esc", "an enter in passing"])
async def test_nothing_runs_without_a_yes(tools: Path, keys: tuple[str, ...]) -> None:
    async with tool_call_dialog() as driver:
        await driver.pilot.press(*keys)
        await driver.wait_for_text("Ask anything")
        assert not tool_has_run(tools)
        await driver.ask("Leave it")
        assert [m.role for m in driver.engine.requests[1].messages][-2:] == ["assistant", "user"]
        assert not tool_has_run(tools)


async def test_the_user_answers_in_the_tools_place(tools: Path) -> None:
    async with tool_call_dialog() as driver:
        await driver.pilot.press("down", "down", "enter")
        await driver.wait_for_text("Result of weather?")
        await driver.submit("rain")
        await driver.wait_for_text("It is sunny.")
        assert not tool_has_run(tools)
        assert driver.engine.requests[1].messages[-1].role == "observation"
        assert driver.engine.requests[1].messages[-1].content == "rain"
        await driver.wait_for_text("Ask anything")
        await driver.ask("Thanks")
        assert driver.engine.requests[2].messages[-1].role == "user"


async def test_an_answer_that_was_promised_can_be_given_up(tools: Path) -> None:
    async with tool_call_dialog() as driver:
        await driver.pilot.press("down", "down", "enter")
        await driver.wait_for_text("Result of weather?")
        await driver.pilot.press("escape")
        await driver.wait_for_text("Ask anything")
        await driver.ask("Another thing")
        assert driver.engine.requests[1].messages[-1].role == "user"


async def test_a_promised_answer_is_for_its_own_conversation(tools: Path) -> None:
    async with tool_call_dialog() as driver:
        await driver.pilot.press("down", "down", "enter")
        await driver.wait_for_text("Result of weather?")
        await driver.pilot.press("ctrl+n")
        await driver.wait_for_text("Ask anything")
        await driver.ask("Hello")
        assert [m.role for m in driver.app.session.conversation.path] == ["user", "assistant"]


async def test_asked_again_the_remark_goes_with_its_call(tools: Path) -> None:
    async with tool_call_dialog() as driver:
        await driver.pilot.press("escape", "ctrl+r")
        await driver.wait_for_text("It is sunny.")
        assert [m.role for m in driver.app.session.conversation.path] == ["user", "assistant"]
        assert driver.engine.requests[1].messages[-1].role == "user"
        assert "Let me look." not in driver.screen_text()
        assert "fake  2/2" in driver.screen_text()


async def test_escape_kills_a_tool_that_runs(tools: Path) -> None:
    tools.write_text(TOOLS.format(script="'echo $$ > pid; exec sleep 600'"))
    async with tool_call_dialog() as driver:
        await driver.pilot.press("down", "enter")
        await driver.wait_for_text("Running weather")
        screen, pid = driver.app.screen, tools.parents[1] / "pid"
        assert isinstance(screen, ToolDialog)
        await driver.wait_until(lambda: pid.exists() and bool(pid.read_text()))
        process = Path("/proc") / pid.read_text().strip()
        assert process.exists()
        await driver.pilot.press("escape")
        await driver.wait_until(lambda: not process.exists())
        assert driver.app.session.conversation.path[-1].metadata == "weather"
        assert len(driver.engine.requests) == 1


async def test_no_tool_outlives_the_app(tools: Path) -> None:
    tools.write_text(TOOLS.format(script="'echo $$ > pid; exec sleep 600'"))
    async with tool_call_dialog() as driver:
        await driver.pilot.press("down", "enter")
        pid = tools.parents[1] / "pid"
        await driver.wait_until(lambda: pid.exists() and bool(pid.read_text()))
        process = Path("/proc") / pid.read_text().strip()
        assert process.exists()
    assert not process.exists()


async def test_what_came_of_a_tool_waits_for_a_window_that_is_large_enough(tools: Path) -> None:
    tools.write_text(TOOLS.format(script="'until [ -e go ]; do sleep 0.01; done; echo sunny'"))
    async with tool_call_dialog() as driver:
        await driver.pilot.press("down", "enter")
        await driver.wait_until(lambda: isinstance(driver.app.screen, ToolDialog))
        tool = driver.app.screen
        assert isinstance(tool, ToolDialog)
        await driver.pilot.resize_terminal(30, 8)
        await driver.wait_for_text("Window too small")
        (tools.parents[1] / "go").touch()
        await driver.wait_until(lambda: tool._outcome is not None)
        await driver.pilot.resize_terminal(80, 24)
        await driver.wait_for_text("It is sunny.")


async def test_a_long_command_can_be_read_to_its_end(tools: Path) -> None:
    tools.write_text(TOOLS.format(script=f"'echo begin {'and ' * 400}end'"))
    async with tool_call_dialog() as driver:
        await driver.wait_for_text("echo begin")
        assert "and end" not in driver.screen_text()
        for _ in range(10):
            await driver.pilot.press("pagedown")
        await driver.wait_for_text("and end")
        assert "Yes, run it" in driver.screen_text()


async def test_in_the_smallest_window_command_and_answers_can_be_seen(tools: Path) -> None:
    async with tool_call_dialog((40, 10)) as driver:
        await driver.wait_for_text("Yes, run it")
        await driver.pilot.press("pageup")
        await driver.wait_for_text("sh -c")


async def test_a_tool_that_cannot_be_run_leaves_the_answer_to_the_user(tools: Path) -> None:
    tools.write_text(tools.read_text().replace('"sh", "-c"', '"/no/such/program", "-c"'))
    async with tool_call_dialog() as driver:
        await driver.pilot.press("down", "enter")
        await driver.wait_for_text("Could not run /no/such/program")
        assert "Yes, run it" not in driver.screen_text()
        await driver.pilot.press("down", "enter")
        await driver.wait_for_text("Result of weather?")


async def test_without_tools_toml_nothing_is_offered_and_a_call_is_only_shown() -> None:
    async with tool_call_dialog() as driver:
        await driver.wait_for_text("a tool that does not exist: weather")
        assert "Yes, run it" not in driver.screen_text()
        assert [m.role for m in driver.engine.requests[0].messages] == ["user"]


async def test_a_call_that_cannot_be_read_says_why(tools: Path) -> None:
    def reply_with_bad_call(engine: FakeEngine) -> None:
        reply_with_tool_call(engine)
        engine.messages = (Message("assistant", "{city: \x1b[2J", metadata="weather"),)
        engine.call = ToolCall("weather", None, "{city:", "It cannot be read: \x1b[2J.")

    async with run_app(engine=reply_with_bad_call) as driver:
        await driver.ask("How is it in Lima?")
        await driver.wait_for_text("It cannot be read: ␛[2J.")
        assert "Yes, run it" not in driver.screen_text()
        await driver.pilot.press("escape")
        await driver.wait_for_text("{city: ␛[2J")
        assert "calls weather" in driver.screen_text()


async def test_other_models_are_offered_no_tools(tools: Path) -> None:
    async with run_app() as driver:
        await driver.ask("How is it in Lima?")
        assert [m.role for m in driver.engine.requests[0].messages] == ["user"]


async def test_a_fault_in_tools_toml_is_told(tools: Path) -> None:
    tools.write_text(tools.read_text().replace("description", "descripton", 1))

    def reply_with_text(engine: FakeEngine) -> None:
        engine.model = replace(engine.model, calls_tools=True)

    async with run_app(engine=reply_with_text) as driver:
        await driver.ask("How is it in Lima?")
        await driver.wait_for_text("Did you mean description?")
        assert [m.role for m in driver.engine.requests[0].messages] == ["user"]
