"""The app: what its keys and commands do, with a FakeEngine behind it."""

from __future__ import annotations

import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from glmtui.chat import Conversation, Message
from glmtui.errors import ConfigError, EngineError, ModelError, StoreError
from glmtui.ui.chat.frame_timer import SHORTEST_FRAME
from support.app_pilot import SERVER, folders, run_app
from support.fake_engine import FakeEngine

pytestmark = pytest.mark.usefixtures(folders.__name__)


def pause_engine_after(after: int, *pieces: str) -> object:
    """An engine that stops for a moment after so many pieces."""

    def prepare(engine: FakeEngine) -> None:
        engine.pause_after = after
        engine.pieces = list(pieces) or engine.pieces

    return prepare


async def test_a_question_typed_and_sent_is_answered_on_the_screen() -> None:
    async with run_app() as driver:
        await driver.pilot.press(*"Hi!", "enter")
        await driver.wait_for_text("Hello there.")
        assert "Hi!" in driver.screen_text()
        assert driver.app.chat.prompt.text == ""
        await driver.wait_until(lambda: "ready" in driver.status_line())
        assert "14/2,048" not in driver.status_line()
        assert "15/2,048" in driver.status_line()


async def test_escape_stops_the_reply_and_keeps_what_there_is() -> None:
    async with run_app(engine=pause_engine_after(1, "Once", " upon")) as driver:
        await driver.submit("Go")
        await driver.wait_for_text("Once")
        await driver.pilot.press("escape")
        await driver.wait_for_text("stopped")
        assert "upon" not in driver.screen_text()
        assert driver.app.session.conversation.path[-1].content == "Once"


async def test_ctrl_r_answers_again_and_says_which_of_how_many() -> None:
    async with run_app() as driver:
        await driver.ask("Go")
        driver.engine.pieces = ["Another"]
        await driver.pilot.press("ctrl+r")
        await driver.wait_for_text("Another")
        await driver.wait_for_text("fake  2/2")
        assert "Hello there." not in driver.screen_text()


async def test_continue_goes_on_with_a_cut_reply() -> None:
    async with run_app(engine=pause_engine_after(1, "One", " two")) as driver:
        await driver.submit("Go")
        await driver.wait_for_text("One")
        await driver.pilot.press("escape")
        await driver.wait_for_text("stopped")
        driver.engine.pause_after, driver.engine.pieces = None, [", and more"]
        await driver.submit("/continue")
        await driver.wait_for_text("One, and more")


async def test_an_edited_question_is_sent_as_a_branch() -> None:
    async with run_app() as driver:
        await driver.ask("Frist")
        await driver.submit("/edit")
        assert driver.app.chat.prompt.text == "Frist"
        await driver.ask("First")
        assert driver.app.session.conversation.path[0].content == "First"
        assert len(driver.app.session.conversation.messages) == 4
        await driver.submit("/edit")
        await driver.pilot.press("escape")
        assert driver.app.chat.prompt.text == ""
        await driver.ask("Next")
        assert len(driver.app.session.conversation.path) == 4


async def test_a_question_sent_while_the_model_loads_is_answered_later() -> None:
    engines: list[FakeEngine] = []

    def prepare(engine: FakeEngine) -> None:
        engine.load_gate.clear()
        engines.append(engine)

    async with run_app(replace(SERVER, model=None), engine=prepare) as driver:
        await driver.wait_for_text("Models")
        await driver.pilot.press("escape")
        await driver.submit("/model http://fake.invalid/v1")
        await driver.wait_until(lambda: "loading 43 %" in driver.status_line())
        await driver.submit("Are you there?")
        await driver.wait_until(lambda: "question waiting" in driver.status_line())
        engines[0].load_gate.set()
        await driver.wait_for_text("Hello there.")


async def test_a_second_question_stays_in_the_prompt_while_a_reply_is_written() -> None:
    async with run_app(engine=pause_engine_after(1)) as driver:
        await driver.submit("Go")
        await driver.wait_for_text("Hello")
        await driver.submit("And then?")
        assert driver.app.chat.prompt.text == "And then?"
        await driver.wait_for_text("A reply is being written; Esc stops it.")
        assert len(driver.engine.requests) == 1


