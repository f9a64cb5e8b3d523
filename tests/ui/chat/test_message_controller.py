"""Messages by keyboard: one is marked, and what keys and commands then do with it."""

from __future__ import annotations

from pathlib import Path

import pytest
from textual import events

from glmtui.chat import Conversation, Message
from support.app_pilot import AppDriver, folders, run_app

pytestmark = pytest.mark.usefixtures(folders.__name__)

CODE = "Two ways:\n\n```python\nx = 1\n```\n\nor\n\n1. so\n   ```sh\n   ls\n   ```\n"


def make_conversation(turns: int = 2, reply: str = "reply {n}") -> Conversation:
    chat = Conversation.new()
    for n in range(1, turns + 1):
        chat = chat.add(Message("user", f"question {n}"))
        text = reply.format(n=n)
        chat = chat.add(Message("assistant", text, model="fake", finish_reason="stop"))
    return chat


def selected_text(driver: AppDriver) -> str:
    """What the marked message says; "" for none."""
    picked = driver.app.chat.transcript.selected_id
    return driver.app.session.conversation.get(picked).content if picked else ""


async def test_up_marks_the_last_message_and_down_leads_back() -> None:
    async with run_app(conversation=make_conversation()) as driver:
        await driver.wait_for_text("reply 2")
        await driver.pilot.press("up")
        assert selected_text(driver) == "reply 2"
        await driver.wait_for_text("┃ reply 2")
        await driver.wait_for_text("c copy")
        await driver.pilot.press("up", "k", "up", "up", "up")
        assert selected_text(driver) == "question 1"
        await driver.pilot.press("down", "j")
        assert selected_text(driver) == "question 2"
        await driver.pilot.press("down", "down")
        assert selected_text(driver) == ""
        assert driver.app.focused is driver.app.chat.prompt
        assert "┃" not in driver.screen_text()
        assert "c copy" not in driver.screen_text()


async def test_escape_and_typing_lead_back_and_no_key_is_lost() -> None:
    async with run_app(conversation=make_conversation()) as driver:
        await driver.pilot.press("up", "escape")
        assert (selected_text(driver), driver.app.focused) == ("", driver.app.chat.prompt)
        await driver.pilot.press("up", "W", "h", "y", "?")  # h and ? mean nothing; y does, later
        assert driver.app.chat.prompt.text == "Why?"
        await driver.pilot.press("up")  # with a text, Up is history's
        assert selected_text(driver) == ""


async def test_keys_of_a_burst_go_where_they_would_one_by_one() -> None:
    async with run_app(conversation=make_conversation()) as driver:
        for key in ("up", "up", "e"):
            driver.app.chat.prompt.post_message(events.Key(key, key if len(key) == 1 else None))
        await driver.wait_until(lambda: driver.app.chat.prompt.text == "question 2")
        assert driver.app.chat.prompt_controller.editing == "m3"


async def test_a_paste_is_for_the_prompt() -> None:
    async with run_app(conversation=make_conversation()) as driver:
        await driver.pilot.press("up")
        driver.app.post_message(events.Paste("pasted\ntext"))
        await driver.wait_until(lambda: driver.app.chat.prompt.text == "pasted\ntext")
        assert selected_text(driver) == ""


async def test_the_marked_message_is_in_view_from_its_beginning() -> None:
    long = "\n\n".join(f"{{n}} line {i}" for i in range(30))
    async with run_app(conversation=make_conversation(9, long)) as driver:
        await driver.wait_for_text("9 line 29")
        await driver.pilot.press("up", "up")
        await driver.wait_for_text("┃ question 9")
        await driver.pilot.press("up")
        await driver.wait_for_text("┃ 8 line 0")
        assert not driver.app.chat.transcript.following
        for _ in range(20):
            await driver.pilot.press("up")
        assert "┃ question 1" in driver.screen_text()
        await driver.pilot.press("escape", "x", "enter")
        await driver.wait_for_text("Hello there.")
        assert driver.app.chat.transcript.following


