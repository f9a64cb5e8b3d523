"""Saver: what the disk refuses is kept, tried again, and handed back at the end."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from desk import Desk

from glmtui.chat import Conversation
from glmtui.errors import StoreError
from glmtui.store import Store


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    desk = Desk(tmp_path)
    yield desk
    desk.engine.close(5)
    desk.saver.close(5)


def test_a_disk_that_refuses_loses_nothing(desk: Desk) -> None:
    desk.disk_error = StoreError("cannot write: disk full")
    assert desk.ask("Go").content == "Hello there."
    desk.until(lambda: desk.reports == [desk.disk_error])
    desk.disk_error = None
    desk.ask("Again")
    desk.until(lambda: desk.reports[-1] is None)
    assert [m.content for m in desk.on_disk().path] == [
        "Go",
        "Hello there.",
        "Again",
        "Hello there.",
    ]


def test_what_cannot_be_saved_at_the_end_is_handed_back(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    desk.disk_error = StoreError("cannot write: disk full")
    desk.ask("Go")
    assert desk.saver.close(5) == (desk.session.conversation,)


def test_a_conversation_that_was_left_is_let_go_once_it_is_written(desk: Desk) -> None:
    desk.disk_error = StoreError("cannot write: disk full")
    desk.ask("Go")
    left = desk.session.conversation
    desk.session.open(Conversation.new())
    desk.saver.leave(left.id)
    desk.until(lambda: bool(desk.reports))
    assert desk.released == []
    desk.disk_error = None
    desk.ask("Elsewhere")
    desk.until(lambda: desk.released == [left.id])


def test_closing_waits_for_the_last_save(tmp_path: Path) -> None:
    desk, gate = Desk(tmp_path), threading.Event()
    save = desk.save

    def slow(conversation: Conversation) -> Path:
        gate.wait(60)
        return save(conversation)

    desk.save = slow  # type: ignore[method-assign]
    desk.session.ask("Go")
    threading.Timer(0.05, gate.set).start()
    assert desk.saver.close(10) == ()
    assert Store(tmp_path).load(desk.session.conversation.id).path[-1].content == "Go"
