"""Saver: writes conversations to disk on its own thread, so that a slow disk blocks no key.

A failed write is kept in memory and retried. A conversation that another program has opened or
changed is saved as a copy instead.
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
"""Time between attempts to write what could not be written."""
HUNG_SECONDS = 2.0
"""After this time in one write the user is warned. A slow disk takes half a second for a file."""
HUNG_CLOSE_SECONDS = 1.0
"""How long `close` waits for a disk about which the user was already warned."""


class Disk(Protocol):
    """The part of `glmtui.store.Store` that is used here, on the saver's thread."""

    def save(self, conversation: Conversation) -> Path: ...

    def release(self, conversation_id: str) -> None: ...


class Saver:
    """Saves the newest state of each conversation.

    Args:
        on_error: called on one of the saver's threads with the error when saving begins to fail or
            fails in another way, and with None when it works again. A disk that does not answer
            counts as an error.
        on_copy: called on the saver's thread with a conversation's id and the reason, when it is
            saved as a copy. What is saved under that id goes to the copy until `pop_copy_id`.
    """

    def __init__(
        self,
        disk: Disk,
        on_error: Callable[[StoreError | None], None],
        on_copy: Callable[[str, StoreError], None] = lambda name, reason: None,
    ) -> None:
        self._disk = disk
        self._on_error = on_error
        self._on_copy = on_copy
        self._waiting: dict[str, Conversation] = {}
        self._copies: dict[str, str] = {}
        self._calls: list[Callable[[], None]] = []
        self._to_release: set[str] = set()
        self._error: StoreError | None = None
        self._busy = False
        self._hung = False
        self._closing = False
        self._last_call: Callable[[], None] = lambda: None
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="glmtui-saver", daemon=True)
        self._thread.start()

    def save(self, conversation: Conversation, on_done: Callable[[], None] | None = None) -> None:
        """Saves soon. Then calls `on_done` on the saver's thread, even if saving failed."""
        with self._changed:
            name = self._copies.get(conversation.id, conversation.id)
            if name != conversation.id:
                conversation = replace(conversation, id=name)
            self._waiting[name] = conversation
            self._to_release.discard(name)
            if on_done is not None:
                self._calls.append(on_done)
            self._changed.notify()

    def call(self, function: Callable[[], None]) -> None:
        """Calls a function soon on the saver's thread, for example to write another file."""
        with self._changed:
            self._calls.append(function)
            self._changed.notify()

    def release(self, conversation_id: str) -> None:
        """Unlocks a conversation for other programs, after it is written."""
        with self._changed:
            self._to_release.add(self._copies.pop(conversation_id, conversation_id))
            self._changed.notify()

    def discard(self, conversation_id: str) -> None:
        """Drops what is not yet written of a conversation and unlocks it."""
        with self._changed:
            self._waiting.pop(self._copies.get(conversation_id, conversation_id), None)
        self.release(conversation_id)

    def pop_copy_id(self, conversation_id: str) -> str:
        """The id of the copy, to be used from now on; "" if the conversation was released."""
        with self._changed:
            return self._copies.pop(conversation_id, "")

    def wait(self, timeout: float) -> None:
        """Waits for the writes that were asked for so far, `timeout` seconds at most."""
        done = threading.Event()
        self.call(done.set)
        done.wait(timeout)

    def close(
        self, timeout: float, last_call: Callable[[], None] = lambda: None
    ) -> tuple[Conversation, ...]:
        """Saves what is left. Returns what could not be written within `timeout` seconds.

        Args:
            last_call: called at the end on the saver's thread; it may wait for the disk.
        """
        with self._changed:
            self._closing, self._last_call = True, last_call
            self._changed.notify()
        self._thread.join(HUNG_CLOSE_SECONDS if self._hung else timeout)
        with self._changed:
            return tuple(self._waiting.values())

    @property
    def ended(self) -> bool:
        """Whether the thread has ended. False after `close` means that the disk hangs."""
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            self._loop()
        except BaseException as error:  # a bug: report it, then let it be logged
            self._on_error(_stopped(error))
            raise

    def _loop(self) -> None:
        while True:
            with self._changed:
                releasable = self._to_release - self._waiting.keys()
                due = self._calls or releasable or (self._waiting and not self._error)
                if not self._closing and not due:
                    self._changed.wait(RETRY_SECONDS if self._waiting else None)
                closing = self._closing
                batch, calls, self._calls = dict(self._waiting), self._calls, []
                self._busy = True
            watch = threading.Timer(HUNG_SECONDS, self._report_hung_disk)
            watch.daemon = True
            watch.start()
            error = self._write(batch)
            self._report(error)
            for call in (*calls, self._release):
                try:
                    call()
                except Exception as fault:  # a bug; the conversations must still be saved
                    log_unexpected(fault)
            with self._changed:
                self._busy = self._hung = False
            watch.cancel()
            self._report(error)  # replaces the warning about a disk that did not answer
            if closing:
                self._last_call()
                return

    def _write(self, batch: dict[str, Conversation]) -> StoreError | None:
        """Writes conversations. Returns the last error."""
        error: StoreError | None = None
        for conversation in batch.values():
            if conversation.id not in self._waiting:  # discarded meanwhile
                continue
            try:
                conversation = self._save(conversation)
            except StoreError as failed:
                error = failed
                continue
            except Exception as fault:  # a bug; the others must still be saved
                if str(self._error) != str(error := _stopped(fault)):
                    log_unexpected(fault)
                continue
            with self._changed:
                if self._waiting.get(conversation.id) is conversation:
                    del self._waiting[conversation.id]
        return error

    def _save(self, conversation: Conversation) -> Conversation:
        """Saves a conversation or a copy of it. Returns what was saved. Raises StoreError."""
        try:
            self._disk.save(conversation)
        except (ConversationInUse, ConversationChanged) as error:
            copy = self._copy(conversation, error)
            self._disk.save(copy)
            return copy
        return conversation

    def _copy(self, conversation: Conversation, reason: StoreError) -> Conversation:
        """Makes a copy, to which everything is saved that is given under the old id."""
        name = conversation.id
        with self._changed:
            # A newer state may have come meanwhile; it is written next.
            copy = replace(self._waiting.pop(name, conversation), id=conversation.fork().id)
            self._waiting[copy.id] = copy
            if name in self._to_release:
                self._to_release.add(copy.id)
            else:
                self._copies[name] = copy.id
            self._to_release.add(name)
            if not self._closing:
                self._on_copy(name, reason)
        return copy

    def _report(self, error: StoreError | None) -> None:
        with self._changed:
            changed = str(error) != str(self._error)
            self._error = error
            if changed and not self._closing:
                self._on_error(error)

    def _report_hung_disk(self) -> None:
        with self._changed:
            if self._busy:
                self._hung = True
                self._report(
                    StoreError(
                        _("The disk has not answered for {seconds:.0f} seconds.").format(
                            seconds=HUNG_SECONDS
                        )
                    )
                )

    def _release(self) -> None:
        with self._changed:
            names = [name for name in self._to_release if name not in self._waiting]
            self._to_release.difference_update(names)
        for conversation_id in names:
            self._disk.release(conversation_id)


def _stopped(error: BaseException) -> StoreError:
    return StoreError(
        _("Saving has stopped: {error!r}.").format(error=error),
        _("Export the conversation, then restart glmtui."),
    )