async def test_a_reply_being_written_does_not_move_the_view_while_one_is_marked() -> None:
    def slow(engine: object) -> None:
        engine.pause_after = 1  # type: ignore[attr-defined]
        engine.pieces = ["Once\n\n", *(f"line {n}\n\n" for n in range(50))]  # type: ignore[attr-defined]

    async with run_app(conversation=make_conversation(), engine=slow) as driver:
        await driver.submit("Go")
        await driver.wait_for_text("Once")
        await driver.pilot.press("up", "up")
        assert selected_text(driver) == "Go"
        top = driver.app.chat.transcript.scroll_offset.y
        driver.engine.resume.set()
        await driver.wait_until(lambda: driver.app.session.reply is None)
        await driver.pilot.pause()
        assert driver.app.chat.transcript.scroll_offset.y == top
        assert selected_text(driver) == "Go"


async def test_an_earlier_question_is_edited_and_branches_are_walked() -> None:
    async with run_app(conversation=make_conversation()) as driver:
        await driver.pilot.press("up", "up", "up", "up", "e")
        assert driver.app.chat.prompt.text == "question 1"
        await driver.pilot.press("!")
        await driver.ask(driver.app.chat.prompt.text)
        assert [m.content for m in driver.app.session.conversation.path] == [
            "question 1!",
            "Hello there.",
        ]
        await driver.pilot.press("up", "up")
        await driver.wait_for_text("← 2/2 →")
        await driver.pilot.press("right", "left")
        await driver.wait_for_text("reply 2")
        assert selected_text(driver) == "question 1"
        await driver.wait_for_text("← 1/2 →")
        await driver.pilot.press("right")
        await driver.wait_for_text("Hello there.")
        await driver.wait_until(
            lambda: driver.store.load("last").head == driver.app.session.conversation.head
        )


async def test_r_answers_the_marked_question_again_and_keeps_the_reply() -> None:
    async with run_app(conversation=make_conversation()) as driver:
        await driver.pilot.press("up", "up", "up", "r")
        await driver.wait_for_text("Hello there.")
        await driver.wait_until(lambda: driver.app.session.reply is None)
        chat = driver.app.session.conversation
        assert [m.content for m in chat.path] == ["question 1", "Hello there."]
        assert [m.content for m in chat.siblings(chat.path[1].id)] == ["reply 1", "Hello there."]
        assert driver.app.focused is driver.app.chat.prompt


async def test_what_is_deleted_comes_back_until_the_talk_goes_on() -> None:
    async with run_app(conversation=make_conversation()) as driver:
        await driver.pilot.press("up", "up", "up", "d")
        await driver.wait_until(lambda: "reply 1" not in driver.screen_text())
        assert selected_text(driver) == "question 1"
        await driver.wait_for_text("u undo")
        await driver.pilot.press("u")
        assert selected_text(driver) == "reply 1"
        await driver.pilot.press("d", "d")
        assert driver.app.session.conversation.messages == ()
        assert driver.app.focused is driver.app.chat.prompt
        await driver.submit("/undo")
        await driver.wait_for_text("question 1")
        await driver.submit("/undo")
        await driver.wait_for_text("reply 2")
        said = [m.content for m in driver.app.session.conversation.messages]
        assert said == [m.content for m in make_conversation().messages]
        driver.app.clear_notifications()
        await driver.submit("/undo")
        await driver.wait_for_text("Nothing to undo")

        await driver.submit("/delete")
        await driver.ask("something else")
        driver.app.clear_notifications()
        await driver.submit("/undo")
        await driver.wait_for_text("the conversation has continued")
        assert "reply 2" not in driver.screen_text()


async def test_a_deleted_alternative_gives_way_to_another() -> None:
    async with run_app() as driver:
        await driver.ask("Go")
        driver.engine.pieces = ["Another"]
        await driver.pilot.press("ctrl+r")
        await driver.wait_for_text("Another")
        await driver.wait_until(lambda: driver.app.session.reply is None)
        await driver.submit("/delete")
        await driver.wait_for_text("Hello there.")
        await driver.wait_until(lambda: len(driver.store.load("last").messages) == 2)


