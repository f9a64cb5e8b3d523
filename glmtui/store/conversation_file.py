"""One conversation file: reading, its summary for lists, and errors that name the file.

`glmtui.store.conversation_format` writes and parses the text.
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
from glmtui.store.conversation_format import Peek, peek
from glmtui.store.exchange.import_export import import_text
from glmtui.store.file_names import format_of, id_of
from glmtui.system.durable_files import read_bounded
from glmtui.system.text_encoding import UnknownEncoding, decode_text

MAX_BYTES = 128 * 2**20
"""Largest conversation file that is read: far above any real one, and it fits in memory."""


@dataclass(frozen=True, slots=True)
class Summary:
    """One line of a list of conversations.

    Attributes:
        updated: when the file was last written, in UTC.
        message_count: messages of all branches.
        pinned: whether it is listed before the others.
    """

    id: str
    title: str
    model: str
    updated: datetime
    path: Path
    message_count: int
    pinned: bool = False


def read_file(path: Path) -> Conversation:
    """Imports a conversation under a new id: from our TOML or JSON, or another program's format.

    Raises:
        StoreError: the file cannot be read; CorruptConversation or NewerFormat for its contents.
    """
    with reading_errors(path):
        data = read_bounded(path, MAX_BYTES)
        try:
            text = decode_text(data)
        except UnknownEncoding:
            text = decode_utf8(data)
        return import_text(text, format_of(path))


def peek_file(path: Path) -> Peek:
    """What lists show of a file. Raises like `read_file`."""
    with reading_errors(path):
        return peek(decode_utf8(read_bounded(path, MAX_BYTES)), format_of(path))


def make_summary(path: Path, status: os.stat_result, there: Peek) -> Summary:
    return Summary(
        id=id_of(path),
        title=there.title,
        model=there.model,
        updated=modified_at(status),
        path=path,
        message_count=there.message_count,
        pinned=there.pinned,
    )


def modified_at(status: os.stat_result) -> datetime:
    """When a file was last written, in UTC, limited to what a datetime can hold."""
    seconds = min(max(status.st_mtime, 0), 253402300799)  # the end of the year 9999
    return datetime.fromtimestamp(seconds, timezone.utc)


@contextlib.contextmanager
def reading_errors(path: Path) -> Iterator[None]:
    """Turns errors of reading a file into StoreErrors that name it."""
    try:
        yield
    except OSError as error:
        raise StoreError(
            _("cannot read {file!r}: {reason}").format(file=path.name, reason=error.strerror)
        ) from error
    except StoreError as error:
        raise type(error)(
            _("cannot read {file!r}: {reason}").format(file=path.name, reason=error.message),
            error.hint,
        ) from error


@contextlib.contextmanager
def writing_errors(folder: Path) -> Iterator[None]:
    """Turns errors of writing in a folder into StoreErrors that say what to do."""
    try:
        yield
    except OSError as error:
        hint = ""
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            hint = _("Free some space, or export the conversation to another disk.")
        elif error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
            hint = _("Make the folder writable, or set GLMTUI_DATA_DIR to another folder.")
        raise StoreError(
            _("cannot write to {folder!r}: {reason}").format(
                folder=str(folder), reason=error.strerror
            ),
            hint,
        ) from error


def decode_utf8(data: bytes) -> str:
    """Decodes UTF-8.

    Raises:
        CorruptConversation: the bytes are not UTF-8.
    """
    try:
        return data.decode("utf-8-sig")  # some editors write a byte order mark
    except UnicodeDecodeError as error:
        raise CorruptConversation(
            _("this is not UTF-8 text: {reason}").format(reason=error.reason)
        ) from error