async def test_a_failed_reply_says_why_and_the_app_goes_on() -> None:
    def prepare(engine: FakeEngine) -> None:
        engine.reply_error = EngineError("CUDA is out of memory.", "Use a shorter context.")

    async with run_app(engine=prepare) as driver:
        await driver.ask("Go")
        await driver.wait_for_text("CUDA is out of memory.")
        await driver.wait_for_text("Use a shorter context.")
        assert "failed" in driver.status_line()
        driver.engine.reply_error = None
        await driver.ask("Again")
        assert "ready" in driver.status_line()


async def test_a_model_that_cannot_be_loaded_leaves_the_app_usable() -> None:
    def prepare(engine: FakeEngine) -> None:
        engine.load_error = ModelError("model.safetensors is cut short.", "Pull it again.")

    async with run_app(replace(SERVER, model=None), engine=prepare) as driver:
        await driver.wait_for_text("Models")
        await driver.pilot.press("escape")
        await driver.submit("/model http://fake.invalid/v1")
        await driver.wait_for_text("model.safetensors is cut short.")
        await driver.wait_for_text("Pull it again.")
        assert "load failed" in driver.status_line()
        driver.engine.load_error = None
        await driver.submit("/model http://fake.invalid/v1")
        await driver.wait_until(lambda: "ready" in driver.status_line())
        assert "Pull it again." not in driver.screen_text()


async def test_problems_with_the_settings_are_shown_until_they_are_closed() -> None:
    problem = ConfigError("/home/u/config.toml, line 3: there is no setting [red]", "Did you mean?")
    async with run_app(problems=[problem]) as driver:
        await driver.wait_for_text("config.toml, line 3: there is no setting [red]")
        await driver.pilot.press("escape")
        await driver.wait_until(lambda: "line 3" not in driver.screen_text())


async def test_a_disk_that_refuses_is_said_and_nothing_is_lost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with run_app() as driver:
        save = driver.app.workspace.store.save

        def refuse(conversation: Conversation) -> Path:
            raise StoreError("cannot write: No space left on device")

        monkeypatch.setattr(driver.app.workspace.store, "save", refuse)
        await driver.ask("Go")
        await driver.wait_for_text("No space left on device")
        await driver.wait_until(lambda: "not saved" in driver.status_line())
        monkeypatch.setattr(driver.app.workspace.store, "save", save)
        await driver.ask("Again")
        await driver.wait_until(lambda: "not saved" not in driver.status_line())
        assert len(driver.store.load(driver.app.session.conversation.id).path) == 4


async def test_ctrl_n_leaves_the_conversation_on_disk_and_begins_anew() -> None:
    async with run_app() as driver:
        await driver.ask("Go")
        first = driver.app.session.conversation.id
        await driver.pilot.press("ctrl+n")
        assert "Hello there." not in driver.screen_text()
        await driver.ask("Elsewhere")
        saved = {summary.id for summary in driver.store.summaries()}
        assert saved == {first, driver.app.session.conversation.id}


async def test_a_fork_goes_on_in_a_file_of_its_own() -> None:
    async with run_app() as driver:
        await driver.ask("Go")
        await driver.submit("/fork")
        await driver.ask("Here only")
        await driver.wait_until(lambda: len(driver.store.summaries()) == 2)
        assert sorted(s.message_count for s in driver.store.summaries()) == [2, 4]


async def test_a_saved_conversation_is_found_by_a_word_and_opened() -> None:
    async with run_app() as driver:
        for question in ("About apples", "About pears", "关于中文的问题"):
            await driver.ask(question)
            await driver.pilot.press("ctrl+n")
        await driver.pilot.press("ctrl+o")
        await driver.wait_for_text("关于中文的问题")
        await driver.pilot.press(*"pear")
        await driver.wait_until(lambda: "apples" not in driver.screen_text())
        await driver.pilot.press("enter")
        await driver.wait_until(lambda: driver.app.session.conversation.title == "About pears")
        await driver.wait_for_text("Hello there.")


