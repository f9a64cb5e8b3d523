"""Opening a conversation that takes long to read: said so, given up, or shown once it is there."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from glmtui.chat import Conversation, Message
from glmtui.errors import StoreError
from glmtui.store import Store
from glmtui.system import paths
from glmtui.ui.session import conversation_reader
from glmtui.ui.session.conversation_reader import ConversationReader
from support.app_pilot import AppDesk, folders, running

pytestmark = pytest.mark.usefixtures("folders")
__all__ = ["folders"]

SAVED = Conversation.new(model="m").add(Message("user", "Long ago"))
SAVED = SAVED.add(Message("assistant", "Yes", finish_reason="stop"))


@pytest.fixture
def saved(folders: Path) -> Conversation:
    with Store(paths.data_dir() / "conversations") as store:
        store.save(SAVED)
    return SAVED


@contextmanager
def slow_disk(desk: AppDesk, monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Reading waits for the event; the screen hardly waits for reading."""
    gate, load = threading.Event(), desk.app.store.load

    def wait_and_load(conversation_id: str) -> Conversation:
        assert gate.wait(30)
        return load(conversation_id)

    monkeypatch.setattr(desk.app.store, "load", wait_and_load)
    monkeypatch.setattr(conversation_reader, "PATIENCE", 0.01)
    try:
        yield gate
    finally:
        gate.set()


async def open_saved(desk: AppDesk) -> None:
    await desk.type("/open Long")
    await desk.shows("Long ago")
    await desk.pilot.press("enter")
    await desk.shows("Opening")


async def test_it_is_shown_once_it_is_read(
    saved: Conversation, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running() as desk:
        with slow_disk(desk, monkeypatch) as gate:
            await open_saved(desk)
            assert desk.app.session.conversation.id != saved.id
            gate.set()
            await desk.until(lambda: desk.app.session.conversation.id == saved.id)
            await desk.shows("Yes")
            assert desk.app.screen is desk.app.chat


async def test_it_can_be_given_up(saved: Conversation, monkeypatch: pytest.MonkeyPatch) -> None:
    async with running() as desk:
        await desk.ask("Now")
        here = desk.app.session.conversation
        with slow_disk(desk, monkeypatch) as gate:
            await open_saved(desk)
            assert isinstance(desk.app.screen, ConversationReader)
            reading = desk.app.screen._reading
            await desk.pilot.press("escape")
            assert desk.app.screen is desk.app.chat
            gate.set()
            await desk.until(lambda: reading.wait(0))
            await desk.ask("And on")  # whatever came of it was heard before
            assert desk.app.session.conversation.id == here.id


async def test_what_goes_wrong_is_said(
    saved: Conversation, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running() as desk:
        with slow_disk(desk, monkeypatch) as gate:
            await open_saved(desk)
            (file,) = desk.app.store.paths()
            file.write_text("not [ toml")
            gate.set()
            await desk.shows("cannot read")
            assert desk.app.screen is desk.app.chat


def test_a_result_is_what_was_read_or_what_was_raised() -> None:
    def fail() -> Conversation:
        raise StoreError("no")

    reading = conversation_reader.Reading(fail)
    assert reading.wait(30)
    with pytest.raises(StoreError, match="no"):
        reading.result()
    heard: list[bool] = []
    reading.call(lambda: heard.append(True))
    assert heard == [True]
