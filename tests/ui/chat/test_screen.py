"""The app: what its keys and commands do, with a FakeEngine behind it."""

from __future__ import annotations

import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from glmtui.chat import Conversation, Message
from glmtui.errors import ConfigError, EngineError, ModelError, StoreError
from glmtui.ui.chat.view import SHORTEST_FRAME
from support.app_pilot import SERVER, folders, running
from support.fake_engine import FakeEngine

pytestmark = pytest.mark.usefixtures(folders.__name__)


def held(after: int, *pieces: str) -> object:
    """An engine that stops for a moment after so many pieces."""

    def prepare(engine: FakeEngine) -> None:
        engine.held_after = after
        engine.pieces = list(pieces) or engine.pieces

    return prepare


async def test_a_question_typed_and_sent_is_answered_on_the_screen() -> None:
    async with running() as desk:
        await desk.pilot.press(*"Hi!", "enter")
        await desk.shows("Hello there.")
        assert "Hi!" in desk.screen()
        assert desk.app.chat.prompt.text == ""
        await desk.until(lambda: "ready" in desk.status())
        assert "14/2,048" not in desk.status()
        assert "15/2,048" in desk.status()


async def test_escape_stops_the_reply_and_keeps_what_there_is() -> None:
    async with running(engine=held(1, "Once", " upon")) as desk:
        await desk.type("Go")
        await desk.shows("Once")
        await desk.pilot.press("escape")
        await desk.shows("stopped")
        assert "upon" not in desk.screen()
        assert desk.app.session.conversation.path[-1].content == "Once"


async def test_ctrl_r_answers_again_and_says_which_of_how_many() -> None:
    async with running() as desk:
        await desk.ask("Go")
        desk.engine.pieces = ["Another"]
        await desk.pilot.press("ctrl+r")
        await desk.shows("Another")
        await desk.shows("fake  2/2")
        assert "Hello there." not in desk.screen()


async def test_continue_goes_on_with_a_cut_reply() -> None:
    async with running(engine=held(1, "One", " two")) as desk:
        await desk.type("Go")
        await desk.shows("One")
        await desk.pilot.press("escape")
        await desk.shows("stopped")
        desk.engine.held_after, desk.engine.pieces = None, [", and more"]
        await desk.type("/continue")
        await desk.shows("One, and more")


async def test_an_edited_question_is_sent_as_a_branch() -> None:
    async with running() as desk:
        await desk.ask("Frist")
        await desk.type("/edit")
        assert desk.app.chat.prompt.text == "Frist"
        await desk.ask("First")
        assert desk.app.session.conversation.path[0].content == "First"
        assert len(desk.app.session.conversation.messages) == 4
        await desk.type("/edit")
        await desk.pilot.press("escape")
        assert desk.app.chat.prompt.text == ""
        await desk.ask("Next")
        assert len(desk.app.session.conversation.path) == 4


async def test_a_question_sent_while_the_model_loads_is_answered_later() -> None:
    engines: list[FakeEngine] = []

    def prepare(engine: FakeEngine) -> None:
        engine.load_gate.clear()
        engines.append(engine)

    async with running(replace(SERVER, model=None), engine=prepare) as desk:
        await desk.shows("Models")
        await desk.pilot.press("escape")
        await desk.type("/model http://fake.invalid/v1")
        await desk.until(lambda: "loading 43 %" in desk.status())
        await desk.type("Are you there?")
        await desk.until(lambda: "question waiting" in desk.status())
        engines[0].load_gate.set()
        await desk.shows("Hello there.")


async def test_a_second_question_stays_in_the_prompt_while_a_reply_is_written() -> None:
    async with running(engine=held(1)) as desk:
        await desk.type("Go")
        await desk.shows("Hello")
        await desk.type("And then?")
        assert desk.app.chat.prompt.text == "And then?"
        await desk.shows("A reply is being written; Esc stops it.")
        assert len(desk.engine.requests) == 1


async def test_a_failed_reply_says_why_and_the_app_goes_on() -> None:
    def prepare(engine: FakeEngine) -> None:
        engine.fail = EngineError("CUDA is out of memory.", "Use a shorter context.")

    async with running(engine=prepare) as desk:
        await desk.ask("Go")
        await desk.shows("CUDA is out of memory.")
        await desk.shows("Use a shorter context.")
        assert "failed" in desk.status()
        desk.engine.fail = None
        await desk.ask("Again")
        assert "ready" in desk.status()


async def test_a_model_that_cannot_be_loaded_leaves_the_app_usable() -> None:
    def prepare(engine: FakeEngine) -> None:
        engine.fail_load = ModelError("model.safetensors is cut short.", "Pull it again.")

    async with running(replace(SERVER, model=None), engine=prepare) as desk:
        await desk.shows("Models")
        await desk.pilot.press("escape")
        await desk.type("/model http://fake.invalid/v1")
        await desk.shows("model.safetensors is cut short.")
        await desk.shows("Pull it again.")
        assert "load failed" in desk.status()
        desk.engine.fail_load = None
        await desk.type("/model http://fake.invalid/v1")
        await desk.until(lambda: "ready" in desk.status())
        assert "Pull it again." not in desk.screen()


