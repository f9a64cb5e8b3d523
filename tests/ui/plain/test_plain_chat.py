"""The plain chat: lines are only added, states are words, everything is saved."""

from __future__ import annotations

import _thread
import inspect
import shlex
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from glmtui.commands import COMMANDS
from glmtui.config import Settings
from glmtui.errors import BadCheckpoint, ConfigError, EngineError
from glmtui.store import Store
from glmtui.system import paths
from glmtui.ui.plain.plain_chat import PlainChat
from glmtui.ui.plain.plain_commands import PlainCommands
from support import TESTS
from support.app_pilot import SERVER, folders
from support.app_process import PROGRAM
from support.emulated_terminal import Terminal
from support.fake_engine import FakeEngine

pytestmark = pytest.mark.usefixtures(folders.__name__)


def chat_with_lines(
    *lines: str | type[BaseException],
    settings: Settings = SERVER,
    engine: Callable[[FakeEngine], object] = lambda engine: None,
    problems: Iterable[ConfigError] = (),
) -> tuple[str, FakeEngine]:
    """What was written while these lines were typed, and the engine that was asked."""
    written: list[str] = []
    waiting = list(lines)
    made: list[FakeEngine] = []

    def read() -> str:
        line = waiting.pop(0) if waiting else EOFError
        if isinstance(line, type):
            raise line
        written.append(f"> {line}\n")
        return line

    def start(emit: Any) -> FakeEngine:
        made.append(FakeEngine(emit))
        engine(made[0])
        return made[0]

    store = Store(paths.data_dir() / "conversations")
    chat = PlainChat(settings, store, start, write=written.append, read=read)
    chat.run(None, list(problems))
    assert chat.close() == (True, ())
    return "".join(written), made[0]


def test_a_question_and_its_reply() -> None:
    text, _ = chat_with_lines("Hi", "/quit", "never read")
    assert "fake is loading" not in text.splitlines()[1]
    assert text.endswith("> Hi\nfake:\nHello there.\n> /quit\n")
    assert "\x1b" not in text
    saved = Store(paths.data_dir() / "conversations").load("last")
    assert [m.content for m in saved.path] == ["Hi", "Hello there."]


def test_what_is_loaded_is_said_once() -> None:
    text, _ = chat_with_lines()
    assert text.splitlines()[:2] == [
        "Loading http://fake.invalid/v1. You can already type.",
        "fake · cpu · 2,048 tokens",
    ]


def test_another_reply_says_which_it_is() -> None:
    text, engine = chat_with_lines("Hi", "/regenerate", "/continue")
    assert "> /regenerate\nfake 2/2:\nHello there.\n" in text
    assert len(engine.requests) == 3


def test_ctrl_c_stops_a_reply_and_never_the_program() -> None:
    def held(engine: FakeEngine) -> None:
        engine.pause_after = 1
        wait = engine.resume.wait

        def interrupted(timeout: float | None = None) -> bool:
            _thread.interrupt_main()
            return wait(timeout)  # until the engine hears of it

        engine.resume.wait = interrupted  # type: ignore[method-assign]

    text, engine = chat_with_lines("Go", KeyboardInterrupt, engine=held)
    assert engine.cancelled == {1}
    assert "fake:\nHello\nstopped\n" in text
    assert "/quit quits." in text


def test_errors_are_words() -> None:
    def failing(engine: FakeEngine) -> None:
        engine.reply_error = EngineError("It broke.", "Mend it.")

    text, _ = chat_with_lines("Hi", "/stpo", "/theme", "/set temperature 9", engine=failing)
    assert "error: It broke.\nMend it." in text
    assert "There is no command /stpo.\nDid you mean /stop?" in text
    assert "/theme needs the full screen." in text
    assert "must be from 0 to 2, not 9" in text


def test_without_a_model_a_question_does_not_wait_for_ever() -> None:
    def failing(engine: FakeEngine) -> None:
        engine.load_error = BadCheckpoint("It is broken.")

    text, engine = chat_with_lines("Hi", engine=failing, problems=[ConfigError("line 3 is wrong")])
    assert text.startswith("line 3 is wrong\n")
    assert "It is broken." in text
    assert text.endswith("> Hi\nload failed\n")
    assert not engine.requests


def test_the_commands_that_need_no_screen(folders: Path) -> None:
    target = folders / "out.md"
    text, engine = chat_with_lines(
        "one",
        "/keep 1",
        "/preset precise",
        "/set top_k 5",
        "/system Be brief.",
        "two",
        f"/export {target}",
        "/stats",
        "/new",
        "/open one",
        "/fork",
        "/clear",
        "/quant int8",
        "/model",
        "/help",
        "/open nothing",
    )
    last = engine.requests[-1]
    assert [m.content for m in last.messages] == ["Be brief.", "two"]
    assert (last.params.temperature, last.params.top_k) == (0.2, 5)
    assert "Hello there." in target.read_text("utf-8")
    for words in ("Last reply", "user: one", "fake: Hello there.", "in a copy"):
        assert words in text
    assert engine.cache_clears == 1
    assert engine.loads[-1][1].quant == "int8"
    assert "/keep [N]: Use only the last N turns in the prompt" in text
    assert "/theme" not in text
    assert "There is no conversation 'nothing'." in text


