"""Completion of commands, arguments and paths."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from glmtui import commands
from glmtui.commands import command_parser
from glmtui.ui.prompt import argument_values
from glmtui.ui.prompt.completion import ArgumentValue, Completion, find_completions
from support.app_pilot import folders, run_app
from support.prompt_app import running_prompt

__all__ = ["folders"]

THEMES = {
    "THEME": argument_values.list_provider(
        lambda: [ArgumentValue("ink"), ArgumentValue("paper"), ArgumentValue("dracula")]
    )
}


def texts(offered: tuple[Completion, ...]) -> list[str]:
    return [offer.text for offer in offered]


def test_every_command_is_completed() -> None:
    offered = {offer.text: offer.submits for offer in find_completions("/", "", {})}
    assert len(offered) == len(command_parser.by_word())
    assert offered["/new"]
    assert offered["/theme "]
    assert not offered["/set "]


@pytest.mark.usefixtures("folders")
async def test_every_kind_of_argument_has_a_provider_or_is_free_text() -> None:
    async with run_app() as driver:
        providers = driver.app.chat.prompt.providers
    kinds = {command.kind for command in commands.COMMANDS if command.kind}
    assert kinds == {*providers, "TEXT", "N", "NUMBER"}


def test_values_that_begin_with_the_text_come_first() -> None:
    assert texts(find_completions("/theme ", "", THEMES)) == [
        "/theme ink",
        "/theme paper",
        "/theme dracula",
    ]
    assert texts(find_completions("/theme p", "", THEMES)) == ["/theme paper"]
    assert texts(find_completions("/theme R", "", THEMES)) == ["/theme paper", "/theme dracula"]
    assert find_completions("/theme ink", "", THEMES) == ()


@pytest.mark.parametrize("before", ["/nothing ", "/new ", "theme ", "a /theme ", "/system @"])
def test_elsewhere_there_are_no_completions(before: str) -> None:
    assert find_completions(before, "", {**THEMES, "FILE": argument_values.file_values}) == ()
    assert find_completions("/theme ", "x", THEMES) == ()


def test_settings_are_completed_by_name_and_then_by_value() -> None:
    assert argument_values.setting_values("top")[0].value == "top_k "
    assert argument_values.setting_values("top")[0].is_partial
    values = [choice.value for choice in argument_values.setting_values("do_sample ")]
    assert values == ["do_sample true", "do_sample false", "do_sample default"]
    assert argument_values.setting_values("nothing ") == []


def test_files_and_folders_are_completed_by_path(tmp_path: Path) -> None:
    (tmp_path / "notes.md").write_text("x" * 3_200)
    (tmp_path / "note book").mkdir()
    (tmp_path / "note book/deep.txt").write_text("")
    (tmp_path / ".hidden").write_text("")
    (tmp_path / "no\x1bte").write_text("")
    at = str(tmp_path)
    assert list(argument_values.file_values(f"{at}/no")) == [
        ArgumentValue(f"{at}/note book/", "", True),
        ArgumentValue(f"{at}/notes.md", "3.2 kB"),
    ]
    assert [c.value for c in argument_values.file_values(f"{at}/.h")] == [f"{at}/.hidden"]
    assert (
        list(argument_values.file_values(f"{at}/nothing/"))
        == list(argument_values.file_values("~nobody-here/"))
        == []
    )
    files = {"FILE": argument_values.file_values}
    assert texts(find_completions(f"see @{at}/notes", "", files)) == [f"@{at}/notes.md"]
    assert texts(find_completions(f"see @{at}/note ", "", files)) == []
    assert texts(find_completions(f'@"{at}/note b', "", files)) == [f'@"{at}/note book/']
    assert texts(find_completions(f'@"{at}/note book/d', "", files)) == [
        f'@"{at}/note book/deep.txt"'
    ]
    assert find_completions("me@", "", files) == ()


async def test_tab_inserts_an_argument_and_enter_sends_the_text() -> None:
    async with running_prompt() as (app, prompt, pilot):
        prompt.providers = THEMES
        await pilot.press(*"/theme", "space", "d")
        await pilot.pause()
        await pilot.press("tab")
        assert prompt.text == "/theme dracula"
        await pilot.press("enter")
        await pilot.press(*"/theme", "space")
        await pilot.pause()
        assert prompt.completion_list.display
        await pilot.press("enter")
        assert app.sent == ["/theme dracula", "/theme "]


async def test_arrows_and_enter_insert_an_argument_and_send_it() -> None:
    async with running_prompt() as (app, prompt, pilot):
        prompt.providers = THEMES
        await pilot.press(*"/theme", "space")
        await pilot.pause()
        await pilot.press("down", "down", "enter")
        assert app.sent == ["/theme paper"]
        prompt.providers = {"SETTING": argument_values.setting_values}
        await pilot.press(*"/set do", "down", "enter")
        assert prompt.text == "/set do_sample "
        await pilot.press("up", "enter")
        assert app.sent[-1] == "/set do_sample default"


async def test_a_path_is_completed_where_the_cursor_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/notes.md").write_text("")
    monkeypatch.chdir(tmp_path)
    async with running_prompt() as (app, prompt, pilot):
        prompt.providers = {"FILE": argument_values.file_values}
        prompt.set_text("first\nread @s now")
        await pilot.press("left", "left", "left", "left", "u", "tab")
        assert prompt.text == "first\nread @sub/ now"
        await pilot.pause()
        await pilot.press("tab", "!")
        assert prompt.text == "first\nread @sub/notes.md! now"
        assert app.sent == []


def test_slow_values_do_not_delay_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(argument_values, "WAIT_SECONDS", 0.01)
    gate, done = threading.Event(), threading.Event()

    def slowly() -> Iterator[ArgumentValue]:
        assert gate.wait(30)
        yield ArgumentValue("ink")
        done.set()

    provider = argument_values.background_provider(slowly, seconds=1e9)
    assert list(provider("")) == []
    assert list(provider("i")) == []  # nobody else is sent to look
    gate.set()
    assert done.wait(30)
    deadline = time.monotonic() + 60
    while not list(provider("i")):
        assert time.monotonic() < deadline
    assert [choice.value for choice in provider("i")] == ["ink"]