async def test_a_conversation_named_at_the_start_is_shown() -> None:
    old = Conversation.new().add(Message("user", "From yesterday"))
    async with run_app(conversation=old) as driver:
        await driver.wait_for_text("From yesterday")


async def test_text_of_models_and_files_is_never_markup_or_control() -> None:
    hostile = "[bold]x[/bold] [/] [@click=app.quit]y[/] \x1b]0;z\x07"

    def prepare(engine: FakeEngine) -> None:
        engine.pieces = [hostile]
        engine.reply_error = EngineError(hostile)

    async with run_app(engine=prepare) as driver:
        await driver.ask(hostile.replace("\x1b", ""))
        await driver.wait_for_text("[bold]x[/bold] [/] [@click=app.quit]y[/] ␛]0;z␇")
        driver.app.toast(hostile)
        await driver.pilot.press("ctrl+o")
        await driver.wait_for_text("Saved conversations")
        assert "[bold]x[/bold] [/] [@click=app.quit]" in driver.screen_text()
        assert "\x1b" not in driver.screen_text()


async def test_settings_by_command_go_with_the_conversation() -> None:
    async with run_app() as driver:
        await driver.submit("/set temperature 0.3")
        await driver.submit("/system You are a poet.")
        await driver.ask("Go")
        assert driver.engine.requests[0].params.temperature == 0.3
        assert driver.engine.requests[0].messages[0].content == "You are a poet."
        await driver.submit("/set temperature 9")
        await driver.wait_for_text("must be from 0 to 2, not 9")
        await driver.submit("/set temperature")
        assert driver.app.session.conversation.params.temperature is None


async def test_ctrl_c_stops_then_clears_then_says_how_to_quit() -> None:
    async with run_app(engine=pause_engine_after(1)) as driver:
        await driver.submit("Go")
        await driver.wait_for_text("Hello")
        await driver.pilot.press(*"next", "ctrl+c")
        await driver.wait_until(lambda: "stopped" in driver.status_line())
        assert driver.app.chat.prompt.text == "next"
        await driver.pilot.press("ctrl+c")
        assert driver.app.chat.prompt.text == ""
        await driver.pilot.press("ctrl+c")
        await driver.wait_for_text("Ctrl+Q quits.")
        await driver.pilot.press("ctrl+z")
        assert driver.app.chat.prompt.text == "next"


async def test_an_unknown_command_stays_in_the_prompt() -> None:
    async with run_app() as driver:
        await driver.submit("/stpo")
        await driver.wait_for_text("Did you mean /stop?")
        assert driver.app.chat.prompt.text == "/stpo"
        assert driver.app.session.conversation.messages == ()


async def test_export_writes_a_file_and_overwrites_none(folders: Path) -> None:
    async with run_app() as driver:
        await driver.ask("Go")
        target = folders / "talk.md"
        await driver.submit(f"/export {target}")
        assert "Hello there." in target.read_text()
        target.write_text("mine")
        await driver.submit(f"/export {target}")
        await driver.wait_for_text("File exists")
        assert target.read_text() == "mine"


async def test_help_lists_every_command_and_closes() -> None:
    from glmtui.commands import COMMANDS
    from glmtui.ui.panels.help import help_text

    async with run_app() as driver:
        await driver.pilot.press("f1")
        await driver.wait_for_text("Keys and commands")
        assert all(command.help in help_text(COMMANDS).plain for command in COMMANDS)
        await driver.pilot.press("escape")
        await driver.wait_until(lambda: "Keys and commands" not in driver.screen_text())


async def test_the_palette_finds_a_command_and_runs_it() -> None:
    async with run_app() as driver:
        await driver.pilot.press("ctrl+p")
        await driver.wait_until(lambda: driver.app.screen is not driver.app.chat)
        await driver.pilot.press(*"help")
        await driver.wait_for_text("Show keys and commands")
        await driver.pilot.press("enter")
        await driver.wait_for_text("Keys and commands")


