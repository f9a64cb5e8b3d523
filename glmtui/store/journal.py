"""The journal of a large conversation: its newest messages, in a small file next to the large one.

Writing 50 MB takes seconds, and a growing reply is saved every second. So only the last messages of
a large conversation are written, as JSON with ids, parents and head (see `conversation_format`), to
``.<id>.new``. The large file itself is rewritten when the conversation is closed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any, TypeAlias

from glmtui.chat import Conversation, Message
from glmtui.errors import CorruptConversation
from glmtui.language import _
from glmtui.net.addresses import redact_if_url
from glmtui.store.conversation_format import message_of, message_table, parse
from glmtui.system.durable_files import read_bounded, replace_file

LARGE_BYTES = 2**20
"""Size of a conversation file above which saves go to the journal."""
MOST_BYTES = 128 * 2**20
"""Largest file that is read, in bytes; the limit of conversation files (`conversation_file`)."""

Stamp: TypeAlias = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class SavedState:
    """A conversation as this program last read or wrote it.

    Attributes:
        digest, stamp, nbytes: of the conversation file, without its journal.
        file_count: how many of the first messages are in the file unchanged; the rest are in the
            journal.
        journal_digest: digest of the journal; empty if there is none.
    """

    path: Path
    digest: bytes
    stamp: Stamp
    nbytes: int
    conversation: Conversation
    file_count: int
    journal_digest: bytes = b""

    def matches_file(self, path: Path) -> bool:
        """Whether the file is unchanged; for a large one by its stamp, without reading it.

        Raises:
            OSError: the file cannot be read.
        """
        if self.nbytes > LARGE_BYTES and self.stamp == stamp_of(path):
            return True
        return self.digest == digest_of(read_bounded(path, MOST_BYTES))

    def write_journal(self, conversation: Conversation) -> SavedState | None:
        """Writes the new messages of `conversation` to its journal.

        Returns:
            The new state; None, with nothing written, if the file itself must be rewritten: it is
            small, or the new part is large, or something other than messages was changed.

        Raises:
            OSError: the journal cannot be written.
        """
        if self.nbytes <= LARGE_BYTES:
            return None
        unchanged = count_unchanged(self.conversation, conversation)
        if unchanged is None:
            return None
        count = min(self.file_count, unchanged)
        data = dumps_journal(conversation, count, self.digest).encode()
        written = digest_of(data)
        if len(data) > self.nbytes // 2 or count == len(conversation.messages):
            return None
        if written != self.journal_digest:
            replace_file(
                journal_path(self.path, conversation.id), data, prefix=f".{conversation.id}-"
            )
            with contextlib.suppress(PermissionError):  # the file belongs to another user
                os.utime(self.path)  # lists are sorted by this time
        stamp = stamp_of(self.path)
        return replace(
            self,
            stamp=stamp,
            conversation=conversation,
            file_count=count,
            journal_digest=written,
        )

    def mark_superseded(self, digest: bytes) -> None:
        """Marks the journal as contained in the file with this digest, so that it is then ignored.

        Call this before writing a file that contains the journal's messages. Otherwise, if the
        program is killed before it removes the journal, deleted messages would come back.

        Raises:
            OSError: the journal cannot be written.
        """
        data = dumps_journal(
            self.conversation, self.file_count, self.digest, within=digest
        ).encode()
        replace_file(
            journal_path(self.path, self.conversation.id), data, prefix=f".{self.conversation.id}-"
        )


def journal_path(path: Path, conversation_id: str) -> Path:
    """The journal that belongs to a conversation file."""
    return path.with_name(f".{conversation_id}.new")


def read(path: Path, data: bytes, stamp: Stamp, conversation: Conversation) -> SavedState:
    """The state of a conversation file with its journal applied.

    Args:
        data, stamp: of the file.
        conversation: what was parsed from `data`.

    Raises:
        CorruptConversation: the journal cannot be parsed.
        OSError: the journal cannot be read.
    """
    try:
        more = read_bounded(journal_path(path, conversation.id), MOST_BYTES)
    except FileNotFoundError:
        count, journal_digest = len(conversation.messages), b""
    else:
        text = more.decode("utf-8", "replace")
        conversation, count = apply_journal(conversation, text, digest_of(data))
        journal_digest = digest_of(more)
    return SavedState(path, digest_of(data), stamp, len(data), conversation, count, journal_digest)


def stamp_of(path: Path) -> Stamp:
    """Inode, size and modification time in ns: they change whenever a file is written or replaced.

    Raises:
        OSError: there is no such file.
    """
    status = path.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns


def digest_of(data: bytes) -> bytes:
    """A 16-byte BLAKE2b digest."""
    return hashlib.blake2b(data, digest_size=16).digest()


# ---- texts


def count_unchanged(before: Conversation, now: Conversation) -> int | None:
    """How many of the first messages are unchanged.

    None if messages were removed, or anything but messages, head and model was changed: a journal
    cannot express that.
    """
    if len(now.messages) < len(before.messages):
        return None
    if replace(now, messages=(), head=None, model="") != replace(
        before, messages=(), head=None, model=""
    ):
        return None
    pairs = enumerate(zip(before.messages, now.messages, strict=False))
    same = next((n for n, (a, b) in pairs if a is not b and a != b), len(before.messages))
    there = {message.id for message in now.messages[same:]}
    return same if all(message.id in there for message in before.messages[same:]) else None


def dumps_journal(
    conversation: Conversation, start: int, digest: bytes, within: bytes = b""
) -> str:
    """The text of a journal: the messages from `start` on.

    Args:
        digest: of the conversation file that the journal belongs to.
        within: digest of a file that already contains the messages, if one is about to be written.
    """
    table = {
        "file": digest.hex(),
        "within": within.hex(),
        "model": redact_if_url(conversation.model),
        "head": conversation.head,
        "messages": [message_table(m, plain=False) for m in conversation.messages[start:]],
    }
    text = json.dumps(table, ensure_ascii=False, default=datetime.isoformat) + "\n"
    return re.sub("[\ud800-\udfff]", "\ufffd", text)


def apply_journal(conversation: Conversation, text: str, digest: bytes) -> tuple[Conversation, int]:
    """Applies a journal made by `dumps_journal` to a conversation.

    If the file's digest is not the one the journal was made for, the file was edited by hand since
    or already contains the messages. Then an existing message is replaced only by a longer version
    of itself, and a missing parent by the last message. If the journal is marked as contained in
    the file, nothing is applied.

    Returns:
        The conversation, and how many of its first messages are unchanged.

    Raises:
        CorruptConversation: the text is not a journal.
    """
    data = parse(text, "json")
    rows: Any = data.get("messages") if isinstance(data, dict) else None
    if not isinstance(rows, list):
        raise CorruptConversation(_("it has no list of messages"))
    if data.get("within") == digest.hex():
        return conversation, len(conversation.messages)
    fits = data.get("file") == digest.hex()
    messages = {message.id: message for message in conversation.messages}
    places = {name: n for n, name in enumerate(messages)}
    unchanged, changed = len(messages), fits
    for message, parent in _rows(rows):
        there = messages.get(message.id)
        place = places.setdefault(message.id, len(places))
        if there is not None and not fits:
            if message.role != there.role or not message.content.startswith(there.content):
                continue
            parent = there.parent or ""
        elif places.get(parent, place) >= place and (parent or not fits):
            parent = next(reversed(messages), "") if there is None else there.parent or ""
        messages[message.id] = replace(message, parent=parent or None)
        unchanged, changed = min(unchanged, place), True
    head, model = data.get("head"), data.get("model")
    if not changed or not isinstance(head, str) or head not in messages:
        head = conversation.head
    if not isinstance(model, str):
        model = conversation.model
    model = redact_if_url(model)
    added = replace(conversation, messages=tuple(messages.values()), head=head, model=model)
    return added, unchanged


def _rows(rows: Sequence[Any]) -> Iterator[tuple[Message, str]]:
    """Each message with its parent's id."""
    for row in rows:
        if not isinstance(row, dict) or not isinstance(row.get("id"), str) or not row["id"]:
            raise CorruptConversation(_("a message has no id"))
        yield message_of(row, row["id"], None), str(row.get("parent") or "")
