"""Files that survive a crash and are for their owner alone. Knows nothing of what is in them.

Every file that glmtui writes whole is written here: beside its place, and then put there in one
step. Whatever fails or ends the program meanwhile, the file is the old one or the new one. A
symbolic link stays one: the file it leads to is replaced.

Everything here raises OSError as the system gives it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

TEMPORARY_PREFIX = ".glmtui-"
"""Temporary files begin with it, unless their writer asks for another beginning."""
STALE_SECONDS = 3600.0
"""The age from which a temporary file counts as left by a program that was killed: no write takes
that long."""

_LINKS_MISSING = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.EMLINK}
_SURROGATES = re.compile("[\ud800-\udfff]")


def make_private_folder(folder: Path) -> None:
    """Makes a folder and the missing ones above it, for the owner alone (mode 0700)."""
    for part in (*reversed(folder.parents), folder):
        if not part.exists():
            part.mkdir(mode=0o700, exist_ok=True)
            sync_folder(part.parent)


def encode_utf8(text: str) -> bytes:
    """`text` in UTF-8; half a surrogate pair, which has no place there, becomes U+FFFD."""
    return _SURROGATES.sub("\ufffd", text).encode()


def replace_file(
    path: Path, data: bytes, *, prefix: str = TEMPORARY_PREFIX, synced: bool = True
) -> None:
    """Puts `data` in place of the file, as a whole or not at all.

    The new file is written beside the old one as ``<prefix>*.tmp``, for the owner alone (mode
    0600); only a process that is killed leaves that behind. A device or a pipe is written to as it
    is.

    Args:
        synced: whether the new file survives a power cut once this returns. Without, a power cut
            may lose it, or both.
    """
    target = _end_of_links(path)
    if target is None:
        _write_into(os.open(path, os.O_WRONLY | os.O_CLOEXEC), data, synced=False)
        return
    with _written_beside(target, data, prefix, synced) as temporary:
        temporary.replace(target)
    if synced:
        sync_folder(target.parent)


def create_file(path: Path, data: bytes) -> None:
    """Makes a new file with `data` in it, as `replace_file` does.

    Raises FileExistsError where the name is taken, by a link to nowhere too.
    """
    with _written_beside(path, data, TEMPORARY_PREFIX, synced=True) as temporary:
        try:
            path.hardlink_to(temporary)
        except OSError as error:
            if error.errno not in _LINKS_MISSING:
                raise
            _move_where_nothing_is(temporary, path)
        else:
            temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def remove_file(path: Path) -> None:
    """Removes a file, if there is one. On return a power cut does not bring it back."""
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
        sync_folder(path.parent)


def move_file(path: Path, to: Path) -> None:
    """Moves a file to another folder of its disk. On return a power cut does not undo that."""
    path.replace(to)
    sync_folder(to.parent)
    sync_folder(path.parent)


def remove_if_stale(path: Path) -> None:
    """Removes a temporary file of `replace_file` whose program was killed, and no other file."""
    if path.name.startswith(TEMPORARY_PREFIX) and path.suffix == ".tmp":
        with contextlib.suppress(FileNotFoundError):  # another program was quicker
            if time.time() - path.lstat().st_mtime > STALE_SECONDS:
                path.unlink()


def sync_folder(folder: Path) -> None:
    """Has the disk keep the names in a folder as they are now."""
    try:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except PermissionError:  # one may write there, but not list it
        return
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


def _end_of_links(path: Path) -> Path | None:
    """The path of the file that is to be replaced; None for a device or a pipe."""
    # The system follows the links first: it refuses those of other users in /tmp, and loops.
    with contextlib.suppress(FileNotFoundError):
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        if not stat.S_ISREG(mode):
            return None
    return Path(os.path.realpath(path))


@contextlib.contextmanager
def _written_beside(path: Path, data: bytes, prefix: str, synced: bool) -> Iterator[Path]:
    """A temporary file with `data`, to be moved within the block; removed if that fails."""
    handle, name = tempfile.mkstemp(prefix=prefix, suffix=".tmp", dir=path.parent)
    temporary = Path(name)
    try:
        _write_into(handle, data, synced=synced)
        yield temporary
    except BaseException:
        with contextlib.suppress(OSError):  # the first error is the one to hear of
            temporary.unlink(missing_ok=True)
        raise


def _move_where_nothing_is(temporary: Path, path: Path) -> None:
    """For file systems without hard links: an empty file claims the name first."""
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    try:
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            path.unlink()
        raise


def _write_into(handle: int, data: bytes, *, synced: bool) -> None:
    """Writes all of `data`, and closes: some network disks say only then that they are full."""
    try:
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(handle, rest) :]
        if synced:
            os.fsync(handle)
    except BaseException:
        with contextlib.suppress(OSError):
            os.close(handle)
        raise
    os.close(handle)
