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
from support.app_pilot import AppDesk, folders, running

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


async def picker(desk: AppDesk) -> ConversationPicker:
    await desk.pilot.press("ctrl+o")
    await desk.until(lambda: isinstance(desk.app.screen, ConversationPicker))
    found = desk.app.screen
    assert isinstance(found, ConversationPicker)
    await desk.until(lambda: found.list.option_count > 0)
    return found


def titles(found: ConversationPicker) -> list[str]:
    return [summary.title for summary in found._shown]


async def test_the_filter_is_live_and_enter_opens() -> None:
    saved("显存不够", "Attention", "RoPE")
    async with running() as desk:
        found = await picker(desk)
        assert titles(found) == ["RoPE", "Attention", "显存不够"]
        await desk.pilot.press("不")
        await desk.until(lambda: titles(found) == ["显存不够"])
        await desk.pilot.press("enter")
        await desk.shows("About 显存不够.")


async def test_rows_are_shown_while_others_are_still_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    saved("one", "two", "three")
    gate = threading.Event()
    monkeypatch.setattr(conversation_picker, "BATCH_SECONDS", 0.0)
    monkeypatch.setattr(conversation_picker, "WAIT_SECONDS", 0.01)
    async with running() as desk:
        each = desk.app.store.each_summary

        def slowly() -> Iterator[Summary]:
            for n, row in enumerate(each()):
                yield row
                assert n != 1 or gate.wait(30)

        monkeypatch.setattr(desk.app.store, "each_summary", slowly)
        try:
            found = await picker(desk)
            await desk.until(lambda: titles(found) == ["three", "two"])
            await desk.pilot.press("down", "ctrl+d")  # that was read already
            await desk.until(lambda: titles(found) == ["three"])
        finally:
            gate.set()
        await desk.until(lambda: titles(found) == ["three", "one"])
        await desk.until(lambda: not found._reading)
        assert titles(found) == ["three", "one"]


async def test_a_pinned_conversation_is_first_and_keeps_its_age() -> None:
    first, *_ = saved("one", "two", "three")
    async with running() as desk:
        found = await picker(desk)
        await desk.pilot.press("down", "down", "ctrl+t")
        await desk.until(lambda: titles(found) == ["one", "three", "two"])
        assert found.selected is not None
        assert found.selected.id == first
        assert found.selected.updated.timestamp() == 1e9
        await desk.pilot.press("ctrl+t")
        await desk.until(lambda: titles(found) == ["three", "two", "one"])


async def test_a_conversation_is_renamed_in_place_or_left() -> None:
    saved("one", "two")
    async with running() as desk:
        found = await picker(desk)
        await desk.pilot.press("ctrl+r", *" x", "escape")
        assert titles(found) == ["two", "one"]
        await desk.pilot.press("down", "ctrl+r", *" [b]more", "enter")
        await desk.until(lambda: titles(found) == ["two", "one [b]more"])
        await desk.shows("one [b]more")
        await desk.pilot.press("enter")
        await desk.shows("About one.")
        assert desk.app.session.conversation.title == "one [b]more"


async def test_deleting_can_be_undone() -> None:
    saved("one", "two", "three")
    async with running() as desk:
        found = await picker(desk)
        await desk.pilot.press("down", "ctrl+d")
        await desk.until(lambda: titles(found) == ["three", "one"])
        assert len(desk.store.summaries()) == 2
        await desk.pilot.press("ctrl+z")
        await desk.until(lambda: titles(found) == ["three", "two", "one"])
        assert desk.app.chat.transcript is not None
        assert found.selected is not None
        assert found.selected.title == "two"


async def test_deleting_the_open_conversation_leaves_an_empty_page() -> None:
    async with running() as desk:
        await desk.ask("Remember this")
        await desk.until(lambda: len(desk.store.summaries()) == 1)
        await desk.type("/trash")
        await desk.shows("Deleted: Remember this")
        assert desk.app.session.conversation.messages == ()
        assert desk.store.summaries() == []
        await desk.type("/restore")
        assert desk.app.session.conversation.path[0].content == "Remember this"
        assert [row.title for row in desk.store.summaries()] == ["Remember this"]


