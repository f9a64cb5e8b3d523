"""What a list shows of each file, kept so that a file is read again only when it has changed.

A cache: without it, or with one that cannot be used, everything is read. Knows no conversation.
"""

from __future__ import annotations

import contextlib
import json
import os
from operator import attrgetter
from pathlib import Path
from typing import Any

from glmtui.store.format import Peek
from glmtui.system.durable_files import encode_utf8, read_bounded, replace_file

NAME = ".index.json"
VERSION = 2
LEAST = 200
"""Files from which on an index is worth having."""
MOST_BYTES = 64 * 2**20
_PARTS = attrgetter(*Peek.__slots__)


class Index:
    """The index of a folder's files, as it was when this was made."""

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
        """What was kept of a file, if it is as it was then."""
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
        """Keeps this of a file."""
        self._seen[name] = [_key(status), _PARTS(there)]
        self._changed = True

    def save(self) -> None:
        """Writes what was got and put, if it is not what was read and not too little to matter."""
        known = not self._changed and len(self._seen) == len(self._rows)
        if known or len(self._seen) < LEAST:
            return
        data = json.dumps({"version": VERSION, "files": self._seen}, ensure_ascii=False)
        with contextlib.suppress(OSError):  # a folder that cannot be written
            replace_file(self._path, encode_utf8(data), synced=False)


def _key(status: os.stat_result) -> list[int]:
    """What changes with a file: a save makes a new one, an edit by hand another time or size."""
    return [status.st_mtime_ns, status.st_size, status.st_ino]