async def test_messages_and_code_are_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    thought = f"<think>Hm.\n```\nnot this\n```\n</think>\n\n{CODE}"
    async with run_app(conversation=make_conversation(2, thought.replace("{", "{{"))) as driver:
        copied: list[str] = []
        monkeypatch.setattr(driver.app, "copy_to_clipboard", copied.append)
        await driver.pilot.press("up", "c", "y", "y", "y", "up", "c")
        assert copied == [CODE.strip(), "x = 1", "ls", "x = 1", "question 2"]
        await driver.pilot.press("escape")
        copied.clear()
        await driver.submit("/copy")
        await driver.submit("/code 2")
        assert copied == [CODE.strip(), "ls"]
        await driver.submit("/code 3")
        await driver.wait_for_text("Code blocks are numbered from 1 to 2.")
        await driver.submit("/code one")
        await driver.wait_for_text("No code block one.")


async def test_a_quote_joins_what_is_typed() -> None:
    async with run_app(conversation=make_conversation(1, "One\n\ntwo")) as driver:
        driver.app.chat.prompt.set_text("So:")
        driver.app.chat.focus_last_message()
        await driver.pilot.press("q", "y")
        assert driver.app.chat.prompt.text == "So:\n> One\n>\n> two\n\ny"
        await driver.submit("/quote")
        assert driver.app.chat.prompt.text == "> One\n>\n> two\n\n"


async def test_a_message_opens_in_the_editor_and_only_a_question_changes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    opened: list[str] = []

    async def edit(app: object, text: str) -> str:
        opened.append(text)
        return text + "?"

    monkeypatch.setattr("glmtui.ui.chat.screen.edit_text", edit)
    async with run_app(conversation=make_conversation()) as driver:
        await driver.pilot.press("up", "o")
        await driver.wait_for_text("Only questions can be changed")
        await driver.pilot.press("up", "o")
        assert opened == ["reply 2", "question 2"]
        assert driver.app.chat.prompt.text == "question 2?"
        assert driver.app.chat.prompt_controller.editing == "m3"


async def test_a_cut_reply_goes_on_and_only_the_last() -> None:
    async with run_app(conversation=make_conversation()) as driver:
        await driver.pilot.press("up", "up", "up", "g")
        await driver.wait_for_text("Only the last message can be continued.")
        await driver.pilot.press("down", "down", "g")
        await driver.wait_for_text("reply 2Hello there.")


async def test_thoughts_are_folded_until_they_are_wanted() -> None:
    reply = "<think>\nLet me see: {n}.\n</think>\n\nIt is {n}."
    async with run_app(conversation=make_conversation(1, reply)) as driver:
        await driver.wait_for_text("▸ thought for 4 words")
        assert "Let me see" not in driver.screen_text()
        await driver.pilot.press("up", "t")
        await driver.wait_for_text("Let me see: 1.")
        await driver.wait_for_text("▾ thought for 4 words")
        await driver.pilot.press("enter", "escape")
        await driver.wait_until(lambda: "Let me see" not in driver.screen_text())
        await driver.submit("/thinking")
        await driver.wait_for_text("Let me see: 1.")
        row = (
            driver.screen_text()
            .split("\n")
            .index(next(line for line in driver.screen_text().split("\n") if "▾ thought" in line))
        )
        await driver.pilot.click(driver.app.chat.transcript, offset=(5, row))
        await driver.wait_for_text("▸ thought for 4 words")


async def test_without_a_message_there_is_nothing_to_do_it_with() -> None:
    async with run_app() as driver:
        messages = {
            "copy": "No reply to copy yet.",
            "code": "No code to copy.",
            "edit": "No question to edit yet.",
            "delete": "No messages yet.",
            "undo": "Nothing to undo",
            "quote": "No reply to quote yet.",
            "thinking": "This reply has no reasoning.",
        }
        for word, message in messages.items():
            driver.app.clear_notifications()
            await driver.submit(f"/{word}")
            await driver.wait_for_text(message)
        await driver.pilot.press("up", "alt+up")
        assert driver.app.focused is driver.app.chat.prompt


async def test_a_text_that_no_terminal_takes_is_in_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSH_TTY", "/dev/pts/0")
    async with run_app(conversation=make_conversation(1, "x" * 80_000)) as driver:
        await driver.submit("/copy")
        await driver.wait_until(lambda: (tmp_path / "state/copied.txt").exists())
        await driver.wait_for_text("Saved to")
