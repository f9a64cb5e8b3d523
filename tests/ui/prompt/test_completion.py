"""What the text in the prompt may become: commands, arguments, paths."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from glmtui import commands
from glmtui.commands import command_parser
from glmtui.ui.prompt import argument_values
from glmtui.ui.prompt.completion import ArgumentValue, Completion, offers
from support.app_pilot import folders, run_app
from support.prompt_app import desk

__all__ = ["folders"]

THEMES = {
    "THEME": argument_values.among(
        lambda: [ArgumentValue("ink"), ArgumentValue("paper"), ArgumentValue("dracula")]
    )
}


def texts(offered: tuple[Completion, ...]) -> list[str]:
    return [offer.text for offer in offered]


def test_every_command_is_offered_and_knows_whether_it_needs_more() -> None:
    offered = {offer.text: offer.sends for offer in offers("/", "", {})}
    assert len(offered) == len(command_parser.by_word())
    assert offered["/new"]
    assert offered["/theme "]
    assert not offered["/set "]


@pytest.mark.usefixtures("folders")
async def test_every_kind_of_argument_is_provided_for_or_is_free() -> None:
    async with run_app() as driver:
        providers = driver.app.chat.prompt.providers
    kinds = {command.kind for command in commands.COMMANDS if command.kind}
    assert kinds == {*providers, "TEXT", "N", "NUMBER"}


def test_arguments_that_begin_so_come_before_those_that_have_it() -> None:
    assert texts(offers("/theme ", "", THEMES)) == ["/theme ink", "/theme paper", "/theme dracula"]
    assert texts(offers("/theme p", "", THEMES)) == ["/theme paper"]
    assert texts(offers("/theme R", "", THEMES)) == ["/theme paper", "/theme dracula"]
    assert offers("/theme ink", "", THEMES) == ()


@pytest.mark.parametrize("before", ["/nothing ", "/new ", "theme ", "a /theme ", "/system @"])
def test_elsewhere_nothing_is_offered(before: str) -> None:
    assert offers(before, "", {**THEMES, "FILE": argument_values.files}) == ()
    assert offers("/theme ", "x", THEMES) == ()


def test_settings_are_offered_by_name_and_then_by_value() -> None:
    assert argument_values.settings("top")[0].value == "top_k "
    assert argument_values.settings("top")[0].more
    values = [choice.value for choice in argument_values.settings("do_sample ")]
    assert values == ["do_sample true", "do_sample false", "do_sample default"]
    assert argument_values.settings("nothing ") == []


def test_files_and_folders_are_offered_by_path(tmp_path: Path) -> None:
    (tmp_path / "notes.md").write_text("x" * 3_200)
    (tmp_path / "note book").mkdir()
    (tmp_path / "note book/deep.txt").write_text("")
    (tmp_path / ".hidden").write_text("")
    (tmp_path / "no\x1bte").write_text("")
    at = str(tmp_path)
    assert list(argument_values.files(f"{at}/no")) == [
        ArgumentValue(f"{at}/note book/", "", True),
        ArgumentValue(f"{at}/notes.md", "3.2 kB"),
    ]
    assert [c.value for c in argument_values.files(f"{at}/.h")] == [f"{at}/.hidden"]
    assert (
        list(argument_values.files(f"{at}/nothing/"))
        == list(argument_values.files("~nobody-here/"))
        == []
    )
    files = {"FILE": argument_values.files}
    assert texts(offers(f"see @{at}/notes", "", files)) == [f"@{at}/notes.md"]
    assert texts(offers(f"see @{at}/note ", "", files)) == []
    assert texts(offers(f'@"{at}/note b', "", files)) == [f'@"{at}/note book/']
    assert texts(offers(f'@"{at}/note book/d', "", files)) == [f'@"{at}/note book/deep.txt"']
    assert offers("me@", "", files) == ()


async def test_tab_takes_an_argument_and_enter_sends_what_stands_there() -> None:
    async with desk() as (app, prompt, pilot):
        prompt.providers = THEMES
        await pilot.press(*"/theme", "space", "d")
        await pilot.pause()
        await pilot.press("tab")
        assert prompt.text == "/theme dracula"
        await pilot.press("enter")
        await pilot.press(*"/theme", "space")
        await pilot.pause()
        assert prompt.completions.display
        await pilot.press("enter")
        assert app.sent == ["/theme dracula", "/theme "]


async def test_arrows_and_enter_take_an_argument_and_send_it() -> None:
    async with desk() as (app, prompt, pilot):
        prompt.providers = THEMES
        await pilot.press(*"/theme", "space")
        await pilot.pause()
        await pilot.press("down", "down", "enter")
        assert app.sent == ["/theme paper"]
        prompt.providers = {"SETTING": argument_values.settings}
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
    async with desk() as (app, prompt, pilot):
        prompt.providers = {"FILE": argument_values.files}
        prompt.put("first\nread @s now")
        await pilot.press("left", "left", "left", "left", "u", "tab")
        assert prompt.text == "first\nread @sub/ now"
        await pilot.pause()
        await pilot.press("tab", "!")
        assert prompt.text == "first\nread @sub/notes.md! now"
        assert app.sent == []


def test_choices_that_take_long_hold_up_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(argument_values, "PATIENCE", 0.01)
    gate, done = threading.Event(), threading.Event()

    def slowly() -> Iterator[ArgumentValue]:
        assert gate.wait(30)
        yield ArgumentValue("ink")
        done.set()

    provider = argument_values.kept(slowly, seconds=1e9)
    assert list(provider("")) == []
    assert list(provider("i")) == []  # nobody else is sent to look
    gate.set()
    assert done.wait(30)
    deadline = time.monotonic() + 60
    while not list(provider("i")):
        assert time.monotonic() < deadline
    assert [choice.value for choice in provider("i")] == ["ink"]
