"""History: recalling with Up, searching with Ctrl+R, keeping texts across runs."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from glmtui.store import question_history
from glmtui.store.question_history import QuestionHistory
from glmtui.ui.prompt.history import History
from support.app_pilot import folders, run_app
from support.prompt_app import running_prompt

pytestmark = pytest.mark.usefixtures("folders")
__all__ = ["folders"]


def history(*texts: str) -> History:
    return History(lambda: texts)


def test_recalling_finds_texts_that_begin_with_the_draft() -> None:
    past = history("git log", "explain", "git push", "git log")
    assert [past.older("git"), past.older(""), past.older("")] == ["git log", "git push", None]
    assert past.newer() == "git log"
    assert past.is_recalling
    assert past.newer() == "git"
    assert not past.is_recalling
    assert past.newer() is None


def test_texts_of_this_run_are_newer_than_those_of_earlier_runs() -> None:
    kept: list[str] = []
    past = History(lambda: ["old", "both"], kept.append)
    past.add("both")
    past.add("new")
    past.add("  ")
    assert kept == ["both", "new"]
    assert past.matching("") == ["new", "both", "old"]


def test_a_search_is_for_all_words_in_any_case() -> None:
    past = history("Explain RoPE", "rope and knots", "显存不够怎么办")
    assert past.matching("rope EXPLAIN") == ["Explain RoPE"]
    assert past.matching("不够") == ["显存不够怎么办"]


async def test_up_and_down_recall_and_return_to_the_draft() -> None:
    async with running_prompt() as (_, prompt, pilot):
        prompt.sent_history = history("one", "two\nlines", "tow")
        await pilot.press("up", "up")
        assert prompt.text == "two\nlines"
        await pilot.press("down", "down")
        assert prompt.text == ""
        await pilot.press(*"tw", "up")
        assert prompt.text == "two\nlines"
        await pilot.press("down")
        assert prompt.text == "tw"


async def test_up_within_several_rows_moves_the_cursor_first() -> None:
    async with running_prompt() as (_, prompt, pilot):
        prompt.sent_history = history("one\ntwo, once more")
        prompt.insert("one\ntwo")
        await pilot.press("up")
        assert prompt.text == "one\ntwo"
        assert prompt.cursor_location[0] == 0
        await pilot.press("up")
        assert prompt.text == "one\ntwo, once more"


async def test_a_recalled_text_that_was_changed_is_a_draft() -> None:
    async with running_prompt() as (_, prompt, pilot):
        prompt.sent_history = history("other", "again")
        await pilot.press("up", "!")
        await pilot.pause()
        await pilot.press("up")
        assert prompt.text == "again!"


async def test_ctrl_r_filters_moves_on_and_inserts() -> None:
    async with running_prompt() as (app, prompt, pilot):
        prompt.sent_history = history("explain attention", "other", "explain RoPE")
        await pilot.press(*"expl", "ctrl+r")
        assert [offer.label for offer in prompt.completion_list.completions] == [
            "explain RoPE",
            "explain attention",
        ]
        await pilot.press("ctrl+r", "enter")
        assert prompt.text == "explain attention"
        assert not prompt.completion_list.display
        assert app.sent == []
        await pilot.press("enter")
        assert app.sent == ["explain attention"]


async def test_ctrl_r_searches_as_the_user_types_and_esc_closes() -> None:
    async with running_prompt() as (app, prompt, pilot):
        prompt.sent_history = history("explain attention", "explain RoPE")
        await pilot.press(*"expl", "ctrl+r", *" ro")
        await pilot.pause()
        assert [offer.label for offer in prompt.completion_list.completions] == ["explain RoPE"]
        await pilot.press(*"xyz")
        await pilot.pause()
        assert prompt.completion_list.completions == ()
        await pilot.press("enter")
        assert app.sent == []
        await pilot.press("escape")
        assert not prompt.completion_list.display
        assert prompt.text == "expl roxyz"


async def test_with_an_empty_prompt_ctrl_r_regenerates() -> None:
    async with run_app() as driver:
        await driver.ask("Hi")
        await driver.pilot.press("ctrl+r")
        await driver.wait_until(lambda: "fake  2/2" in driver.screen_text())


async def test_with_an_empty_prompt_up_selects_a_message() -> None:
    async with running_prompt() as (_, prompt, pilot):
        prompt.sent_history = history("one", "other")
        prompt.on_up_when_empty = lambda: True
        await pilot.press("up")
        assert prompt.text == ""
        await pilot.press("o", "up")
        assert prompt.text == "other"


async def test_questions_are_kept_for_the_next_run_and_commands_are_not() -> None:
    async with run_app() as driver:
        await driver.ask("What is RoPE?")
        await driver.submit("/system my password is 1234")
    async with run_app() as driver:
        await driver.pilot.press("up")
        assert driver.app.chat.prompt.text == "What is RoPE?"
        await driver.submit("/history")
        await driver.wait_for_text("Type to filter")


def test_the_file_is_private_and_foreign_lines_are_ignored(tmp_path: Path) -> None:
    path = tmp_path / "state/sent.jsonl"
    kept = QuestionHistory(path)
    for text in ("one\ntwo", "你好", "x" * (question_history.LONGEST + 1)):
        kept.add(text)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with path.open("ab") as file:
        file.write(b'"cut sho\n7\n\xff\n')
    kept.add("three")
    assert QuestionHistory(path).read() == ["one\ntwo", "你好", "three"]


def test_the_file_stays_small(tmp_path: Path) -> None:
    path = tmp_path / "sent.jsonl"
    path.write_text("".join(f"{json.dumps(str(n))}\n" for n in range(3 * question_history.MOST)))
    assert QuestionHistory(path).read() == [
        str(n) for n in range(2 * question_history.MOST, 3 * question_history.MOST)
    ]
    assert len(path.read_text().splitlines()) == question_history.MOST
    path.write_text(f"{json.dumps('x' * 19_000)}\n" * 800)
    assert len(QuestionHistory(path).read()) < 800
    assert path.stat().st_size <= question_history.MOST_BYTES


def test_an_unreadable_file_counts_as_empty(tmp_path: Path) -> None:
    kept = QuestionHistory(tmp_path)
    kept.add("lost")
    assert kept.read() == []
