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
from support.app_pilot import AppDesk, folders, running
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


def ran(tools: Path) -> bool:
    return (tools.parents[1] / "ran").exists()


def wants_the_weather(engine: FakeEngine) -> None:
    engine.model = replace(engine.model, calls_tools=True)
    engine.pieces = ["Let me look.<|assistant|>weather\n", CALL]
    engine.said, engine.call = REMARK, ToolCall("weather", {"city": "Lima"}, CALL)


@asynccontextmanager
async def called(size: tuple[int, int] = (80, 24)) -> AsyncIterator[AppDesk]:
    """The app with its question about a call open; the next reply is a plain one."""
    async with running(engine=wants_the_weather, size=size) as desk:
        await desk.ask("How is it in Lima?")
        await desk.until(lambda: isinstance(desk.app.screen, ChoiceDialog))
        await desk.shows("I answer myself")
        desk.engine.pieces, desk.engine.said, desk.engine.call = ["It is", " sunny."], (), None
        yield desk


async def test_a_yes_runs_the_tool_and_the_model_goes_on(tools: Path) -> None:
    async with called() as desk:
        await desk.shows("The model calls weather")
        await desk.shows("Yes, run it")
        assert "sh -c 'echo run >> ran" in " ".join(desk.screen().split())
        assert not ran(tools)
        await desk.pilot.press("down", "enter")
        await desk.shows("It is sunny.")
        assert ran(tools)
        path = desk.app.session.conversation.path
        assert [(m.role, m.content, m.metadata) for m in path[1:]] == [
            ("assistant", "Let me look.", ""),
            ("assistant", CALL, "weather"),
            ("observation", "sunny in Lima", ""),
            ("assistant", "It is sunny.", ""),
        ]
        declared = desk.engine.requests[0].messages[0]
        assert (declared.role, declared.tools[0]["name"]) == ("system", "weather")
        assert [m.role for m in desk.engine.requests[1].messages] == [
            "system",
            "user",
            "assistant",
            "assistant",
            "observation",
        ]
        for line in ("calls weather", "city: Lima", "observation", "sunny in Lima"):
            assert line in desk.screen()
        assert "<|assistant|>" not in desk.screen()


@pytest.mark.parametrize("keys", [("escape",), ("enter",)], ids=["esc", "an enter in passing"])
async def test_nothing_runs_without_a_yes(tools: Path, keys: tuple[str, ...]) -> None:
    async with called() as desk:
        await desk.pilot.press(*keys)
        await desk.shows("Ask anything")
        assert not ran(tools)
        await desk.ask("Leave it")
        assert [m.role for m in desk.engine.requests[1].messages][-2:] == ["assistant", "user"]
        assert not ran(tools)


async def test_the_user_answers_in_the_tools_place(tools: Path) -> None:
    async with called() as desk:
        await desk.pilot.press("down", "down", "enter")
        await desk.shows("What does weather answer?")
        await desk.type("rain")
        await desk.shows("It is sunny.")
        assert not ran(tools)
        assert desk.engine.requests[1].messages[-1].role == "observation"
        assert desk.engine.requests[1].messages[-1].content == "rain"
        await desk.shows("Ask anything")
        await desk.ask("Thanks")
        assert desk.engine.requests[2].messages[-1].role == "user"


async def test_an_answer_that_was_promised_can_be_given_up(tools: Path) -> None:
    async with called() as desk:
        await desk.pilot.press("down", "down", "enter")
        await desk.shows("What does weather answer?")
        await desk.pilot.press("escape")
        await desk.shows("Ask anything")
        await desk.ask("Another thing")
        assert desk.engine.requests[1].messages[-1].role == "user"


async def test_a_promised_answer_is_for_its_own_conversation(tools: Path) -> None:
    async with called() as desk:
        await desk.pilot.press("down", "down", "enter")
        await desk.shows("What does weather answer?")
        await desk.pilot.press("ctrl+n")
        await desk.shows("Ask anything")
        await desk.ask("Hello")
        assert [m.role for m in desk.app.session.conversation.path] == ["user", "assistant"]


async def test_asked_again_the_remark_goes_with_its_call(tools: Path) -> None:
    async with called() as desk:
        await desk.pilot.press("escape", "ctrl+r")
        await desk.shows("It is sunny.")
        assert [m.role for m in desk.app.session.conversation.path] == ["user", "assistant"]
        assert desk.engine.requests[1].messages[-1].role == "user"
        assert "Let me look." not in desk.screen()
        assert "fake  2/2" in desk.screen()


