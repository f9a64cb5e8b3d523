"""One conversation file: its text, what a list shows of it, a conversation from elsewhere.

Knows no folder. What is wrong is said with the file's name.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from glmtui.chat import Conversation
from glmtui.errors import CorruptConversation, StoreError
from glmtui.language import _
from glmtui.store.exchange.import_export import import_text
from glmtui.store.file_names import format_of, id_of
from glmtui.store.format import Peek, peek
from glmtui.system.durable_files import read_bounded
from glmtui.system.text_encoding import UnknownEncoding, decode_text

MAX_BYTES = 128 * 2**20


@dataclass(frozen=True, slots=True)
class Summary:
    """One line of a list of conversations.

    Attributes:
        updated: when the file was last written, in UTC.
        message_count: messages of all branches.
        pinned: whether it is to stand before the others.
    """

    id: str
    title: str
    model: str
    updated: datetime
    path: Path
    message_count: int
    pinned: bool = False


def read_file(path: Path) -> Conversation:
    """A conversation from any file, under a fresh id: our own TOML or JSON, or messages as
    OpenAI's API has them. Raises StoreError (CorruptConversation, NewerFormat)."""
    with naming(path):
        data = read_bounded(path, MAX_BYTES)
        try:
            text = decode_text(data)
        except UnknownEncoding:
            text = text_of(data)
        return import_text(text, format_of(path))


def peek_at(path: Path) -> Peek:
    """What a list shows of a file. Raises StoreError (CorruptConversation, NewerFormat)."""
    with naming(path):
        return peek(text_of(read_bounded(path, MAX_BYTES)), format_of(path))


def summary(path: Path, status: os.stat_result, there: Peek) -> Summary:
    """The line for a file."""
    return Summary(
        id=id_of(path),
        title=there.title,
        model=there.model,
        updated=written_at(status),
        path=path,
        message_count=there.message_count,
        pinned=there.pinned,
    )


def written_at(status: os.stat_result) -> datetime:
    """When a file was last written, in UTC."""
    seconds = min(max(status.st_mtime, 0), 253402300799)  # what a datetime can hold
    return datetime.fromtimestamp(seconds, timezone.utc)


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Puts the file's name into what goes wrong with reading it."""
    try:
        yield
    except OSError as error:
        raise StoreError(
            _("{file!r} cannot be read: {reason}").format(file=path.name, reason=error.strerror)
        ) from error
    except StoreError as error:
        raise type(error)(
            _("{file!r} cannot be read: {reason}").format(file=path.name, reason=error.message),
            error.hint,
        ) from error


@contextlib.contextmanager
def writing_in(folder: Path) -> Iterator[None]:
    """Says what to do about a folder that does not take what is written."""
    try:
        yield
    except OSError as error:
        hint = ""
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            hint = _("Free some space there, or export the conversation to another disk.")
        elif error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
            hint = _("Make the folder writable, or set GLMTUI_DATA_DIR to one that is.")
        raise StoreError(
            _("cannot write in {folder!r}: {reason}").format(
                folder=str(folder), reason=error.strerror
            ),
            hint,
        ) from error


def text_of(data: bytes) -> str:
    """The text of a file's bytes. Raises CorruptConversation."""
    try:
        return data.decode("utf-8-sig")  # some editors put a byte order mark first
    except UnicodeDecodeError as error:
        raise CorruptConversation(
            _("this is not UTF-8 text: {reason}").format(reason=error.reason)
        ) from error
