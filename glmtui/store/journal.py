"""What is new in a large conversation: a small file beside it, until the large one is written anew.

To write 50 MB takes seconds, and a reply that grows has to be on disk every second; so of a large
conversation only its last messages are written, as JSON with ids, parents and head (see `format`),
to ``.<id>.new``. Knows what was last read and written of a conversation, and nothing of locks.
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
from glmtui.store.format import message_of, message_table, parse
from glmtui.system.durable_files import read_bounded, replace_file

LARGE_BYTES = 2**20  # a larger file is not written anew for every word
MOST_BYTES = 128 * 2**20

Stamp: TypeAlias = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class JournalState:
    """A conversation as this program last read or wrote it.

    Attributes:
        digest, stamp, nbytes: of its file.
        whole: how many of the first messages its file has as they are; the others are beside it.
        later: digest of what is beside it; empty where nothing is.
    """

    path: Path
    digest: bytes
    stamp: Stamp
    nbytes: int
    conversation: Conversation
    whole: int
    later: bytes = b""

    def is_still_at(self, path: Path) -> bool:
        """Whether the file holds what it did. Of a large one the system is asked if anybody wrote
        it. Raises OSError."""
        if self.nbytes > LARGE_BYTES and self.stamp == stamp_of(path):
            return True
        return self.digest == digest_of(read_bounded(path, MOST_BYTES))

    def with_later(self, conversation: Conversation) -> JournalState | None:
        """What is known once the new messages of `conversation` are on disk, beside its file.

        None, and nothing is written, where the file itself has to be: it is small, or what is new
        is large, or no matter of added messages. Raises OSError.
        """
        same = shared(self.conversation, conversation) if self.nbytes > LARGE_BYTES else None
        if same is None:
            return None
        whole = min(self.whole, same)
        data = dumps_later(conversation, whole, self.digest).encode()
        later = digest_of(data)
        if len(data) > self.nbytes // 2 or whole == len(conversation.messages):
            return None
        if later != self.later:
            replace_file(beside(self.path, conversation.id), data, prefix=f".{conversation.id}-")
            with contextlib.suppress(PermissionError):  # a file of another user
                os.utime(self.path)  # it is the conversation written last
        stamp = stamp_of(self.path)
        return replace(self, stamp=stamp, conversation=conversation, whole=whole, later=later)

    def announce(self, digest: bytes) -> None:
        """Has what lies beside the file count for nothing beside one of this digest.

        To be called before a file that has it all is written, else a program that is killed before
        it removes what lies beside it would leave messages there that were deleted. Raises OSError.
        """
        data = dumps_later(self.conversation, self.whole, self.digest, within=digest).encode()
        replace_file(
            beside(self.path, self.conversation.id), data, prefix=f".{self.conversation.id}-"
        )


def beside(path: Path, conversation_id: str) -> Path:
    """Where the new messages of the conversation in this file lie, if they are not in it."""
    return path.with_name(f".{conversation_id}.new")


def read(path: Path, data: bytes, stamp: Stamp, conversation: Conversation) -> JournalState:
    """What is known of a file's data, read as `conversation`, and of what lies beside it.

    Raises CorruptConversation for that, OSError.
    """
    try:
        more = read_bounded(beside(path, conversation.id), MOST_BYTES)
    except FileNotFoundError:
        whole, later = len(conversation.messages), b""
    else:
        text = more.decode("utf-8", "replace")
        conversation, whole = add_later(conversation, text, digest_of(data))
        later = digest_of(more)
    return JournalState(path, digest_of(data), stamp, len(data), conversation, whole, later)


def stamp_of(path: Path) -> Stamp:
    """What the system changes whenever a file is written or replaced. Raises OSError."""
    status = path.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns


def digest_of(data: bytes) -> bytes:
    """Sixteen bytes that tell data apart."""
    return hashlib.blake2b(data, digest_size=16).digest()


# ---- texts


def shared(before: Conversation, now: Conversation) -> int | None:
    """How many of their first messages are the same.

    None where more than messages, head and model differs, or messages are gone: that is no matter
    of adding.
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


def dumps_later(conversation: Conversation, start: int, digest: bytes, within: bytes = b"") -> str:
    """The messages from `start` on, to be added to a file of this digest.

    Args:
        within: digest of a file that has them already, if one is about to be written.
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


def add_later(conversation: Conversation, text: str, digest: bytes) -> tuple[Conversation, int]:
    """The conversation with what `dumps_later` made, and how many first messages stay as they are.

    A file that is not the one it was made for has been changed by hand since, or has it all
    already: then a message that is there is only replaced by one that goes on where it ends, and a
    parent that is gone by the last message. To a file that they were announced to be within,
    nothing is added.

    Raises CorruptConversation.
    """
    data = parse(text, "json")
    rows: Any = data.get("messages") if isinstance(data, dict) else None
    if not isinstance(rows, list):
        raise CorruptConversation(_("it is no list of messages"))
    if data.get("within") == digest.hex():
        return conversation, len(conversation.messages)
    fits = data.get("file") == digest.hex()
    messages = {message.id: message for message in conversation.messages}
    places = {name: n for n, name in enumerate(messages)}
    whole, new = len(messages), fits
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
        whole, new = min(whole, place), True
    head, model = data.get("head"), data.get("model")
    if not new or not isinstance(head, str) or head not in messages:
        head = conversation.head
    if not isinstance(model, str):
        model = conversation.model
    model = redact_if_url(model)
    added = replace(conversation, messages=tuple(messages.values()), head=head, model=model)
    return added, whole


def _rows(rows: Sequence[Any]) -> Iterator[tuple[Message, str]]:
    """Each message with the id of its parent."""
    for row in rows:
        if not isinstance(row, dict) or not isinstance(row.get("id"), str) or not row["id"]:
            raise CorruptConversation(_("a message has no id"))
        yield message_of(row, row["id"], None), str(row.get("parent") or "")
