"""SessionDriver: a session with a real store, a FakeEngine and an event loop of its own."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from glmtui.chat import Conversation, Message
from glmtui.engine.model_info import LoadOptions, ServerSpec
from glmtui.errors import StoreError
from glmtui.store import Store
from glmtui.ui.session.reply_state import Place
from glmtui.ui.session.saver import Saver
from glmtui.ui.session.session import Session
from support.fake_engine import FakeEngine

TARGET = ServerSpec("http://fake/v1")


class RecordingView:
    """A ReplyView that records what it shows."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.note = ""
        self.places: dict[str, Place] = {}

    def show(self, messages: Sequence[Message], places: Mapping[str, Place]) -> None:
        self.texts = [message.content for message in messages]
        self.places = dict(places)

    def begin(self, message: Message, place: Place | None) -> None:
        self.texts.append(message.content)

    def append(self, text: str) -> None:
        self.texts[-1] += text

    def finish(self, message: Message, note: str = "") -> None:
        self.texts[-1], self.note = message.content, note


class SessionDriver:
    """A session with its engine and saver, and the event loop that a screen would be.

    Attributes:
        disk: a real store; set `disk_error` to make it fail.
    """

    def __init__(self, folder: Path, *, loaded: bool = True) -> None:
        self.disk = Store(folder)
        self.disk_error: StoreError | None = None
        self.saves: list[Conversation] = []
        self.reports: list[StoreError | None] = []
        self.released: list[str] = []
        self.view = RecordingView()
        self.loop_calls: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self.saver = Saver(self, self.reports.append)
        self.session = Session(
            Conversation.new(system="Be brief."),
            self.saver,
            self.view,
            call_soon=self.loop_calls.put,
            on_change=lambda: None,
        )
        self.engine = FakeEngine(self.session.on_event)
        self.session.attach(self.engine)
        if loaded:
            self.load()

    def load(self) -> None:
        self.session.load(TARGET, "fake", LoadOptions())
        self.wait_until(lambda: self.session.model is not None)

    def save(self, conversation: Conversation) -> Path:
        if self.disk_error is not None:
            raise self.disk_error
        self.saves.append(conversation)
        return self.disk.save(conversation)

    def release(self, conversation_id: str) -> None:
        self.released.append(conversation_id)

    def wait_until(self, condition: Callable[[], bool]) -> None:
        """Runs the loop and drains the session until a condition is true."""
        end = time.monotonic() + 60
        while not condition():
            assert time.monotonic() < end, "timeout"
            self.session.drain()
            try:
                self.loop_calls.get(timeout=0.005)()
            except queue.Empty:
                continue

    def ask(self, text: str) -> Message:
        self.session.ask(text)
        return self.reply()

    def reply(self) -> Message:
        self.wait_until(lambda: self.session.reply is None)
        return self.session.conversation.path[-1]

    def on_disk(self) -> Conversation:
        self.wait_until(lambda: not self.saver._waiting)
        return Store(self.disk.folder).load(self.session.conversation.id)
