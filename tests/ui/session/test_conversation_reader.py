"""Opening a conversation that takes long to read: a dialog, which can be cancelled."""

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
from support.app_pilot import AppDriver, folders, run_app

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
def slow_disk(driver: AppDriver, monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Reading waits for the event; the screen hardly waits for reading."""
    gate, load = threading.Event(), driver.app.workspace.store.load

    def wait_and_load(conversation_id: str) -> Conversation:
        assert gate.wait(30)
        return load(conversation_id)

    monkeypatch.setattr(driver.app.workspace.store, "load", wait_and_load)
    monkeypatch.setattr(conversation_reader, "DIALOG_DELAY_SECONDS", 0.01)
    try:
        yield gate
    finally:
        gate.set()


async def open_saved(driver: AppDriver) -> None:
    await driver.submit("/open Long")
    await driver.wait_for_text("Long ago")
    await driver.pilot.press("enter")
    await driver.wait_for_text("Opening")


async def test_it_is_shown_once_it_is_read(
    saved: Conversation, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with run_app() as driver:
        with slow_disk(driver, monkeypatch) as gate:
            await open_saved(driver)
            assert driver.app.session.conversation.id != saved.id
            gate.set()
            await driver.wait_until(lambda: driver.app.session.conversation.id == saved.id)
            await driver.wait_for_text("Yes")
            assert driver.app.screen is driver.app.chat


async def test_it_can_be_given_up(saved: Conversation, monkeypatch: pytest.MonkeyPatch) -> None:
    async with run_app() as driver:
        await driver.ask("Now")
        here = driver.app.session.conversation
        with slow_disk(driver, monkeypatch) as gate:
            await open_saved(driver)
            assert isinstance(driver.app.screen, ConversationReader)
            read = driver.app.screen._background_read
            await driver.pilot.press("escape")
            assert driver.app.screen is driver.app.chat
            gate.set()
            await driver.wait_until(lambda: read.wait(0))
            await driver.ask("And on")  # whatever came of it was heard before
            assert driver.app.session.conversation.id == here.id


async def test_what_goes_wrong_is_said(
    saved: Conversation, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with run_app() as driver:
        with slow_disk(driver, monkeypatch) as gate:
            await open_saved(driver)
            (file,) = driver.app.workspace.store.paths()
            file.write_text("not [ toml")
            gate.set()
            await driver.wait_for_text("cannot read")
            assert driver.app.screen is driver.app.chat


def test_a_result_is_what_was_read_or_what_was_raised() -> None:
    def fail() -> Conversation:
        raise StoreError("no")

    read = conversation_reader.BackgroundRead(fail)
    assert read.wait(30)
    with pytest.raises(StoreError, match="no"):
        read.result()
    calls: list[bool] = []
    read.call_at_end(lambda: calls.append(True))
    assert calls == [True]
