"""Atomic writing of private files, which survives crashes and power cuts.

A file is written to a temporary file in the same folder, which then replaces it in one step: after
a crash it has the old or the new content. Of a symbolic link, the target is replaced. All functions
raise OSError.
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
"""Default beginning of the names of temporary files."""
STALE_SECONDS = 3600.0
"""Age from which a temporary file is regarded as left behind by a killed process. No write takes
that long."""

_NO_HARD_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.EMLINK}
_SURROGATES = re.compile("[\ud800-\udfff]")


def make_private_folder(folder: Path) -> None:
    """Create a folder and its missing parents, accessible only to the owner (mode 0700)."""
    for part in (*reversed(folder.parents), folder):
        if not part.exists():
            part.mkdir(mode=0o700, exist_ok=True)
            sync_folder(part.parent)


def encode_utf8(text: str) -> bytes:
    """`text` in UTF-8, with lone surrogates, which UTF-8 cannot encode, as U+FFFD."""
    return _SURROGATES.sub("\ufffd", text).encode()


def replace_file(
    path: Path, data: bytes, *, prefix: str = TEMPORARY_PREFIX, synced: bool = True
) -> None:
    """Replace the content of a file atomically, or create it.

    The new content is first written to ``<prefix>*.tmp`` in the same folder (mode 0600), which only
    a killed process leaves behind. Devices and pipes are written to directly.

    Args:
        synced: on return the new file survives a power cut. If False, a power cut may lose the new
            content or both.
    """
    target = _resolve_target(path)
    if target is None:
        _write_all(os.open(path, os.O_WRONLY | os.O_CLOEXEC), data, synced=False)
        return
    with _temporary_file(target, data, prefix, synced) as temporary:
        temporary.replace(target)
    if synced:
        sync_folder(target.parent)


def create_file(path: Path, data: bytes) -> None:
    """Create a new file atomically, with mode 0600.

    Raises FileExistsError if the name exists, even as a dangling symbolic link.
    """
    with _temporary_file(path, data, TEMPORARY_PREFIX, synced=True) as temporary:
        try:
            path.hardlink_to(temporary)
        except OSError as error:
            if error.errno not in _NO_HARD_LINKS:
                raise
            _move_without_replacing(temporary, path)
        else:
            temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def remove_file(path: Path) -> None:
    """Remove a file if it exists. On return a power cut cannot bring it back."""
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
        sync_folder(path.parent)


def move_file(path: Path, to: Path) -> None:
    """Move a file to another folder on its disk. On return a power cut cannot undo that."""
    path.replace(to)
    sync_folder(to.parent)
    sync_folder(path.parent)


def remove_if_stale(path: Path) -> None:
    """Remove a temporary file that a killed process left behind; leave any other file alone."""
    if path.name.startswith(TEMPORARY_PREFIX) and path.suffix == ".tmp":
        with contextlib.suppress(FileNotFoundError):  # another process has removed it
            if time.time() - path.lstat().st_mtime > STALE_SECONDS:
                path.unlink()


def sync_folder(folder: Path) -> None:
    """Make the current entries of a folder survive a power cut."""
    try:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except PermissionError:  # a folder that may be written to but not listed
        return
    try:
        os.fsync(handle)
    except OSError as error:
        # Some network and FUSE file systems cannot sync a folder.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(handle)


def read_bounded(path: Path, limit: int) -> bytes:
    """Read a regular file of at most `limit` bytes. Raises EINVAL or EFBIG for anything else."""
    # Without O_NONBLOCK, opening a FIFO would block.
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        if status.st_size > limit:
            raise OSError(errno.EFBIG, f"larger than {limit // 2**20} MiB", str(path))
        return file.read()


def _resolve_target(path: Path) -> Path | None:
    """The path that `path` links to, which is to be replaced; None for a device or a pipe."""
    # Let the system follow the links first: it refuses loops, and links of other users in /tmp.
    with contextlib.suppress(FileNotFoundError):
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        if not stat.S_ISREG(mode):
            return None
    return Path(os.path.realpath(path))


@contextlib.contextmanager
def _temporary_file(path: Path, data: bytes, prefix: str, synced: bool) -> Iterator[Path]:
    """Write `data` to a temporary file, which the block moves; it is removed if the block fails."""
    handle, name = tempfile.mkstemp(prefix=prefix, suffix=".tmp", dir=path.parent)
    temporary = Path(name)
    try:
        _write_all(handle, data, synced=synced)
        yield temporary
    except BaseException:
        with contextlib.suppress(OSError):  # the first error is the one to report
            temporary.unlink(missing_ok=True)
        raise


def _move_without_replacing(temporary: Path, path: Path) -> None:
    """Move on file systems without hard links: create an empty file to reserve the name first."""
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    try:
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            path.unlink()
        raise


def _write_all(handle: int, data: bytes, *, synced: bool) -> None:
    """Write all of `data` and close the file: some network disks report a full disk only then."""
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