NEED_A_SCREEN = {"theme", "quote"}


def test_every_command_is_here_but_for_those_that_need_a_screen() -> None:
    store = Store(paths.data_dir() / "conversations")
    chat = PlainChat(SERVER, store, FakeEngine, write=str, read=str)
    actions = PlainCommands(chat).actions
    assert chat.close() == (True, ())
    words = {c.slash for c in COMMANDS if c.slash and c.action not in actions}
    assert words == NEED_A_SCREEN
    for command in COMMANDS:
        if command.slash and command.slash not in NEED_A_SCREEN:
            parameters = inspect.signature(actions[command.action]).parameters
            assert len(parameters) == bool(command.argument), command.action


def test_conversations_are_found_titled_pinned_and_deleted() -> None:
    text, _ = chat_with_lines(
        "What is RoPE?",
        "/title Rotary embeddings",
        "/pin",
        "/find is rope",
        "/find no such words",
        "/find",
        "/trash",
        "/trash",
        "/restore",
        "/restore",
    )
    said = text.partition("> /title")[2].splitlines()
    (row,) = Store(paths.data_dir() / "conversations").summaries()
    assert (row.title, row.pinned) == ("Rotary embeddings", True)
    assert f"{row.id}  Rotary embeddings: What is RoPE?" in said
    for line in ("Pinned.", "Not found.", "/find needs an argument."):
        assert line in said
    assert "Deleted: Rotary embeddings. /restore restores it." in said
    assert "This conversation is empty." in said
    assert "Nothing to restore: nothing was deleted since the start." in said
    assert said.count("user: What is RoPE?") == 1


def test_messages_are_copied_deleted_and_asked_otherwise(
    monkeypatch: pytest.MonkeyPatch, folders: Path
) -> None:
    def thoughtful(engine: FakeEngine) -> None:
        engine.pieces = ["<think>Let me see.</think>", "It is\n```\none\n```\n```\ntwo\n```\n"]

    change = "import sys; p = sys.argv[1]; t = open(p).read(); open(p, 'w').write(t + 'Why?')"
    monkeypatch.setenv("VISUAL", shlex.join([sys.executable, "-c", change]))
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    copied = paths.state_dir() / "copied.txt"
    lines = ("/copy", "/thinking", "/edit", "/editor", "/delete", "/undo", "/thinking", "/code 2")
    text, engine = chat_with_lines(*lines, "/edit", "/history why", engine=thoughtful)
    asked = [
        [m.content for m in request.messages if m.role == "user"] for request in engine.requests
    ]
    assert asked == [["Why?"], ["Why?Why?"]]
    assert copied.read_text("utf-8") == "two"
    for line in (
        "No reply to copy yet.",
        "No question to edit yet.",
        "This reply has no reasoning.",
        "Let me see.",
        "Block 2 of 2.",
        "Deleted 1 message. Undo: /undo\n> /undo\nfake: ",
        "Why?\nWhy?Why?\n",
    ):
        assert line in text
    saved = Store(paths.data_dir() / "conversations").load("last")
    assert len(saved.messages) == 4  # both questions, each with its reply


def test_the_settings_in_force_and_a_preset_of_ones_own() -> None:
    text, _ = chat_with_lines(
        "/preset precise", "/set top_p 0.7", "/preset save mine", "/settings", "/preset"
    )
    assert "temperature = 0.2\n" in text
    assert "top_p = 0.7\n" in text
    assert "max_new_tokens = model default\n" in text
    assert text.rstrip().endswith("mine")


def test_in_a_terminal_nothing_is_drawn_twice(tmp_path: Path) -> None:
    program = PROGRAM.format(
        tests=str(TESTS), prepare="engine.pieces = ['你好', '\\x1b[2J', '!']"
    ).replace('/v1")', '/v1", plain=True)')
    # A locale that is not installed, as SSH often brings one.
    terminal = Terminal(tmp_path, ["-c", program], environ={"LC_ALL": "zz_ZZ.UTF-8"})
    try:
        terminal.wait_for_text("> ")
        terminal.press("您好\r".encode())
        terminal.wait_for_text("你好␛[2J!")
        terminal.press(b"/quit\r")
        assert terminal.wait_for_exit() == 0
        assert terminal.saved_messages()[0] == "您好"
        for never in (b"\x1b[2J", b"\x1b[H", b"\x1b[?1049h"):
            assert never not in terminal.output
    finally:
        terminal.close()
