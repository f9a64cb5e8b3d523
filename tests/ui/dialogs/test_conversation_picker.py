"""The conversation picker and the full-text search."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from glmtui.chat import Conversation, Message
from glmtui.store import Store, Summary
from glmtui.system import paths
from glmtui.ui.dialogs import conversation_picker
from glmtui.ui.dialogs.conversation_picker import ConversationPicker
from glmtui.ui.dialogs.search_dialog import SearchDialog
from support.app_pilot import AppDriver, folders, run_app

pytestmark = pytest.mark.usefixtures("folders")
__all__ = ["folders"]


def saved(*titles: str, text: str = "") -> list[str]:
    """Conversations on disk, the last one the newest. Returns their ids."""
    ids = []
    with Store(paths.data_dir() / "conversations") as store:
        for n, title in enumerate(titles):
            talk = Conversation.new(model="m").add(Message("user", f"{title} {text}".strip()))
            talk = talk.add(Message("assistant", f"About {title}.", finish_reason="stop"))
            path = store.save(replace(talk, title=title))
            os.utime(path, (1e9 + n, 1e9 + n))
            ids.append(talk.id)
    return ids


async def picker(driver: AppDriver) -> ConversationPicker:
    await driver.pilot.press("ctrl+o")
    await driver.wait_until(lambda: isinstance(driver.app.screen, ConversationPicker))
    found = driver.app.screen
    assert isinstance(found, ConversationPicker)
    await driver.wait_until(lambda: found.list.option_count > 0)
    return found


def titles(found: ConversationPicker) -> list[str]:
    return [summary.title for summary in found._shown]


async def test_the_filter_is_live_and_enter_opens() -> None:
    saved("显存不够", "Attention", "RoPE")
    async with run_app() as driver:
        found = await picker(driver)
        assert titles(found) == ["RoPE", "Attention", "显存不够"]
        await driver.pilot.press("不")
        await driver.wait_until(lambda: titles(found) == ["显存不够"])
        await driver.pilot.press("enter")
        await driver.wait_for_text("About 显存不够.")


async def test_rows_are_shown_while_others_are_still_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    saved("one", "two", "three")
    gate = threading.Event()
    monkeypatch.setattr(conversation_picker, "BATCH_SECONDS", 0.0)
    monkeypatch.setattr(conversation_picker, "WAIT_SECONDS", 0.01)
    async with run_app() as driver:
        each = driver.app.workspace.store.each_summary

        def slowly() -> Iterator[Summary]:
            for n, row in enumerate(each()):
                yield row
                assert n != 1 or gate.wait(30)

        monkeypatch.setattr(driver.app.workspace.store, "each_summary", slowly)
        try:
            found = await picker(driver)
            await driver.wait_until(lambda: titles(found) == ["three", "two"])
            await driver.pilot.press("down", "ctrl+d")  # that was read already
            await driver.wait_until(lambda: titles(found) == ["three"])
        finally:
            gate.set()
        await driver.wait_until(lambda: titles(found) == ["three", "one"])
        await driver.wait_until(lambda: not found._reading)
        assert titles(found) == ["three", "one"]


async def test_a_pinned_conversation_is_first_and_keeps_its_age() -> None:
    first, *_ = saved("one", "two", "three")
    async with run_app() as driver:
        found = await picker(driver)
        await driver.pilot.press("down", "down", "ctrl+t")
        await driver.wait_until(lambda: titles(found) == ["one", "three", "two"])
        assert found.selected is not None
        assert found.selected.id == first
        assert found.selected.updated.timestamp() == 1e9
        await driver.pilot.press("ctrl+t")
        await driver.wait_until(lambda: titles(found) == ["three", "two", "one"])


async def test_a_conversation_is_renamed_in_place_or_left() -> None:
    saved("one", "two")
    async with run_app() as driver:
        found = await picker(driver)
        await driver.pilot.press("ctrl+r", *" x", "escape")
        assert titles(found) == ["two", "one"]
        await driver.pilot.press("down", "ctrl+r", *" [b]more", "enter")
        await driver.wait_until(lambda: titles(found) == ["two", "one [b]more"])
        await driver.wait_for_text("one [b]more")
        await driver.pilot.press("enter")
        await driver.wait_for_text("About one.")
        assert driver.app.session.conversation.title == "one [b]more"


async def test_deleting_can_be_undone() -> None:
    saved("one", "two", "three")
    async with run_app() as driver:
        found = await picker(driver)
        await driver.pilot.press("down", "ctrl+d")
        await driver.wait_until(lambda: titles(found) == ["three", "one"])
        assert len(driver.store.summaries()) == 2
        await driver.pilot.press("ctrl+z")
        await driver.wait_until(lambda: titles(found) == ["three", "two", "one"])
        assert driver.app.chat.transcript is not None
        assert found.selected is not None
        assert found.selected.title == "two"


async def test_deleting_the_open_conversation_leaves_an_empty_page() -> None:
    async with run_app() as driver:
        await driver.ask("Remember this")
        await driver.wait_until(lambda: len(driver.store.summaries()) == 1)
        await driver.submit("/trash")
        await driver.wait_for_text("Deleted: Remember this")
        assert driver.app.session.conversation.messages == ()
        assert driver.store.summaries() == []
        await driver.submit("/restore")
        assert driver.app.session.conversation.path[0].content == "Remember this"
        assert [row.title for row in driver.store.summaries()] == ["Remember this"]


async def test_a_copy_is_opened() -> None:
    (one,) = saved("one")
    async with run_app() as driver:
        await picker(driver)
        await driver.pilot.press("ctrl+y")
        await driver.wait_for_text("About one.")
        assert driver.app.session.conversation.id != one
        await driver.wait_until(lambda: len(driver.store.summaries()) == 2)


async def test_a_conversation_open_elsewhere_is_reported_in_the_list() -> None:
    (one,) = saved("one")
    with Store(paths.data_dir() / "conversations") as other:
        other.hold(one)
        async with run_app() as driver:
            found = await picker(driver)
            await driver.pilot.press("ctrl+d")
            await driver.wait_for_text("open in another glmtui")
            assert titles(found) == ["one"]


async def test_the_open_conversation_is_renamed_and_pinned_by_command() -> None:
    async with run_app() as driver:
        await driver.ask("What is RoPE?")
        await driver.submit("/title")
        await driver.wait_for_text("What is RoPE?")
        await driver.submit("/title  Rotary  embeddings")
        await driver.submit("/pin")
        await driver.wait_until(lambda: any(row.pinned for row in driver.store.summaries()))
        (row,) = driver.store.summaries()
        assert (row.title, row.pinned) == ("Rotary  embeddings", True)


async def search_for(driver: AppDriver, words: str) -> SearchDialog:
    await driver.pilot.press("ctrl+f")
    await driver.wait_until(lambda: isinstance(driver.app.screen, SearchDialog))
    found = driver.app.screen
    assert isinstance(found, SearchDialog)
    found.field.value = words
    return found


async def test_text_is_found_in_all_conversations_and_enter_opens_the_message() -> None:
    lines = "\n\n".join(f"line {n}" for n in range(200))
    saved("one", "two", text=f"{lines}\n\nthe 稀有的词语 is here\n\n{lines}")
    async with run_app() as driver:
        found = await search_for(driver, "有的词")
        await driver.wait_until(lambda: found.list.option_count == 2)
        await driver.wait_for_text("the 稀有的词语 is here")
        await driver.pilot.press("down", "enter")
        await driver.wait_until(lambda: driver.app.session.conversation.title == "one")
        await driver.wait_for_text("the 稀有的词语 is here")


async def test_a_match_on_another_branch_shows_that_branch() -> None:
    async with run_app() as driver:
        await driver.ask("The old question")
        await driver.submit("/edit")
        await driver.ask("The new question")
        await driver.wait_until(lambda: len(driver.engine.requests) == 2)
        await driver.wait_until(lambda: driver.app.session.reply is None)
        found = await search_for(driver, "OLD QUEST")
        await driver.wait_until(lambda: found.list.option_count == 1)
        await driver.pilot.press("enter")
        await driver.wait_until(
            lambda: driver.app.session.conversation.path[0].content == "The old question"
        )


async def test_the_list_leads_to_the_search_with_the_typed_text() -> None:
    saved("one")
    async with run_app() as driver:
        await picker(driver)
        await driver.pilot.press(*"about", "ctrl+f")
        await driver.wait_for_text("1 match")
        await driver.pilot.press(*"xyz")
        await driver.wait_for_text("No matches.")
        await driver.pilot.press("escape")
        assert driver.app.screen is driver.app.chat


@pytest.mark.parametrize("size", [(80, 24), (40, 10)])
async def test_the_dialogs_fit_into_small_windows(size: tuple[int, int], folders: Path) -> None:
    saved(*(f"conversation {n}" for n in range(40)), text="word")
    async with run_app(size=size) as driver:
        found = await picker(driver)
        assert found.list.size.height >= 1
        await driver.pilot.press("escape")
        search = await search_for(driver, "word")
        await driver.wait_until(lambda: search.list.option_count == 40)
        await driver.wait_until(lambda: search.list.size.height >= 1)
