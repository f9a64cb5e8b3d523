"""Locks between programs in one folder: a hidden file per name, locked with flock.

The system releases a lock when its process ends; a lock file that remains locks nothing.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import time
from io import FileIO
from pathlib import Path

WAIT_SECONDS = 0.3
"""How long to wait for a lock: a starting program takes each leftover lock for a moment."""
_NO_LOCKS = {errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}


class FolderLocks:
    """The locks this program holds in one folder.

    Attributes:
        unsupported: why the file system cannot lock, once that was tried; every lock is then
            granted.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._held: dict[str, FileIO] = {}
        self.unsupported = ""

    def acquire(self, name: str, seconds: float = WAIT_SECONDS) -> bool:
        """Acquires a lock, waiting up to `seconds`; True also if this object already has it.

        Raises:
            OSError: the lock file cannot be created.
        """
        end = time.monotonic() + seconds
        while not self._try_acquire(name):
            if time.monotonic() >= end:
                return False
            time.sleep(0.02)
        return True

    def _try_acquire(self, name: str) -> bool:
        if (file := self._held.get(name)) is not None:
            if self.unsupported or _is_there(file, self._path(name)):
                return True
            # The file was removed or the folder moved: other programs would not see our lock.
            self._held.pop(name).close()
        while True:
            file = self._open(name)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.close()
                return False
            except OSError as error:
                if error.errno not in _NO_LOCKS:
                    file.close()
                    raise
                self.unsupported = error.strerror or str(error)
            if self.unsupported or _is_there(file, self._path(name)):
                break
            file.close()  # its last owner removed it between our open and our lock
        with contextlib.suppress(OSError):  # on a full disk the lock works without a name
            os.ftruncate(file.fileno(), 0)
            os.write(file.fileno(), f"{os.getpid()} on {os.uname().nodename}".encode())
        self._held[name] = file
        return True

    def holder(self, name: str) -> str:
        """Who locked it last, as "PROCESS on HOST"; empty if the lock file cannot be read."""
        try:
            return self._path(name).read_bytes()[:100].decode(errors="replace")
        except OSError:
            return ""

    def release(self, name: str) -> None:
        if file := self._held.pop(name, None):
            try:
                # Remove the file before unlocking it, so that the next owner creates a new one. If
                # it is not the file we locked, it belongs to another program.
                if _is_there(file, self._path(name)):
                    self._path(name).unlink(missing_ok=True)
            finally:
                file.close()

    def held(self) -> tuple[str, ...]:
        """The names that this object has locked."""
        return tuple(self._held)

    def _path(self, name: str) -> Path:
        return self._folder / f".{name}.lock"

    def _open(self, name: str) -> FileIO:
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        return os.fdopen(os.open(self._path(name), flags, 0o600), "r+b", buffering=0)


def _is_there(file: FileIO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False
