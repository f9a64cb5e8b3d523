"""Drafts: unsent text is restored after a restart or a crash."""

from __future__ import annotations

import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from glmtui.chat import Conversation, Message
from glmtui.store.drafts import Drafts
from glmtui.ui.dialogs.conversation_picker import ConversationChoice
from glmtui.ui.session.drafts import PromptDrafts
from support.app_pilot import folders, run_app
from support.emulated_terminal import Terminal

__all__ = ["folders"]

NEW = Conversation.new()
OLD = NEW.add(Message("user", "Hi"))


def test_a_draft_is_kept_for_its_owner_alone_and_an_empty_one_is_none(tmp_path: Path) -> None:
    drafts = Drafts(tmp_path / "state/drafts")
    drafts.write("0123abcd", "half a\nquestion 你好")
    assert Drafts(tmp_path / "state/drafts").read("0123abcd") == "half a\nquestion 你好"
    (file,) = (tmp_path / "state/drafts").iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    drafts.write("0123abcd", " \n")
    assert drafts.read("0123abcd") == ""
    assert not file.exists()


def test_programs_that_run_at_once_have_a_new_draft_each(tmp_path: Path) -> None:
    one, two = Drafts(tmp_path), Drafts(tmp_path)
    one.write("", "of one")
    two.write("", "of two")
    assert (one.read(""), two.read("")) == ("of one", "of two")
    one.close()
    two.close()
    after = Drafts(tmp_path)
    assert after.read("") == "of one"
    after.write("", "")
    after.close()
    assert Drafts(tmp_path).read("") == "of two"


def test_a_folder_that_cannot_be_used_has_none(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    drafts = Drafts(tmp_path / "file")
    assert not drafts.write("", "lost")
    assert drafts.read("") == ""


def test_a_draft_stays_with_its_conversation_and_moves_with_it(tmp_path: Path) -> None:
    drafts = PromptDrafts(tmp_path, lambda write: write())
    files = tmp_path / "drafts"
    drafts.save(NEW, "first")
    drafts.save(OLD, "then")  # it was sent, and the next is being typed
    assert [f.read_text() for f in files.glob("[!.]*")] == ["then"]
    other = Conversation.new().add(Message("user", "Ho"))
    assert drafts.load(other) == ""
    drafts.save(other, "reply")
    assert drafts.load(OLD) == "then"
    assert sorted(f.read_text() for f in files.glob("[!.]*")) == ["reply", "then"]


async def test_a_draft_is_there_after_a_restart_until_it_is_sent(folders: Path) -> None:
    async with run_app() as driver:
        await driver.pilot.press(*"half a")
    async with run_app() as driver:
        await driver.wait_until(lambda: driver.app.chat.prompt.text == "half a")
        await driver.pilot.press("enter")
        await driver.wait_until(lambda: driver.app.session.has_replied)
    async with run_app() as driver:
        await driver.wait_for_text("F1 help")
        assert driver.app.chat.prompt.text == ""


async def test_each_conversation_has_its_own_and_a_new_page_takes_it_along(folders: Path) -> None:
    async with run_app() as driver:
        await driver.ask("First")
        first = driver.app.session.conversation.id
        await driver.pilot.press("ctrl+n")
        await driver.ask("Second")
        await driver.pilot.press(*"for the second")
        driver.app.chat.conversations.open(ConversationChoice(first))
        await driver.wait_until(lambda: driver.app.session.conversation.id == first)
        assert driver.app.chat.prompt.text == ""
        await driver.pilot.press(*"for new", "ctrl+n")
        assert driver.app.chat.prompt.text == "for new"
        driver.app.chat.conversations.open(ConversationChoice(first))
        await driver.wait_until(lambda: driver.app.session.conversation.id == first)
        assert driver.app.chat.prompt.text == ""


@pytest.mark.parametrize("cut", ["kill", "terminate"])
def test_a_draft_survives_a_killed_program(
    start: Callable[..., Terminal], tmp_path: Path, cut: str
) -> None:
    terminal = start()
    terminal.press("显存 not en".encode())
    terminal.wait_for_text("not en")
    drafts = tmp_path / "state/drafts"
    if cut == "kill":  # what is a second old is kept
        terminal.wait_until(lambda: "显存 not en" in [f.read_text() for f in drafts.glob("new?")])
    getattr(terminal.process, cut)()
    terminal.process.wait()
    again = start()
    again.wait_for_text("not en")
