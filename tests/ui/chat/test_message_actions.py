"""Messages by keyboard: one is marked, and what keys and commands then do with it."""

from __future__ import annotations

from pathlib import Path

import pytest
from textual import events

from glmtui.chat import Conversation, Message
from support.app_pilot import AppDesk, folders, running

pytestmark = pytest.mark.usefixtures(folders.__name__)

CODE = "Two ways:\n\n```python\nx = 1\n```\n\nor\n\n1. so\n   ```sh\n   ls\n   ```\n"


def talk(turns: int = 2, reply: str = "reply {n}") -> Conversation:
    chat = Conversation.new()
    for n in range(1, turns + 1):
        chat = chat.add(Message("user", f"question {n}"))
        text = reply.format(n=n)
        chat = chat.add(Message("assistant", text, model="fake", finish_reason="stop"))
    return chat


def marked(desk: AppDesk) -> str:
    """What the marked message says; "" for none."""
    picked = desk.app.chat.transcript.selected_id
    return desk.app.session.conversation.get(picked).content if picked else ""


async def test_up_marks_the_last_message_and_down_leads_back() -> None:
    async with running(conversation=talk()) as desk:
        await desk.shows("reply 2")
        await desk.pilot.press("up")
        assert marked(desk) == "reply 2"
        await desk.shows("┃ reply 2")
        await desk.shows("c copy")
        await desk.pilot.press("up", "k", "up", "up", "up")
        assert marked(desk) == "question 1"
        await desk.pilot.press("down", "j")
        assert marked(desk) == "question 2"
        await desk.pilot.press("down", "down")
        assert marked(desk) == ""
        assert desk.app.focused is desk.app.chat.prompt
        assert "┃" not in desk.screen()
        assert "c copy" not in desk.screen()


async def test_escape_and_typing_lead_back_and_no_key_is_lost() -> None:
    async with running(conversation=talk()) as desk:
        await desk.pilot.press("up", "escape")
        assert (marked(desk), desk.app.focused) == ("", desk.app.chat.prompt)
        await desk.pilot.press("up", "W", "h", "y", "?")  # h and ? mean nothing; y does, later
        assert desk.app.chat.prompt.text == "Why?"
        await desk.pilot.press("up")  # with a text, Up is history's
        assert marked(desk) == ""


async def test_keys_of_a_burst_go_where_they_would_one_by_one() -> None:
    async with running(conversation=talk()) as desk:
        for key in ("up", "up", "e"):
            desk.app.chat.prompt.post_message(events.Key(key, key if len(key) == 1 else None))
        await desk.until(lambda: desk.app.chat.prompt.text == "question 2")
        assert desk.app.chat.editing == "m3"


async def test_a_paste_is_for_the_prompt() -> None:
    async with running(conversation=talk()) as desk:
        await desk.pilot.press("up")
        desk.app.post_message(events.Paste("pasted\ntext"))
        await desk.until(lambda: desk.app.chat.prompt.text == "pasted\ntext")
        assert marked(desk) == ""


async def test_the_marked_message_is_in_view_from_its_beginning() -> None:
    long = "\n\n".join(f"{{n}} line {i}" for i in range(30))
    async with running(conversation=talk(9, long)) as desk:
        await desk.shows("9 line 29")
        await desk.pilot.press("up", "up")
        await desk.shows("┃ question 9")
        await desk.pilot.press("up")
        await desk.shows("┃ 8 line 0")
        assert not desk.app.chat.transcript.following
        for _ in range(20):
            await desk.pilot.press("up")
        assert "┃ question 1" in desk.screen()
        await desk.pilot.press("escape", "x", "enter")
        await desk.shows("Hello there.")
        assert desk.app.chat.transcript.following


async def test_a_reply_being_written_does_not_move_the_view_while_one_is_marked() -> None:
    def slow(engine: object) -> None:
        engine.held_after = 1  # type: ignore[attr-defined]
        engine.pieces = ["Once\n\n", *(f"line {n}\n\n" for n in range(50))]  # type: ignore[attr-defined]

    async with running(conversation=talk(), engine=slow) as desk:
        await desk.type("Go")
        await desk.shows("Once")
        await desk.pilot.press("up", "up")
        assert marked(desk) == "Go"
        top = desk.app.chat.transcript.scroll_offset.y
        desk.engine.hold.set()
        await desk.until(lambda: desk.app.session.run is None)
        await desk.pilot.pause()
        assert desk.app.chat.transcript.scroll_offset.y == top
        assert marked(desk) == "Go"


async def test_an_earlier_question_is_edited_and_branches_are_walked() -> None:
    async with running(conversation=talk()) as desk:
        await desk.pilot.press("up", "up", "up", "up", "e")
        assert desk.app.chat.prompt.text == "question 1"
        await desk.pilot.press("!")
        await desk.ask(desk.app.chat.prompt.text)
        assert [m.content for m in desk.app.session.conversation.path] == [
            "question 1!",
            "Hello there.",
        ]
        await desk.pilot.press("up", "up")
        await desk.shows("← 2/2 →")
        await desk.pilot.press("right", "left")
        await desk.shows("reply 2")
        assert marked(desk) == "question 1"
        await desk.shows("← 1/2 →")
        await desk.pilot.press("right")
        await desk.shows("Hello there.")
        await desk.until(lambda: desk.store.load("last").head == desk.app.session.conversation.head)


async def test_r_answers_the_marked_question_again_and_keeps_the_reply() -> None:
    async with running(conversation=talk()) as desk:
        await desk.pilot.press("up", "up", "up", "r")
        await desk.shows("Hello there.")
        await desk.until(lambda: desk.app.session.run is None)
        chat = desk.app.session.conversation
        assert [m.content for m in chat.path] == ["question 1", "Hello there."]
        assert [m.content for m in chat.siblings(chat.path[1].id)] == ["reply 1", "Hello there."]
        assert desk.app.focused is desk.app.chat.prompt


