"""Drafts: unsent questions, one file per conversation and one for a new conversation.

They survive the end of the program, even kill -9, but not a power cut.
"""

from __future__ import annotations

import contextlib
import re
from itertools import chain, count
from pathlib import Path

from glmtui.store.locks import FolderLocks
from glmtui.system.durable_files import (
    encode_utf8,
    make_private_folder,
    read_bounded,
    remove_if_stale,
    replace_file,
)

MOST_BYTES = 16 * 2**20
"""Largest draft that is read; larger ones are ignored."""

_NEW = re.compile(r"new\d+")


class Drafts:
    """The drafts in one folder; none if the folder cannot be used.

    Several programs may run at once: each has its own draft for a new conversation.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._locks = FolderLocks(folder)
        self._new = ""

    def read(self, conversation_id: str) -> str:
        """The draft of a conversation, or of a new one if the id is empty; "" if there is none."""
        with contextlib.suppress(OSError, UnicodeDecodeError):
            return read_bounded(self._path(conversation_id), MOST_BYTES).decode()
        return ""

    def write(self, conversation_id: str, text: str) -> bool:
        """Saves a draft; an empty text deletes it.

        Returns:
            False if it cannot be written.
        """
        try:
            path = self._path(conversation_id)
            if text.strip():
                make_private_folder(self._folder)
                replace_file(path, encode_utf8(text), synced=False)
            else:
                path.unlink(missing_ok=True)
        except OSError:
            return False
        return True

    def close(self) -> None:
        """Releases the draft of a new conversation for other programs."""
        with contextlib.suppress(OSError):
            self._locks.release(self._new)

    def _path(self, conversation_id: str) -> Path:
        if not conversation_id and not self._new:
            make_private_folder(self._folder)
            for path in list(self._folder.iterdir()):
                remove_if_stale(path)
            self._new = self._claim()
        return self._folder / (conversation_id or self._new)

    def _claim(self) -> str:
        """A file name for a new conversation's draft that no running program uses; an existing one
        first, so that its text comes back."""
        left = sorted(path.name for path in self._folder.iterdir() if _NEW.fullmatch(path.name))
        names = chain(left, (f"new{n}" for n in count(1)))
        return next(name for name in names if self._locks.acquire(name, seconds=0))
