"""Saver: what cannot be written is kept, retried, and returned at the end."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from glmtui.chat import Conversation, Message
from glmtui.errors import ConversationInUse, StoreError
from glmtui.store import Store
from glmtui.ui.session import saver as saving
from glmtui.ui.session.saver import Saver
from support.session_driver import SessionDriver


@pytest.fixture
def driver(tmp_path: Path) -> Iterator[SessionDriver]:
    driver = SessionDriver(tmp_path)
    yield driver
    driver.engine.close(5)
    driver.saver.close(5)


def test_a_disk_that_refuses_loses_nothing(driver: SessionDriver) -> None:
    driver.disk_error = StoreError("cannot write: disk full")
    assert driver.ask("Go").content == "Hello there."
    driver.wait_until(lambda: driver.reports == [driver.disk_error])
    driver.disk_error = None
    driver.ask("Again")
    driver.wait_until(lambda: driver.reports[-1] is None)
    assert [m.content for m in driver.on_disk().path] == [
        "Go",
        "Hello there.",
        "Again",
        "Hello there.",
    ]


def test_what_cannot_be_saved_at_the_end_is_handed_back(tmp_path: Path) -> None:
    driver = SessionDriver(tmp_path)
    driver.disk_error = StoreError("cannot write: disk full")
    driver.ask("Go")
    assert driver.saver.close(5) == (driver.session.conversation,)


def test_a_conversation_that_was_left_is_let_go_once_it_is_written(driver: SessionDriver) -> None:
    driver.disk_error = StoreError("cannot write: disk full")
    driver.ask("Go")
    left = driver.session.conversation
    driver.session.open(Conversation.new())
    driver.saver.release(left.id)
    driver.wait_until(lambda: bool(driver.reports))
    assert driver.released == []
    driver.disk_error = None
    driver.ask("Elsewhere")
    driver.wait_until(lambda: driver.released == [left.id])


def test_closing_waits_for_the_last_save(tmp_path: Path) -> None:
    driver, gate = SessionDriver(tmp_path), threading.Event()
    save = driver.save

    def slow(conversation: Conversation) -> Path:
        gate.wait(60)
        return save(conversation)

    driver.save = slow  # type: ignore[method-assign]
    driver.session.ask("Go")
    threading.Timer(0.05, gate.set).start()
    assert driver.saver.close(10) == ()
    assert Store(tmp_path).load(driver.session.conversation.id).path[-1].content == "Go"


# ---- copies


class DiskWithLockedConversation:
    """A disk on which one conversation is another program's.

    Attributes:
        saved: the last state of each conversation.
        error: what saving any other raises.
    """

    def __init__(self, taken: str) -> None:
        self.taken = taken
        self.saved: dict[str, Conversation] = {}
        self.released: list[str] = []
        self.error: Exception | None = None

    def save(self, conversation: Conversation) -> Path:
        if conversation.id == self.taken:
            raise ConversationInUse("it is open in another")
        if self.error is not None:
            raise self.error
        self.saved[conversation.id] = conversation
        return Path()

    def release(self, conversation_id: str) -> None:
        self.released.append(conversation_id)


TALK = Conversation.new().add(Message("user", "q"))
LONGER = TALK.add(Message("assistant", "a"))


class CopyingSaver:
    """A saver on such a disk, and what it has said."""

    def __init__(self) -> None:
        self.disk = DiskWithLockedConversation(TALK.id)
        self.reports: list[StoreError | None] = []
        self.copied: list[str] = []
        self.saver = Saver(
            self.disk, self.reports.append, lambda name, why: self.copied.append(name)
        )

    def save(self, *talks: Conversation) -> None:
        for talk in talks:
            done = threading.Event()
            self.saver.save(talk, done.set)
            assert done.wait(10)


@pytest.fixture
def copies() -> Iterator[CopyingSaver]:
    made = CopyingSaver()
    yield made
    made.saver.close(5)


def test_what_is_taken_goes_to_one_copy_from_the_first_word(copies: CopyingSaver) -> None:
    copies.save(TALK, LONGER)
    ((name, copy),) = copies.disk.saved.items()
    assert name != TALK.id
    assert copy.messages == LONGER.messages
    assert (copies.copied, copies.reports) == ([TALK.id], [])
    assert copies.saver.pop_copy_id(TALK.id) == name
    assert copies.saver.pop_copy_id(TALK.id) == ""
    assert copies.disk.released == [TALK.id]
    copies.save(LONGER)  # it was opened again
    assert len(copies.disk.saved) == 2


def test_a_copy_that_the_disk_refuses_is_kept_and_is_one(copies: CopyingSaver) -> None:
    copies.disk.error = StoreError("disk full")
    copies.save(TALK, LONGER)
    assert [str(report) for report in copies.reports] == ["disk full"]
    copies.disk.error = None
    copies.save(LONGER)
    assert [talk.messages for talk in copies.disk.saved.values()] == [LONGER.messages]
    assert copies.reports[-1] is None


@pytest.mark.parametrize("first", [True, False], ids=["before", "after"])
def test_a_conversation_left_before_its_copy_is_heard_of(copies: CopyingSaver, first: bool) -> None:
    """Opened again it is the file as it is, not the copy."""
    gate = threading.Event()
    copies.saver.call(lambda: gate.wait(10) and None)
    copies.saver.save(TALK)
    if first:
        copies.saver.release(TALK.id)
    gate.set()
    copies.saver.wait(10)
    if not first:
        copies.saver.release(TALK.id)
    copies.saver.wait(10)
    (copy,) = copies.disk.saved
    assert copies.saver.pop_copy_id(TALK.id) == ""
    copies.saver.wait(10)
    assert {*copies.disk.released} == {TALK.id, copy}


def test_a_copy_that_waits_at_the_end_is_handed_back(copies: CopyingSaver) -> None:
    copies.disk.error = StoreError("disk full")
    copies.save(TALK)
    (copy,) = copies.saver.close(5)
    assert copy.id != TALK.id
    assert copy.messages == TALK.messages


# ---- faults, and disks that hang


def test_a_fault_of_ours_keeps_nothing_else_from_the_disk(
    copies: CopyingSaver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GLMTUI_STATE_DIR", str(tmp_path))
    other = Conversation.new().add(Message("user", "other"))
    save = copies.disk.save

    def faulty(conversation: Conversation) -> Path:
        if conversation.id == other.id:
            raise ZeroDivisionError
        return save(conversation)

    copies.disk.save = faulty  # type: ignore[method-assign]
    copies.saver.call(lambda: 1 / 0)  # type: ignore[arg-type,return-value]
    mine = LONGER.fork()
    copies.save(other, mine)
    assert [*copies.disk.saved] == [mine.id]
    assert "Saving has stopped: ZeroDivisionError()" in str(copies.reports[0])
    assert copies.saver.close(5) == (other,)
    assert (tmp_path / "crash.log").read_text().count("Traceback") == 2


@pytest.mark.parametrize("where", ["save", "release", "call"])
def test_a_disk_that_hangs_is_said_and_not_waited_for(
    monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    monkeypatch.setattr(saving, "HUNG_SECONDS", 0.1)
    monkeypatch.setattr(saving, "HUNG_CLOSE_SECONDS", 0.1)
    copies, gate = CopyingSaver(), threading.Event()
    talk = LONGER.fork()
    if where == "call":
        copies.saver.call(lambda: gate.wait(10) and None)
    else:
        monkeypatch.setattr(copies.disk, where, lambda *_: gate.wait(10))
    copies.saver.save(talk)
    copies.saver.release(talk.id)
    end = time.monotonic() + 10
    while not copies.reports:
        assert time.monotonic() < end
        time.sleep(0.01)
    assert "has not answered" in str(copies.reports[0])
    began = time.monotonic()
    assert copies.saver.close(10) == ((talk,) if where == "save" else ())
    assert time.monotonic() - began < 5
    assert not copies.saver.ended
    gate.set()
    assert copies.saver.close(10) == ()
    assert copies.saver.ended
