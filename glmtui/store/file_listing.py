"""The conversation files of a folder, by name and kind alone. Reads none of them."""

from __future__ import annotations

import contextlib
import os
import re
import stat
from pathlib import Path

_NAMED_BY_ID = re.compile(r"[0-9a-f]{8}\.(?:toml|json)$")


def files_of(
    folder: Path, id_prefix: str = "", *, links: bool = False
) -> list[tuple[Path, os.stat_result]]:
    """The conversation files in a folder, in no order; of all only those whose id may begin so.

    Args:
        links: whether symbolic links count as they are, wherever they lead; else they count as
            the file that they lead to. A relative link leads nowhere from the trash.

    Raises OSError.
    """
    found = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith(".") or not entry.name.endswith((".toml", ".json")):
                    continue
                if id_prefix not in entry.name and _NAMED_BY_ID.search(entry.name):
                    continue
                with contextlib.suppress(OSError):  # a link to nowhere or to itself
                    status = entry.stat(follow_symlinks=not links)
                    if stat.S_ISREG(status.st_mode) or stat.S_ISLNK(status.st_mode):
                        found.append((folder / entry.name, status))
    except FileNotFoundError:
        return []
    return found
