"""Conversations to disk on a thread of its own, so that a slow disk never holds up a key.

Knows nothing of screens; what cannot be written is kept and tried again. What must not be written
where it was, since another program has it or has changed it, goes into a copy at once.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from glmtui.chat import Conversation
from glmtui.errors import ConversationChanged, ConversationInUse, StoreError
from glmtui.language import _
from glmtui.logs import log_unexpected

RETRY_SECONDS = 10.0
SLOW_SECONDS = 2.0
"""How long a disk may take before the user is told. A slow one takes half a second for a file."""
HUNG_SECONDS = 1.0
"""How long the end waits for a disk that the user was told of."""


class Disk(Protocol):
    """What is needed of `glmtui.store.Store`; both are called on the saver's thread."""

    def save(self, conversation: Conversation) -> Path: ...

    def release(self, conversation_id: str) -> None: ...


class Saver:
    """Saves the newest state of each conversation it is given.

    Args:
        disk: where to.
        report: called, on a thread of the saver's, whenever saving begins to fail, fails
            otherwise, or works again (None). A disk that does not answer is a failure too.
        copied: called on the saver's thread when a conversation goes on in a copy: with its id
            and why. What is given under that id is saved in the copy until `moved` is called.
    """

    def __init__(
        self,
        disk: Disk,
        report: Callable[[StoreError | None], None],
        copied: Callable[[str, StoreError], None] = lambda name, why: None,
    ) -> None:
        self._disk = disk
        self._report = report
        self._copied = copied
        self._waiting: dict[str, Conversation] = {}
        self._copies: dict[str, str] = {}
        self._then: list[Callable[[], None]] = []
        self._left: set[str] = set()
        self._error: StoreError | None = None
        self._busy = False
        self._hung = False
        self._closing = False
        self._last: Callable[[], None] = lambda: None
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="glmtui-saver", daemon=True)
        self._thread.start()

    def save(self, conversation: Conversation, then: Callable[[], None] | None = None) -> None:
        """Saves soon, and then calls `then` on the saver's thread, even if saving failed."""
        with self._changed:
            name = self._copies.get(conversation.id, conversation.id)
            if name != conversation.id:
                conversation = replace(conversation, id=name)
            self._waiting[name] = conversation
            self._left.discard(name)
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
            self._left.add(self._copies.pop(conversation_id, conversation_id))
            self._changed.notify()

    def forget(self, conversation_id: str) -> None:
        """Gives up saving what waits of it, and lets other programs have it."""
        with self._changed:
            self._waiting.pop(self._copies.get(conversation_id, conversation_id), None)
        self.leave(conversation_id)

    def moved(self, conversation_id: str) -> str:
        """The id of the copy, under which it is given from now on; "" if it was left since."""
        with self._changed:
            return self._copies.pop(conversation_id, "")

    def settle(self, timeout: float) -> None:
        """Waits until what is being written is, at most so many seconds."""
        settled = threading.Event()
        self.call(settled.set)
        settled.wait(timeout)

    def close(
        self, timeout: float, last: Callable[[], None] = lambda: None
    ) -> tuple[Conversation, ...]:
        """Saves what waits. What could not be written within `timeout` seconds is returned.

        Args:
            last: what is to be done then on the saver's thread, for it may wait for the disk.
        """
        with self._changed:
            self._closing, self._last = True, last
            self._changed.notify()
        self._thread.join(HUNG_SECONDS if self._hung else timeout)
        with self._changed:
            return tuple(self._waiting.values())

    @property
    def ended(self) -> bool:
        """Whether all is done; after `close`, False means that the disk hangs."""
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            self._loop()
        except BaseException as error:  # a fault of ours: say so, then let it be logged
            self._report(_stopped(error))
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
                self._busy = True
            watch = threading.Timer(SLOW_SECONDS, self._say_hung)
            watch.daemon = True
            watch.start()
            error = self._write(batch)
            self._tell(error)
            for call in (*then, self._release):
                try:
                    call()
                except Exception as fault:  # of ours; it keeps nothing that is said from the disk
                    log_unexpected(fault)
            with self._changed:
                self._busy = self._hung = False
            watch.cancel()
            self._tell(error)  # where the rest has taken long
            if closing:
                self._last()
                return

    def _write(self, batch: dict[str, Conversation]) -> StoreError | None:
        """What was wrong with the last that could not be written."""
        error: StoreError | None = None
        for conversation in batch.values():
            if conversation.id not in self._waiting:  # given up since
                continue
            try:
                conversation = self._save(conversation)
            except StoreError as failed:
                error = failed
                continue
            except Exception as fault:  # of ours; the others are saved all the same
                if str(self._error) != str(error := _stopped(fault)):
                    log_unexpected(fault)
                continue
            with self._changed:
                if self._waiting.get(conversation.id) is conversation:
                    del self._waiting[conversation.id]
        return error

    def _save(self, conversation: Conversation) -> Conversation:
        """Saves it, or a copy of it. Returns what is saved; raises StoreError."""
        try:
            self._disk.save(conversation)
        except (ConversationInUse, ConversationChanged) as error:
            copy = self._copy(conversation, error)
            self._disk.save(copy)
            return copy
        return conversation

    def _copy(self, conversation: Conversation, why: StoreError) -> Conversation:
        """Has what is said in a conversation go to a copy of it from now on."""
        name = conversation.id
        with self._changed:
            # What has come meanwhile is newer; it is written next.
            copy = replace(self._waiting.pop(name, conversation), id=conversation.fork().id)
            self._waiting[copy.id] = copy
            if name in self._left:
                self._left.add(copy.id)
            else:
                self._copies[name] = copy.id
            self._left.add(name)
            if not self._closing:
                self._copied(name, why)
        return copy

    def _tell(self, error: StoreError | None) -> None:
        with self._changed:
            changed = str(error) != str(self._error)
            self._error = error
            if changed and not self._closing:
                self._report(error)

    def _say_hung(self) -> None:
        with self._changed:
            if self._busy:
                self._hung = True
                self._tell(
                    StoreError(
                        _("The disk has not answered for {seconds:.0f} seconds.").format(
                            seconds=SLOW_SECONDS
                        )
                    )
                )

    def _release(self) -> None:
        with self._changed:
            done = [name for name in self._left if name not in self._waiting]
            self._left.difference_update(done)
        for conversation_id in done:
            self._disk.release(conversation_id)


def _stopped(error: BaseException) -> StoreError:
    return StoreError(
        _("Saving has stopped: {error!r}.").format(error=error), _("Export, then start anew.")
    )
