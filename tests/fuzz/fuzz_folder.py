"""Where the targets put what has to lie in a file."""

from __future__ import annotations

import shutil
import tempfile
from functools import cache
from pathlib import Path


@cache
def desk() -> Path:
    """A folder for what has to lie in a file, in memory where there is such a place."""
    memory = Path("/dev/shm")
    return Path(tempfile.mkdtemp(prefix="glmtui-fuzz-", dir=memory if memory.is_dir() else None))


def clear() -> None:
    """Removes the folder."""
    if desk.cache_info().currsize:
        shutil.rmtree(desk(), ignore_errors=True)
        desk.cache_clear()


def put(name: str, data: bytes) -> Path:
    """A file of that name on the desk."""
    path = desk() / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
    return path
