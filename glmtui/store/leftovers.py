"""What programs that were killed left in a folder of conversations: temporary files and locks."""

from __future__ import annotations

import contextlib
import re
import time
from pathlib import Path

from glmtui.store.locks import FolderLocks
from glmtui.system.durable_files import STALE_SECONDS, remove_if_stale

_LEFT_BEHIND = re.compile(r"\.([0-9a-f]{8})(?:\.lock|-\w+\.tmp)")


def remove_leftovers(folder: Path, locks: FolderLocks) -> None:
    """Removes temporary and lock files whose program is gone. Raises OSError."""
    for path in list(folder.iterdir()):
        remove_if_stale(path)
        match = _LEFT_BEHIND.fullmatch(path.name)
        if match is None or not locks.take(match[1], seconds=0):
            continue
        try:
            # Without locks only age tells. A lock file goes with its release.
            with contextlib.suppress(FileNotFoundError):  # another program was quicker
                old = time.time() - path.lstat().st_mtime > STALE_SECONDS
                if path.suffix == ".tmp" and (old or not locks.missing):
                    path.unlink()
        finally:
            locks.release(match[1])