async def test_what_is_deleted_comes_back_until_the_talk_goes_on() -> None:
    async with running(conversation=talk()) as desk:
        await desk.pilot.press("up", "up", "up", "d")
        await desk.until(lambda: "reply 1" not in desk.screen())
        assert marked(desk) == "question 1"
        await desk.shows("u undo")
        await desk.pilot.press("u")
        assert marked(desk) == "reply 1"
        await desk.pilot.press("d", "d")
        assert desk.app.session.conversation.messages == ()
        assert desk.app.focused is desk.app.chat.prompt
        await desk.type("/undo")
        await desk.shows("question 1")
        await desk.type("/undo")
        await desk.shows("reply 2")
        said = [m.content for m in desk.app.session.conversation.messages]
        assert said == [m.content for m in talk().messages]
        desk.app.clear_notifications()
        await desk.type("/undo")
        await desk.shows("nothing to bring back")

        await desk.type("/delete")
        await desk.ask("something else")
        desk.app.clear_notifications()
        await desk.type("/undo")
        await desk.shows("the conversation went on")
        assert "reply 2" not in desk.screen()


async def test_a_deleted_alternative_gives_way_to_another() -> None:
    async with running() as desk:
        await desk.ask("Go")
        desk.engine.pieces = ["Another"]
        await desk.pilot.press("ctrl+r")
        await desk.shows("Another")
        await desk.until(lambda: desk.app.session.run is None)
        await desk.type("/delete")
        await desk.shows("Hello there.")
        await desk.until(lambda: len(desk.store.load("last").messages) == 2)


async def test_messages_and_code_are_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    thought = f"<think>Hm.\n```\nnot this\n```\n</think>\n\n{CODE}"
    async with running(conversation=talk(2, thought.replace("{", "{{"))) as desk:
        copied: list[str] = []
        monkeypatch.setattr(desk.app, "copy_to_clipboard", copied.append)
        await desk.pilot.press("up", "c", "y", "y", "y", "up", "c")
        assert copied == [CODE.strip(), "x = 1", "ls", "x = 1", "question 2"]
        await desk.pilot.press("escape")
        copied.clear()
        await desk.type("/copy")
        await desk.type("/code 2")
        assert copied == [CODE.strip(), "ls"]
        await desk.type("/code 3")
        await desk.shows("Code blocks are numbered from 1 to 2.")
        await desk.type("/code one")
        await desk.shows("No code block one.")


async def test_a_quote_joins_what_is_typed() -> None:
    async with running(conversation=talk(1, "One\n\ntwo")) as desk:
        desk.app.chat.prompt.set_text("So:")
        desk.app.chat.select_last()
        await desk.pilot.press("q", "y")
        assert desk.app.chat.prompt.text == "So:\n> One\n>\n> two\n\ny"
        await desk.type("/quote")
        assert desk.app.chat.prompt.text == "> One\n>\n> two\n\n"


async def test_a_message_opens_in_the_editor_and_only_a_question_changes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    opened: list[str] = []

    async def edit(app: object, text: str) -> str:
        opened.append(text)
        return text + "?"

    monkeypatch.setattr("glmtui.ui.terminal.editor.edit_text", edit)
    async with running(conversation=talk()) as desk:
        await desk.pilot.press("up", "o")
        await desk.shows("Only questions can be changed")
        await desk.pilot.press("up", "o")
        assert opened == ["reply 2", "question 2"]
        assert desk.app.chat.prompt.text == "question 2?"
        assert desk.app.chat.editing == "m3"


async def test_a_cut_reply_goes_on_and_only_the_last() -> None:
    async with running(conversation=talk()) as desk:
        await desk.pilot.press("up", "up", "up", "g")
        await desk.shows("Only the last message can go on.")
        await desk.pilot.press("down", "down", "g")
        await desk.shows("reply 2Hello there.")


async def test_thoughts_are_folded_until_they_are_wanted() -> None:
    reply = "<think>\nLet me see: {n}.\n</think>\n\nIt is {n}."
    async with running(conversation=talk(1, reply)) as desk:
        await desk.shows("▸ thought for 4 words")
        assert "Let me see" not in desk.screen()
        await desk.pilot.press("up", "t")
        await desk.shows("Let me see: 1.")
        await desk.shows("▾ thought for 4 words")
        await desk.pilot.press("enter", "escape")
        await desk.until(lambda: "Let me see" not in desk.screen())
        await desk.type("/thinking")
        await desk.shows("Let me see: 1.")
        row = (
            desk.screen()
            .split("\n")
            .index(next(line for line in desk.screen().split("\n") if "▾ thought" in line))
        )
        await desk.pilot.click(desk.app.chat.transcript, offset=(5, row))
        await desk.shows("▸ thought for 4 words")


async def test_without_a_message_there_is_nothing_to_do_it_with() -> None:
    async with running() as desk:
        for word in ("copy", "code", "edit", "delete", "undo", "quote", "thinking"):
            desk.app.clear_notifications()
            await desk.type(f"/{word}")
            await desk.shows("There ")
        await desk.pilot.press("up", "alt+up")
        assert desk.app.focused is desk.app.chat.prompt


async def test_a_text_that_no_terminal_takes_is_in_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSH_TTY", "/dev/pts/0")
    async with running(conversation=talk(1, "x" * 80_000)) as desk:
        await desk.type("/copy")
        await desk.until(lambda: (tmp_path / "state/copied.txt").exists())
        await desk.shows("Saved to")