async def test_problems_with_the_settings_are_shown_until_they_are_closed() -> None:
    problem = ConfigError("/home/u/config.toml, line 3: there is no setting [red]", "Did you mean?")
    async with running(problems=[problem]) as desk:
        await desk.shows("config.toml, line 3: there is no setting [red]")
        await desk.pilot.press("escape")
        await desk.until(lambda: "line 3" not in desk.screen())


async def test_a_disk_that_refuses_is_said_and_nothing_is_lost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with running() as desk:
        save = desk.app.store.save

        def refuse(conversation: Conversation) -> Path:
            raise StoreError("cannot write: No space left on device")

        monkeypatch.setattr(desk.app.store, "save", refuse)
        await desk.ask("Go")
        await desk.shows("No space left on device")
        await desk.until(lambda: "not saved" in desk.status())
        monkeypatch.setattr(desk.app.store, "save", save)
        await desk.ask("Again")
        await desk.until(lambda: "not saved" not in desk.status())
        assert len(desk.store.load(desk.app.session.conversation.id).path) == 4


async def test_ctrl_n_leaves_the_conversation_on_disk_and_begins_anew() -> None:
    async with running() as desk:
        await desk.ask("Go")
        first = desk.app.session.conversation.id
        await desk.pilot.press("ctrl+n")
        assert "Hello there." not in desk.screen()
        await desk.ask("Elsewhere")
        saved = {summary.id for summary in desk.store.summaries()}
        assert saved == {first, desk.app.session.conversation.id}


async def test_a_fork_goes_on_in_a_file_of_its_own() -> None:
    async with running() as desk:
        await desk.ask("Go")
        await desk.type("/fork")
        await desk.ask("Here only")
        await desk.until(lambda: len(desk.store.summaries()) == 2)
        assert sorted(s.message_count for s in desk.store.summaries()) == [2, 4]


async def test_a_saved_conversation_is_found_by_a_word_and_opened() -> None:
    async with running() as desk:
        for question in ("About apples", "About pears", "关于中文的问题"):
            await desk.ask(question)
            await desk.pilot.press("ctrl+n")
        await desk.pilot.press("ctrl+o")
        await desk.shows("关于中文的问题")
        await desk.pilot.press(*"pear")
        await desk.until(lambda: "apples" not in desk.screen())
        await desk.pilot.press("enter")
        await desk.until(lambda: desk.app.session.conversation.title == "About pears")
        await desk.shows("Hello there.")


async def test_a_conversation_named_at_the_start_is_shown() -> None:
    old = Conversation.new().add(Message("user", "From yesterday"))
    async with running(conversation=old) as desk:
        await desk.shows("From yesterday")


async def test_text_of_models_and_files_is_never_markup_or_control() -> None:
    hostile = "[bold]x[/bold] [/] [@click=app.quit]y[/] \x1b]0;z\x07"

    def prepare(engine: FakeEngine) -> None:
        engine.pieces = [hostile]
        engine.fail = EngineError(hostile)

    async with running(engine=prepare) as desk:
        await desk.ask(hostile.replace("\x1b", ""))
        await desk.shows("[bold]x[/bold] [/] [@click=app.quit]y[/] ␛]0;z␇")
        desk.app.tell(hostile)
        await desk.pilot.press("ctrl+o")
        await desk.shows("Saved conversations")
        assert "[bold]x[/bold] [/] [@click=app.quit]" in desk.screen()
        assert "\x1b" not in desk.screen()


async def test_settings_by_command_go_with_the_conversation() -> None:
    async with running() as desk:
        await desk.type("/set temperature 0.3")
        await desk.type("/system You are a poet.")
        await desk.ask("Go")
        assert desk.engine.requests[0].params.temperature == 0.3
        assert desk.engine.requests[0].messages[0].content == "You are a poet."
        await desk.type("/set temperature 9")
        await desk.shows("is not a number from 0 to 2")
        await desk.type("/set temperature")
        assert desk.app.session.conversation.params.temperature is None


async def test_ctrl_c_stops_then_clears_then_says_how_to_quit() -> None:
    async with running(engine=held(1)) as desk:
        await desk.type("Go")
        await desk.shows("Hello")
        await desk.pilot.press(*"next", "ctrl+c")
        await desk.until(lambda: "stopped" in desk.status())
        assert desk.app.chat.prompt.text == "next"
        await desk.pilot.press("ctrl+c")
        assert desk.app.chat.prompt.text == ""
        await desk.pilot.press("ctrl+c")
        await desk.shows("Ctrl+Q quits.")
        await desk.pilot.press("ctrl+z")
        assert desk.app.chat.prompt.text == "next"


async def test_an_unknown_command_stays_in_the_prompt() -> None:
    async with running() as desk:
        await desk.type("/stpo")
        await desk.shows("Did you mean /stop?")
        assert desk.app.chat.prompt.text == "/stpo"
        assert desk.app.session.conversation.messages == ()


