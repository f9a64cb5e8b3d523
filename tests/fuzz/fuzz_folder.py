"""The folder for inputs that must be in a file."""

from __future__ import annotations

import shutil
import tempfile
from functools import cache
from pathlib import Path


@cache
def desk() -> Path:
    """The folder, in memory if possible."""
    memory = Path("/dev/shm")
    return Path(tempfile.mkdtemp(prefix="glmtui-fuzz-", dir=memory if memory.is_dir() else None))


def clear() -> None:
    """Remove the folder."""
    if desk.cache_info().currsize:
        shutil.rmtree(desk(), ignore_errors=True)
        desk.cache_clear()


def put(name: str, data: bytes) -> Path:
    """Write a file of that name to the folder."""
    path = desk() / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
    return path
