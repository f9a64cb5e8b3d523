"""Conversations to disk on a thread of its own, so that a slow disk never holds up a key.

Knows nothing of screens; what cannot be written is kept and tried again.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from glmtui.chat import Conversation
from glmtui.errors import StoreError
from glmtui.language import _

RETRY_SECONDS = 10.0


class Disk(Protocol):
    """What is needed of `glmtui.store.Store`; both are called on the saver's thread."""

    def save(self, conversation: Conversation) -> Path: ...

    def release(self, conversation_id: str) -> None: ...


class Saver:
    """Saves the newest state of each conversation it is given.

    Args:
        disk: where to.
        report: called on the saver's thread whenever saving begins to fail, fails otherwise, or
            works again (None).
    """

    def __init__(self, disk: Disk, report: Callable[[StoreError | None], None]) -> None:
        self._disk = disk
        self._report = report
        self._waiting: dict[str, Conversation] = {}
        self._then: list[Callable[[], None]] = []
        self._left: set[str] = set()
        self._error: StoreError | None = None
        self._closing = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="glmtui-saver", daemon=True)
        self._thread.start()

    def save(self, conversation: Conversation, then: Callable[[], None] | None = None) -> None:
        """Saves soon, and then calls `then` on the saver's thread, even if saving failed."""
        with self._changed:
            self._waiting[conversation.id] = conversation
            self._left.discard(conversation.id)
            if then is not None:
                self._then.append(then)
            self._changed.notify()

    def call(self, call: Callable[[], None]) -> None:
        """Calls `call` soon, on the saver's thread: for what else is written."""
        with self._changed:
            self._then.append(call)
            self._changed.notify()

    def leave(self, conversation_id: str) -> None:
        """Lets other programs save it, once what waits of it is written."""
        with self._changed:
            self._left.add(conversation_id)
            self._changed.notify()

    def forget(self, conversation_id: str) -> None:
        """Gives up saving what waits of it, and lets other programs have it."""
        with self._changed:
            self._waiting.pop(conversation_id, None)
        self.leave(conversation_id)

    def settle(self, timeout: float) -> None:
        """Waits until what is being written is, at most so many seconds."""
        settled = threading.Event()
        self.call(settled.set)
        settled.wait(timeout)

    def close(self, timeout: float) -> tuple[Conversation, ...]:
        """Saves what waits. What could not be written within `timeout` seconds is returned."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(timeout)
        with self._changed:
            return tuple(self._waiting.values())

    def _run(self) -> None:
        try:
            self._loop()
        except BaseException as error:  # a fault of ours: say so, then let it be logged
            self._report(
                StoreError(
                    _("Saving has stopped: {error!r}.").format(error=error),
                    _("Export, then start anew."),
                )
            )
            raise

    def _loop(self) -> None:
        while True:
            with self._changed:
                idle = self._left - self._waiting.keys()
                due = self._then or idle or (self._waiting and not self._error)
                if not self._closing and not due:
                    self._changed.wait(RETRY_SECONDS if self._waiting else None)
                closing = self._closing
                batch, then, self._then = dict(self._waiting), self._then, []
            self._write(batch)
            for call in then:
                call()
            self._release()
            if closing:
                return

    def _write(self, batch: dict[str, Conversation]) -> None:
        error = None
        for conversation in batch.values():
            if conversation.id not in self._waiting:  # given up since
                continue
            try:
                self._disk.save(conversation)
            except StoreError as failed:
                error = failed
                continue
            with self._changed:
                if self._waiting.get(conversation.id) is conversation:
                    del self._waiting[conversation.id]
        if str(error) != str(self._error):
            self._report(error)
        self._error = error

    def _release(self) -> None:
        with self._changed:
            done = [name for name in self._left if name not in self._waiting]
            self._left.difference_update(done)
        for conversation_id in done:
            self._disk.release(conversation_id)