async def test_themes_change_by_command() -> None:
    async with run_app() as driver:
        assert driver.app.theme == "ink"
        await driver.submit("/theme paper")
        assert driver.app.theme == "paper"
        await driver.submit("/theme mauve")
        await driver.wait_for_text("There is no theme mauve")


async def test_a_theme_that_does_not_exist_is_said_and_replaced() -> None:
    async with run_app(replace(SERVER, theme="mauve")) as driver:
        await driver.wait_for_text("There is no theme 'mauve'; ink is used.")


async def test_a_window_too_small_says_so_and_comes_back() -> None:
    async with run_app() as driver:
        await driver.ask("Go")
        await driver.pilot.resize_terminal(39, 12)
        await driver.wait_for_text("40x10 needed")
        assert "Hello" not in driver.screen_text()
        await driver.pilot.resize_terminal(80, 24)
        await driver.wait_for_text("Hello there.")
        await driver.ask("Still there?")


async def test_the_end_stays_in_view_while_the_prompt_grows() -> None:
    async with run_app(
        engine=pause_engine_after(99, *(f"line {n}\n\n" for n in range(40)))
    ) as driver:
        await driver.ask("Go")
        await driver.wait_for_text("line 39")
        await driver.pilot.press("ctrl+j", "ctrl+j", "ctrl+j", "ctrl+j")
        await driver.wait_until(lambda: driver.app.chat.prompt.size.height == 5)
        await driver.wait_for_text("line 39")


async def test_scrolling_away_says_what_is_new_below_and_ctrl_end_goes_there() -> None:
    async with run_app(
        engine=pause_engine_after(30, *(f"line {n}\n\n" for n in range(40)))
    ) as driver:
        await driver.submit("Go")
        await driver.wait_for_text("line 29")
        await driver.pilot.press("ctrl+home")
        await driver.wait_for_text("line 0")
        driver.engine.resume.set()
        await driver.wait_for_text("new lines below")
        await driver.pilot.press("ctrl+end")
        await driver.wait_for_text("line 39")
        await driver.wait_until(lambda: "new lines below" not in driver.screen_text())


@pytest.mark.parametrize("size", [(40, 10), (80, 24), (200, 60)])
async def test_the_layout_holds_at_every_size(size: tuple[int, int]) -> None:
    async with run_app(size=size) as driver:
        await driver.ask("Go")
        lines = driver.screen_text().splitlines()
        assert len(lines) == size[1]
        assert "ready" in lines[-1]
        assert "Ask anything" in lines[-2]
        assert any("Hello there." in line for line in lines[:-3])


async def test_without_motion_a_reply_is_drawn_twice_a_second_and_whole_at_its_end() -> None:
    pieces = [f"word{n} " for n in range(60)]

    def prepare(engine: FakeEngine) -> None:
        engine.pieces, engine.rate = pieces, 60

    async with run_app(replace(SERVER, motion=False), engine=prepare) as driver:
        assert driver.app.animation_level == "none"
        drawn: list[tuple[float, str]] = []
        append = driver.app.chat.transcript.append

        def noted(text: str) -> None:
            drawn.append((time.monotonic(), text))
            append(text)

        driver.app.chat.transcript.append = noted  # type: ignore[method-assign]
        await driver.ask("Go")
        await driver.wait_for_text("word59")
        assert "".join(text for _, text in drawn) == "".join(pieces)
        *times, _last = [at for at, _ in drawn]  # the end is drawn when it comes
        assert all(later - earlier > 0.4 for earlier, later in pairwise(times))


async def test_a_reply_is_drawn_at_most_so_many_times_a_second(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with run_app() as driver:
        drawn: list[float] = []
        transcript = driver.app.chat.transcript
        append = transcript.append
        monkeypatch.setattr(
            transcript, "append", lambda text: (drawn.append(time.monotonic()), append(text))
        )
        driver.engine.pieces, driver.engine.rate = ["word "] * 60, 100.0
        await driver.ask("Go")
        assert drawn
        assert len(drawn) <= (drawn[-1] - drawn[0]) / SHORTEST_FRAME + 2
