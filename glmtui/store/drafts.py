"""Questions that were typed and not sent yet: one file per conversation, one for the new one.

They outlive the program, a kill -9 too, though not a power cut. Knows nothing of prompts.
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

_NEW = re.compile(r"new\d+")


class Drafts:
    """The drafts in one folder. Where that cannot be used there are none.

    Several programs may run at once: each has a new conversation, and a draft for it, of its own.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._locks = FolderLocks(folder)
        self._new = ""

    def read(self, conversation_id: str) -> str:
        """The draft for a conversation, or for a new one where the id is empty; "" for none."""
        with contextlib.suppress(OSError, UnicodeDecodeError):
            return read_bounded(self._path(conversation_id), MOST_BYTES).decode()
        return ""

    def write(self, conversation_id: str, text: str) -> bool:
        """Keeps `text` as the draft for a conversation; an empty one is none.

        Returns: False where the disk did not take it.
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
        """Lets another program have the draft for a new conversation."""
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
        """A name for the new one's draft that no running program has: one left behind if any."""
        left = sorted(path.name for path in self._folder.iterdir() if _NEW.fullmatch(path.name))
        names = chain(left, (f"new{n}" for n in count(1)))
        return next(name for name in names if self._locks.take(name, seconds=0))