async def test_escape_kills_a_tool_that_runs(tools: Path) -> None:
    tools.write_text(TOOLS.format(script="'echo $$ > pid; exec sleep 600'"))
    async with called() as desk:
        await desk.pilot.press("down", "enter")
        await desk.shows("Running weather")
        screen, pid = desk.app.screen, tools.parents[1] / "pid"
        assert isinstance(screen, ToolDialog)
        await desk.until(lambda: pid.exists() and bool(pid.read_text()))
        process = Path("/proc") / pid.read_text().strip()
        assert process.exists()
        await desk.pilot.press("escape")
        await desk.until(lambda: not process.exists())
        assert desk.app.session.conversation.path[-1].metadata == "weather"
        assert len(desk.engine.requests) == 1


async def test_no_tool_outlives_the_app(tools: Path) -> None:
    tools.write_text(TOOLS.format(script="'echo $$ > pid; exec sleep 600'"))
    async with called() as desk:
        await desk.pilot.press("down", "enter")
        pid = tools.parents[1] / "pid"
        await desk.until(lambda: pid.exists() and bool(pid.read_text()))
        process = Path("/proc") / pid.read_text().strip()
        assert process.exists()
    assert not process.exists()


async def test_what_came_of_a_tool_waits_for_a_window_that_is_large_enough(tools: Path) -> None:
    tools.write_text(TOOLS.format(script="'until [ -e go ]; do sleep 0.01; done; echo sunny'"))
    async with called() as desk:
        await desk.pilot.press("down", "enter")
        await desk.until(lambda: isinstance(desk.app.screen, ToolDialog))
        tool = desk.app.screen
        assert isinstance(tool, ToolDialog)
        await desk.pilot.resize_terminal(30, 8)
        await desk.shows("Too small")
        (tools.parents[1] / "go").touch()
        await desk.until(lambda: tool._outcome is not None)
        await desk.pilot.resize_terminal(80, 24)
        await desk.shows("It is sunny.")


async def test_a_long_command_can_be_read_to_its_end(tools: Path) -> None:
    tools.write_text(TOOLS.format(script=f"'echo begin {'and ' * 400}end'"))
    async with called() as desk:
        await desk.shows("echo begin")
        assert "and end" not in desk.screen()
        for _ in range(10):
            await desk.pilot.press("pagedown")
        await desk.shows("and end")
        assert "Yes, run it" in desk.screen()


async def test_in_the_smallest_window_command_and_answers_can_be_seen(tools: Path) -> None:
    async with called((40, 10)) as desk:
        await desk.shows("Yes, run it")
        await desk.pilot.press("pageup")
        await desk.shows("sh -c")


async def test_a_tool_that_cannot_be_run_leaves_the_answer_to_the_user(tools: Path) -> None:
    tools.write_text(tools.read_text().replace('"sh", "-c"', '"/no/such/program", "-c"'))
    async with called() as desk:
        await desk.pilot.press("down", "enter")
        await desk.shows("/no/such/program cannot be run")
        assert "Yes, run it" not in desk.screen()
        await desk.pilot.press("down", "enter")
        await desk.shows("What does weather answer?")


async def test_without_tools_toml_nothing_is_offered_and_a_call_is_only_shown() -> None:
    async with called() as desk:
        await desk.shows("a tool that does not exist: weather")
        assert "Yes, run it" not in desk.screen()
        assert [m.role for m in desk.engine.requests[0].messages] == ["user"]


async def test_a_call_that_cannot_be_read_says_why(tools: Path) -> None:
    def mumbles(engine: FakeEngine) -> None:
        wants_the_weather(engine)
        engine.said = (Message("assistant", "{city: \x1b[2J", metadata="weather"),)
        engine.call = ToolCall("weather", None, "{city:", "It cannot be read: \x1b[2J.")

    async with running(engine=mumbles) as desk:
        await desk.ask("How is it in Lima?")
        await desk.shows("It cannot be read: ␛[2J.")
        assert "Yes, run it" not in desk.screen()
        await desk.pilot.press("escape")
        await desk.shows("{city: ␛[2J")
        assert "calls weather" in desk.screen()


async def test_other_models_are_offered_no_tools(tools: Path) -> None:
    async with running() as desk:
        await desk.ask("How is it in Lima?")
        assert [m.role for m in desk.engine.requests[0].messages] == ["user"]


async def test_a_fault_in_tools_toml_is_told(tools: Path) -> None:
    tools.write_text(tools.read_text().replace("description", "descripton", 1))

    def calm(engine: FakeEngine) -> None:
        engine.model = replace(engine.model, calls_tools=True)

    async with running(engine=calm) as desk:
        await desk.ask("How is it in Lima?")
        await desk.shows("Did you mean description?")
        assert [m.role for m in desk.engine.requests[0].messages] == ["user"]