async def test_export_writes_a_file_and_overwrites_none(folders: Path) -> None:
    async with running() as desk:
        await desk.ask("Go")
        target = folders / "talk.md"
        await desk.type(f"/export {target}")
        assert "Hello there." in target.read_text()
        target.write_text("mine")
        await desk.type(f"/export {target}")
        await desk.shows("File exists")
        assert target.read_text() == "mine"


async def test_help_lists_every_command_and_closes() -> None:
    from glmtui.commands import COMMANDS
    from glmtui.ui.panels.help import help_text

    async with running() as desk:
        await desk.pilot.press("f1")
        await desk.shows("Keys and commands")
        assert all(command.help in help_text(COMMANDS).plain for command in COMMANDS)
        await desk.pilot.press("escape")
        await desk.until(lambda: "Keys and commands" not in desk.screen())


async def test_the_palette_finds_a_command_and_runs_it() -> None:
    async with running() as desk:
        await desk.pilot.press("ctrl+p")
        await desk.until(lambda: desk.app.screen is not desk.app.chat)
        await desk.pilot.press(*"help")
        await desk.shows("Show keys and commands")
        await desk.pilot.press("enter")
        await desk.shows("Keys and commands")


async def test_themes_change_by_command() -> None:
    async with running() as desk:
        assert desk.app.theme == "ink"
        await desk.type("/theme paper")
        assert desk.app.theme == "paper"
        await desk.type("/theme mauve")
        await desk.shows("There is no theme mauve")


async def test_a_theme_that_does_not_exist_is_said_and_replaced() -> None:
    async with running(replace(SERVER, theme="mauve")) as desk:
        await desk.shows("There is no theme 'mauve'; ink is shown.")


async def test_a_window_too_small_says_so_and_comes_back() -> None:
    async with running() as desk:
        await desk.ask("Go")
        await desk.pilot.resize_terminal(39, 12)
        await desk.shows("40x10 is needed")
        assert "Hello" not in desk.screen()
        await desk.pilot.resize_terminal(80, 24)
        await desk.shows("Hello there.")
        await desk.ask("Still there?")


async def test_the_end_stays_in_view_while_the_prompt_grows() -> None:
    async with running(engine=held(99, *(f"line {n}\n\n" for n in range(40)))) as desk:
        await desk.ask("Go")
        await desk.shows("line 39")
        await desk.pilot.press("ctrl+j", "ctrl+j", "ctrl+j", "ctrl+j")
        await desk.until(lambda: desk.app.chat.prompt.size.height == 5)
        await desk.shows("line 39")


async def test_scrolling_away_says_what_is_new_below_and_ctrl_end_goes_there() -> None:
    async with running(engine=held(30, *(f"line {n}\n\n" for n in range(40)))) as desk:
        await desk.type("Go")
        await desk.shows("line 29")
        await desk.pilot.press("ctrl+home")
        await desk.shows("line 0")
        desk.engine.hold.set()
        await desk.shows("new lines below")
        await desk.pilot.press("ctrl+end")
        await desk.shows("line 39")
        await desk.until(lambda: "new lines below" not in desk.screen())


@pytest.mark.parametrize("size", [(40, 10), (80, 24), (200, 60)])
async def test_the_layout_holds_at_every_size(size: tuple[int, int]) -> None:
    async with running(size=size) as desk:
        await desk.ask("Go")
        lines = desk.screen().splitlines()
        assert len(lines) == size[1]
        assert "ready" in lines[-1]
        assert "Ask anything" in lines[-2]
        assert any("Hello there." in line for line in lines[:-3])


async def test_without_motion_a_reply_is_drawn_twice_a_second_and_whole_at_its_end() -> None:
    pieces = [f"word{n} " for n in range(60)]

    def prepare(engine: FakeEngine) -> None:
        engine.pieces, engine.rate = pieces, 60

    async with running(replace(SERVER, motion=False), engine=prepare) as desk:
        assert desk.app.animation_level == "none"
        drawn: list[tuple[float, str]] = []
        append = desk.app.chat.transcript.append

        def noted(text: str) -> None:
            drawn.append((time.monotonic(), text))
            append(text)

        desk.app.chat.transcript.append = noted  # type: ignore[method-assign]
        await desk.ask("Go")
        await desk.shows("word59")
        assert "".join(text for _, text in drawn) == "".join(pieces)
        *times, _last = [at for at, _ in drawn]  # the end is drawn when it comes
        assert all(later - earlier > 0.4 for earlier, later in pairwise(times))


async def test_a_reply_is_drawn_at_most_so_many_times_a_second(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with running() as desk:
        drawn: list[float] = []
        transcript = desk.app.chat.transcript
        append = transcript.append
        monkeypatch.setattr(
            transcript, "append", lambda text: (drawn.append(time.monotonic()), append(text))
        )
        desk.engine.pieces, desk.engine.rate = ["word "] * 60, 100.0
        await desk.ask("Go")
        assert drawn
        assert len(drawn) <= (drawn[-1] - drawn[0]) / SHORTEST_FRAME + 2
