"""Lists the conversation files of a folder without reading them."""

from __future__ import annotations

import contextlib
import os
import re
import stat
from pathlib import Path

_NAMED_BY_ID = re.compile(r"[0-9a-f]{8}\.(?:toml|json)$")


def list_files(
    folder: Path, id_prefix: str = "", *, links: bool = False
) -> list[tuple[Path, os.stat_result]]:
    """The conversation files in a folder with their status, in no order.

    Args:
        id_prefix: leaves out files whose id, where the name ends in one, does not contain it.
        links: list symbolic links themselves, even broken ones, instead of their targets. In the
            trash a relative link is broken.

    Raises:
        OSError: the folder cannot be listed; a missing folder is empty.
    """
    found = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith(".") or not entry.name.endswith((".toml", ".json")):
                    continue
                if id_prefix not in entry.name and _NAMED_BY_ID.search(entry.name):
                    continue
                with contextlib.suppress(OSError):  # a broken link, or one to itself
                    status = entry.stat(follow_symlinks=not links)
                    if stat.S_ISREG(status.st_mode) or stat.S_ISLNK(status.st_mode):
                        found.append((folder / entry.name, status))
    except FileNotFoundError:
        return []
    return found
