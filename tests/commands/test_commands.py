"""COMMANDS: each row is complete, unique, and has an implementation."""

from __future__ import annotations

import inspect

import pytest

from glmtui import commands
from glmtui.commands import COMMANDS, LIST, PROMPT
from glmtui.commands.command_parser import completions, looks_like_command, parse
from glmtui.errors import UsageError
from support.app_pilot import folders, run_app

__all__ = ["folders"]


@pytest.mark.usefixtures("folders")
async def test_each_row_names_an_action_of_its_place_that_takes_its_argument() -> None:
    from glmtui.ui.dialogs.conversation_picker import ConversationPicker
    from glmtui.ui.prompt.prompt import Prompt

    widgets = {PROMPT: Prompt, LIST: ConversationPicker}
    async with run_app() as driver:
        actions = dict(driver.app.chat.actions)
    for command in COMMANDS:
        if widget := widgets.get(command.scope):
            action = getattr(widget, f"action_{command.action}")
            assert action.__module__.startswith("glmtui."), "Textual's own does not count"
            assert not command.argument
        else:
            action = actions.pop(command.action)
            parameters = inspect.signature(action).parameters
            assert len(parameters) == bool(command.argument), command.action
    assert not actions, "these are in no row of COMMANDS"


def test_no_two_rows_share_a_key_of_a_scope_a_word_or_an_action() -> None:
    keys = [(c.scope, key) for c in COMMANDS for key in c.keys.split(",") if key]
    words = [command.slash for command in COMMANDS if command.slash]
    actions = [command.action for command in COMMANDS]
    for names in (keys, words, actions):
        assert len(names) == len(set(names))
    assert all(command.keys or command.slash for command in COMMANDS)


def test_a_command_with_its_argument() -> None:
    command, argument = parse("/set top_p 0.8 ")
    assert (command.action, argument) == ("set", "top_p 0.8")
    assert parse("/new")[0].action == "new"
    assert parse("/model")[1] == ""


@pytest.mark.parametrize(
    ("text", "said", "hint"),
    [
        ("/stpo", "no command /stpo", "/stop"),
        ("/new page", "takes no argument", ""),
        ("/set", "needs an argument", "/set SETTING [VALUE]"),
    ],
)
def test_a_command_that_means_nothing_says_what_would(text: str, said: str, hint: str) -> None:
    with pytest.raises(UsageError) as raised:
        parse(text)
    assert said in raised.value.message
    assert hint in raised.value.hint


@pytest.mark.parametrize(
    "text", ["/usr/bin is a folder", "/", "//new", " /new", "/new\nline", "5/6"]
)
def test_what_is_no_command_is_a_question(text: str) -> None:
    assert not looks_like_command(text)


def test_completions_begin_with_what_is_typed_and_the_whole_word_comes_first() -> None:
    assert {c.slash for c in completions("/")} == {c.slash for c in COMMANDS if c.slash}
    assert [c.slash for c in completions("/set")] == ["set", "settings"]
    assert completions("/set ") == completions("set") == completions("/x") == ()


def test_the_table_has_every_key_and_word() -> None:
    table = commands.markdown_table()
    assert table.count("\n") == len(COMMANDS) + 2
    for command in COMMANDS:
        for text in (*command.key_names, command.usage, command.help):
            assert text in table
    assert "`Ctrl+R`" in table
    assert "| `Up c` | `/copy` |" in table  # once a message is selected
