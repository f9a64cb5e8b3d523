"""Files that survive a crash and are for their owner alone. Knows nothing of what is in them.

Everything here raises OSError as the system gives it.
"""

from __future__ import annotations

import errno
import os
import stat
import tempfile
from pathlib import Path


def make_private_folder(folder: Path) -> None:
    """Makes a folder and the missing ones above it, for the owner alone (mode 0700)."""
    for part in (*reversed(folder.parents), folder):
        if not part.exists():
            part.mkdir(mode=0o700, exist_ok=True)
            sync_folder(part.parent)


def replace_file(path: Path, data: bytes, *, prefix: str) -> None:
    """Puts `data` in place of the file, as a whole or not at all, through a power cut too.

    The new file is written beside it as ``<prefix>*.tmp``, for the owner alone (mode 0600); only a
    process that is killed leaves that behind.
    """
    handle, name = tempfile.mkstemp(prefix=prefix, suffix=".tmp", dir=path.parent)
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def replace_lightly(path: Path, data: bytes) -> None:
    """Puts `data` in place of the file, as a whole or not at all; a power cut may lose it.

    The new file is written beside it as ``.<name>.tmp``, for the owner alone; one left behind by a
    process that was killed is used by the next.
    """
    written = path.with_name(f".{path.name.lstrip('.')}.tmp")
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    with os.fdopen(os.open(written, flags, 0o600), "wb") as file:
        file.write(data)
    written.replace(path)


def sync_folder(folder: Path) -> None:
    """Has the disk keep the names in a folder as they are now."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    except OSError as error:
        # Some network and FUSE file systems have no such thing.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(handle)


def read_bounded(path: Path, limit: int) -> bytes:
    """The bytes of a regular file of at most `limit` bytes; EINVAL or EFBIG for anything else."""
    # Without O_NONBLOCK, opening a FIFO would wait for ever.
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        if status.st_size > limit:
            raise OSError(errno.EFBIG, f"larger than {limit // 2**20} MiB", str(path))
        return file.read()
