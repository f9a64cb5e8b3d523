"""A cache of what lists show of each file, so that only changed files are read again.

Without it, or if it cannot be read, all files are read.
"""

from __future__ import annotations

import contextlib
import json
import os
from operator import attrgetter
from pathlib import Path
from typing import Any

from glmtui.store.conversation_format import Peek
from glmtui.system.durable_files import encode_utf8, read_bounded, replace_file

NAME = ".index.json"
VERSION = 2
LEAST = 200
"""Number of files below which no index is written: reading them is fast enough."""
MOST_BYTES = 64 * 2**20
"""Largest index that is read: about 300,000 files."""
_PARTS = attrgetter(*Peek.__slots__)


class Index:
    """The index of a folder, read when the object is created."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / NAME
        self._rows: dict[str, Any] = {}
        self._seen: dict[str, Any] = {}
        self._changed = False
        with contextlib.suppress(OSError, ValueError, RecursionError):
            found = json.loads(read_bounded(self._path, MOST_BYTES))
            if isinstance(found, dict) and found.get("version") == VERSION:
                rows = found.get("files")
                self._rows = rows if isinstance(rows, dict) else {}

    def get(self, name: str, status: os.stat_result) -> Peek | None:
        """The cached entry of a file, if the file is unchanged."""
        row = self._rows.get(name)
        if not isinstance(row, list) or len(row) != 2 or row[0] != _key(status):
            return None
        try:
            there = Peek(*row[1])
        except TypeError:
            return None
        self._seen[name] = row
        return there

    def put(self, name: str, status: os.stat_result, there: Peek) -> None:
        self._seen[name] = [_key(status), _PARTS(there)]
        self._changed = True

    def save(self) -> None:
        """Writes the entries that were read or added, if they changed and are at least `LEAST`."""
        unchanged = not self._changed and len(self._seen) == len(self._rows)
        if unchanged or len(self._seen) < LEAST:
            return
        data = json.dumps({"version": VERSION, "files": self._seen}, ensure_ascii=False)
        with contextlib.suppress(OSError):  # the folder is not writable
            replace_file(self._path, encode_utf8(data), synced=False)


def _key(status: os.stat_result) -> list[int]:
    """Values that change with a file: saving makes a new inode, editing a new time or size."""
    return [status.st_mtime_ns, status.st_size, status.st_ino]
