"""Removes temporary files and lock files that killed programs left in a conversations folder."""

from __future__ import annotations

import contextlib
import re
import time
from pathlib import Path

from glmtui.store.locks import FolderLocks
from glmtui.system.durable_files import STALE_SECONDS, remove_if_stale

_LEFT_BEHIND = re.compile(r"\.([0-9a-f]{8})(?:\.lock|-\w+\.tmp)")


def remove_leftovers(folder: Path, locks: FolderLocks) -> None:
    """Removes temporary and lock files whose program has ended.

    Raises:
        OSError: the folder cannot be read or written.
    """
    for path in list(folder.iterdir()):
        remove_if_stale(path)
        match = _LEFT_BEHIND.fullmatch(path.name)
        if match is None or not locks.acquire(match[1], seconds=0):
            continue
        try:
            # Without locks only the age tells. `release` removes the lock file.
            with contextlib.suppress(FileNotFoundError):  # another program removed it
                old = time.time() - path.lstat().st_mtime > STALE_SECONDS
                if path.suffix == ".tmp" and (old or not locks.unsupported):
                    path.unlink()
        finally:
            locks.release(match[1])