async def test_a_copy_is_opened() -> None:
    (one,) = saved("one")
    async with running() as desk:
        await picker(desk)
        await desk.pilot.press("ctrl+y")
        await desk.shows("About one.")
        assert desk.app.session.conversation.id != one
        await desk.until(lambda: len(desk.store.summaries()) == 2)


async def test_a_conversation_open_elsewhere_is_reported_in_the_list() -> None:
    (one,) = saved("one")
    with Store(paths.data_dir() / "conversations") as other:
        other.hold(one)
        async with running() as desk:
            found = await picker(desk)
            await desk.pilot.press("ctrl+d")
            await desk.shows("open in another glmtui")
            assert titles(found) == ["one"]


async def test_the_open_conversation_is_renamed_and_pinned_by_command() -> None:
    async with running() as desk:
        await desk.ask("What is RoPE?")
        await desk.type("/title")
        await desk.shows("What is RoPE?")
        await desk.type("/title  Rotary  embeddings")
        await desk.type("/pin")
        await desk.until(lambda: any(row.pinned for row in desk.store.summaries()))
        (row,) = desk.store.summaries()
        assert (row.title, row.pinned) == ("Rotary  embeddings", True)


async def search_for(desk: AppDesk, words: str) -> SearchDialog:
    await desk.pilot.press("ctrl+f")
    await desk.until(lambda: isinstance(desk.app.screen, SearchDialog))
    found = desk.app.screen
    assert isinstance(found, SearchDialog)
    found.field.value = words
    return found


async def test_text_is_found_in_all_conversations_and_enter_opens_the_message() -> None:
    lines = "\n\n".join(f"line {n}" for n in range(200))
    saved("one", "two", text=f"{lines}\n\nthe 稀有的词语 is here\n\n{lines}")
    async with running() as desk:
        found = await search_for(desk, "有的词")
        await desk.until(lambda: found.list.option_count == 2)
        await desk.shows("the 稀有的词语 is here")
        await desk.pilot.press("down", "enter")
        await desk.until(lambda: desk.app.session.conversation.title == "one")
        await desk.shows("the 稀有的词语 is here")


async def test_a_match_on_another_branch_shows_that_branch() -> None:
    async with running() as desk:
        await desk.ask("The old question")
        await desk.type("/edit")
        await desk.ask("The new question")
        await desk.until(lambda: len(desk.engine.requests) == 2)
        await desk.until(lambda: desk.app.session.run is None)
        found = await search_for(desk, "OLD QUEST")
        await desk.until(lambda: found.list.option_count == 1)
        await desk.pilot.press("enter")
        await desk.until(
            lambda: desk.app.session.conversation.path[0].content == "The old question"
        )


async def test_the_list_leads_to_the_search_with_the_typed_text() -> None:
    saved("one")
    async with running() as desk:
        await picker(desk)
        await desk.pilot.press(*"about", "ctrl+f")
        await desk.shows("1 match")
        await desk.pilot.press(*"xyz")
        await desk.shows("No matches.")
        await desk.pilot.press("escape")
        assert desk.app.screen is desk.app.chat


@pytest.mark.parametrize("size", [(80, 24), (40, 10)])
async def test_the_dialogs_fit_into_small_windows(size: tuple[int, int], folders: Path) -> None:
    saved(*(f"conversation {n}" for n in range(40)), text="word")
    async with running(size=size) as desk:
        found = await picker(desk)
        assert found.list.size.height >= 1
        await desk.pilot.press("escape")
        search = await search_for(desk, "word")
        await desk.until(lambda: search.list.option_count == 40)
        await desk.until(lambda: search.list.size.height >= 1)
