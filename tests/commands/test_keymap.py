"""Keys: a set of keys and a person's own, checked where they are read, in force everywhere."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from textual.binding import Binding

from glmtui.commands import COMMANDS
from glmtui.commands.keymap import check, merge_keys
from glmtui.config import load_settings
from glmtui.ui.panels.help import help_text
from support.app_pilot import SERVER, folders, run_app

__all__ = ["folders"]


def keys_of(action: str, *asked: object) -> str:
    return next(c.keys for c in merge_keys(*asked) if c.action == action)  # type: ignore[arg-type]


def test_without_a_wish_the_keys_are_those_declared() -> None:
    assert merge_keys() == COMMANDS


def test_the_vim_set_has_its_own() -> None:
    assert keys_of("line_down", "vim") == "ctrl+down,j"
    assert keys_of("scroll_end", "vim").endswith(",G")


@pytest.mark.parametrize("key_set", ["default", "vim"])
def test_in_no_set_two_rows_of_a_scope_share_a_key(key_set: str) -> None:
    found = [(c.scope, key) for c in merge_keys(key_set) for key in c.keys.split(",") if key]
    assert len(found) == len(set(found))


def test_a_persons_own_take_the_place_of_both() -> None:
    assert keys_of("line_down", "vim", {"line_down": ("n",)}) == "n"
    assert keys_of("line_down", "vim", {"fork": ("j",)}) == "ctrl+down"
    assert keys_of("regenerate", "default", {"regenerate": ()}) == ""


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.action)
def test_what_is_declared_is_a_key_by_our_own_check(command: object) -> None:
    for key_set in ("default", "vim"):
        for key in keys_of(command.action, key_set).split(","):  # type: ignore[attr-defined]
            assert check("fork", [key] if key else "") == ((key,) if key else ())


@pytest.mark.parametrize("key", ["ctrl+y", "f12", "alt+shift+pageup", "?", "G", "ctrl+slash", "ä"])
def test_keys_that_textual_knows(key: str) -> None:
    assert check("fork", key) == (key,)
    assert list(Binding.make_bindings([Binding(key, "x")]))


@pytest.mark.parametrize(
    ("entry", "message", "hint"),
    [
        ('frok = "ctrl+y"', 'keys.frok: there is no action "frok"', "Did you mean fork?"),
        ('fork = "ctrl+pgeup"', 'keys.fork = "ctrl+pgeup" is not a key', '"ctrl+pageup"'),
        ('fork = "crtl+y"', 'keys.fork = "crtl+y" is not a key', "Keys look like"),
        ('fork = "ctrl + y"', "is not a key", ""),
        ("fork = 7", "keys.fork = 7 is not a key or a list of keys", '"" for no key'),
        ('fork = "ctrl+r"', 'keys.fork = "ctrl+r" is already the key of regenerate', "regenerate"),
        ('fork = "f7"\nexport = ["f8", "f7"]', '"f7" is already the key of fork', ""),
    ],
)
def test_a_bad_entry_is_named_with_its_line(
    tmp_path: Path, entry: str, message: str, hint: str
) -> None:
    path = tmp_path / "config.toml"
    path.write_text(f"[keys]\n{entry}\n", "utf-8")
    settings, problems = load_settings(path, {})
    (problem,) = problems
    line = 2 + entry.count("\n")
    assert problem.message.startswith(f"{path}, line {line}: ")
    assert message in problem.message
    assert hint in problem.hint
    assert len(settings.bindings) == entry.count("\n")


def test_two_rows_may_swap_their_keys(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text('[keys]\nnew = "ctrl+o"\nopen = "ctrl+n"\n', "utf-8")
    settings, problems = load_settings(path, {})
    assert not problems
    assert keys_of("new", "default", settings.bindings) == "ctrl+o"


async def test_the_app_goes_by_the_keys_in_force_and_shows_them(folders: Path) -> None:
    bound = {"help": ("f9",), "new": ("ctrl+o",), "open": ("ctrl+n",), "quit": ()}
    async with run_app(replace(SERVER, bindings=bound)) as driver:
        await driver.wait_for_text("F9 help")
        await driver.pilot.press("f1")
        await driver.pilot.press("f9")
        await driver.wait_for_text("Keys and commands")
        await driver.pilot.press("escape", "ctrl+n")
        await driver.wait_for_text("Saved conversations")
        await driver.pilot.press("escape", "ctrl+q")
        await driver.pilot.press("ctrl+c")
        await driver.wait_for_text("/quit quits.")
    shown = help_text(merge_keys("default", bound)).plain
    assert "F9  /help" in shown
    assert "Ctrl+Q" not in shown


async def test_keys_of_the_list_and_of_the_prompt_are_changed_like_others(folders: Path) -> None:
    bound = {
        "listed_pin": ("f9",),
        "search_history": ("f7",),
        "regenerate": (),
        "listed_delete": (),
    }
    async with run_app(replace(SERVER, bindings=bound)) as driver:
        await driver.ask("first question")
        await driver.pilot.press("ctrl+o")
        await driver.wait_for_text("F9 pin   Ctrl+Z undo")
        assert "delete" not in driver.screen_text()
        await driver.pilot.press("f9")
        await driver.wait_until(lambda: any(row.pinned for row in driver.store.summaries()))
        await driver.pilot.press("ctrl+d")
        await driver.pilot.press("escape", "f", "ctrl+r")
        assert len(driver.store.summaries()) == 1
        assert not driver.app.chat.prompt.completion_list.display
        await driver.pilot.press("f7")
        await driver.wait_for_text("F7 next match")
        assert len(driver.engine.requests) == 1


async def test_vim_keys_scroll_where_nothing_is_typed(folders: Path) -> None:
    async with run_app(replace(SERVER, keys="vim")) as driver:
        driver.engine.pieces = ["\n\n".join(f"line {n}" for n in range(60))]
        await driver.ask("j")
        transcript = driver.app.chat.transcript
        assert transcript.following
        transcript.focus()
        before = transcript.scroll_offset.y
        await driver.pilot.press("ctrl+u")
        await driver.wait_until(lambda: transcript.scroll_offset.y < before - 3)
        await driver.pilot.press("g", "g")
        await driver.wait_until(lambda: transcript.scroll_offset.y == 0)
        await driver.pilot.press("G")
        await driver.wait_until(lambda: transcript.following)
