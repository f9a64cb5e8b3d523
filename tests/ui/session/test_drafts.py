"""Drafts: what was typed and not sent is there again, whatever happened."""

from __future__ import annotations

import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from glmtui.chat import Conversation, Message
from glmtui.store.drafts import Drafts
from glmtui.ui.dialogs.conversation_picker import ConversationChoice
from glmtui.ui.session.drafts import PromptDrafts
from support.app_pilot import folders, running
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
    typed = PromptDrafts(tmp_path, lambda write: write())
    files = tmp_path / "drafts"
    typed.keep_draft(NEW, "first")
    typed.keep_draft(OLD, "then")  # it was sent, and the next is being typed
    assert [f.read_text() for f in files.glob("[!.]*")] == ["then"]
    other = Conversation.new().add(Message("user", "Ho"))
    assert typed.draft(other) == ""
    typed.keep_draft(other, "reply")
    assert typed.draft(OLD) == "then"
    assert sorted(f.read_text() for f in files.glob("[!.]*")) == ["reply", "then"]


async def test_a_draft_is_there_after_a_restart_until_it_is_sent(folders: Path) -> None:
    async with running() as desk:
        await desk.pilot.press(*"half a")
    async with running() as desk:
        await desk.until(lambda: desk.app.chat.prompt.text == "half a")
        await desk.pilot.press("enter")
        await desk.until(lambda: desk.app.session.answered)
    async with running() as desk:
        await desk.shows("F1 help")
        assert desk.app.chat.prompt.text == ""


async def test_each_conversation_has_its_own_and_a_new_page_takes_it_along(folders: Path) -> None:
    async with running() as desk:
        await desk.ask("First")
        first = desk.app.session.conversation.id
        await desk.pilot.press("ctrl+n")
        await desk.ask("Second")
        await desk.pilot.press(*"for the second")
        desk.app.chat._open(ConversationChoice(first))
        await desk.until(lambda: desk.app.session.conversation.id == first)
        assert desk.app.chat.prompt.text == ""
        await desk.pilot.press(*"for new", "ctrl+n")
        assert desk.app.chat.prompt.text == "for new"
        desk.app.chat._open(ConversationChoice(first))
        await desk.until(lambda: desk.app.session.conversation.id == first)
        assert desk.app.chat.prompt.text == ""


@pytest.mark.parametrize("cut", ["kill", "terminate"])
def test_a_draft_survives_a_killed_program(
    start: Callable[..., Terminal], tmp_path: Path, cut: str
) -> None:
    terminal = start()
    terminal.press("显存 not en".encode())
    terminal.shows("not en")
    drafts = tmp_path / "state/drafts"
    if cut == "kill":  # what is a second old is kept
        terminal.until(lambda: "显存 not en" in [f.read_text() for f in drafts.glob("new?")])
    getattr(terminal.process, cut)()
    terminal.process.wait()
    again = start()
    again.shows("not en")
