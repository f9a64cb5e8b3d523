"""Locks between programs on one folder: a hidden file per name, held with flock.

The lock ends with the process, however that ends; a lock file left behind means nothing. Knows
nothing of what the names stand for.
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
"""A program that starts takes each lock that was left behind, for a moment."""
_NO_LOCKS = {errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}


class FolderLocks:
    """The locks this program holds in one folder.

    Attributes:
        missing: why the file system cannot lock, once that was tried; every name is then granted.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._held: dict[str, FileIO] = {}
        self.missing = ""

    def take(self, name: str, seconds: float = WAIT_SECONDS) -> bool:
        """Whether the lock is ours, now or already, or within `seconds`.

        Raises OSError where no file can be made.
        """
        end = time.monotonic() + seconds
        while not self._take(name):
            if time.monotonic() >= end:
                return False
            time.sleep(0.02)
        return True

    def _take(self, name: str) -> bool:
        if (file := self._held.get(name)) is not None:
            if self.missing or _is_there(file, self._path(name)):
                return True
            # Someone removed the file or moved the folder; other programs would not see our lock.
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
                self.missing = error.strerror or str(error)
            if self.missing or _is_there(file, self._path(name)):
                break
            file.close()  # its last holder removed it between our open and our lock
        with contextlib.suppress(OSError):  # on a full disk, a lock without a name
            os.ftruncate(file.fileno(), 0)
            os.write(file.fileno(), f"{os.getpid()} on {os.uname().nodename}".encode())
        self._held[name] = file
        return True

    def holder(self, name: str) -> str:
        """Who wrote the lock file last: "PROCESS on HOST"; empty if that cannot be read."""
        try:
            return self._path(name).read_bytes()[:100].decode(errors="replace")
        except OSError:
            return ""

    def release(self, name: str) -> None:
        """Gives the lock back, if it is ours."""
        if file := self._held.pop(name, None):
            try:
                # Before it is unlocked: whoever locks it next must find it gone. A file that is
                # not the one we locked is another program's lock.
                if _is_there(file, self._path(name)):
                    self._path(name).unlink(missing_ok=True)
            finally:
                file.close()

    def held(self) -> tuple[str, ...]:
        """The names that are ours."""
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
