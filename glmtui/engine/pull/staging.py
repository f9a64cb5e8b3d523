"""The frame of every pull: progress that can be stopped, a folder that appears whole or not at all.

Knows disks, nothing of where a model comes from.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import socket
import stat
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from glmtui.engine.progress import Progress, ProgressHook
from glmtui.errors import DownloadError
from glmtui.language import N_, _
from glmtui.system.durable_files import make_private_folder

STALE_SECONDS = 24 * 3600  # a work folder nobody touched for this long is nobody's
CHUNK_BYTES = 1 << 20
CACHE_SPACE_HINT = N_("Free some space, or move the folder with GLMTUI_CACHE_DIR or HF_HOME.")
TARGET_SPACE_HINT = N_(
    "Free some space, or name a folder on another disk."
)  # where the user chose it


class PullCancelled(DownloadError):
    """The person who asked for a model stopped the pull."""


@dataclass(frozen=True, slots=True)
class Job:
    """One pull, as seen by whoever waits for it.

    Attributes:
        name: the model's.
    """

    name: str
    on_progress: ProgressHook
    cancelled: threading.Event

    def report(self, what: str, done: int = 0, total: int = 0) -> None:
        """Says how far it is. Raises PullCancelled once nobody wants the model any more."""
        self.raise_if_cancelled()
        self.on_progress(Progress(what, done, total))

    def raise_if_cancelled(self) -> None:
        """Raises PullCancelled once nobody wants the model any more."""
        if self.cancelled.is_set():
            raise PullCancelled(
                f"Pulling {self.name} was stopped.", f"Go on with: glmtui pull {self.name}"
            )

    def sha256(self, path: Path) -> str:
        """The sha256 of a file, in hex."""
        digest = hashlib.sha256()
        total, done = path.stat().st_size, 0
        with path.open("rb") as file:
            while chunk := file.read(CHUNK_BYTES):
                digest.update(chunk)
                done += len(chunk)
                self.report(_("checking"), done, total)
        return digest.hexdigest()


@contextmanager
def work_folder(beside: Path) -> Iterator[Path]:
    """An empty folder on the same disk as `beside`, gone at the end however it ends.

    What an earlier run left there when it was killed is removed first.
    """
    make_private_folder(beside.parent)
    _keep_from_others(beside.parent)  # it may have been made under another umask
    mark = f".{beside.name}.{socket.gethostname()}."
    for stray in beside.parent.glob(f".{beside.name}.*"):
        if _is_stray(stray, mark):
            shutil.rmtree(stray, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=f"{mark}{os.getpid()}.", dir=beside.parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _is_stray(folder: Path, mark: str) -> bool:
    """Whether the process whose work folder this is has ended."""
    try:
        if time.time() - folder.stat().st_mtime > STALE_SECONDS:
            return True
    except FileNotFoundError:  # its owner has just finished
        return False
    pid = folder.name.removeprefix(mark).partition(".")[0]
    return folder.name.startswith(mark) and pid.isdigit() and not psutil.pid_exists(int(pid))


def install_folder(folder: Path, target: Path) -> None:
    """Makes a finished folder the target, in one step; what was there before goes.

    Raises OSError.
    """
    for path in (folder, *folder.rglob("*")):
        _keep_from_others(path, 0o022)
    if target.exists():
        # a folder cannot replace one that has files; the old one leaves with the work folder
        target.replace(folder.with_name(folder.name + ".old"))
    folder.replace(target)


def _keep_from_others(path: Path, bits: int = 0o002) -> None:
    """Takes these rights to write from a file or folder of ours."""
    status = path.lstat()
    if status.st_mode & bits and status.st_uid == os.getuid() and not stat.S_ISLNK(status.st_mode):
        path.chmod(status.st_mode & ~bits & 0o7777)


def require_space(folder: Path, nbytes: int, what: str, hint: str = "") -> None:
    """Raises DownloadError if the disk of `folder`, there or to be made, has less than `nbytes`."""
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if free < nbytes:
        raise DownloadError(
            _("No room for {what}: it takes {size} in {folder}, where {free} are free.").format(
                what=what, size=format_bytes(nbytes), folder=folder, free=format_bytes(free)
            ),
            hint or _(CACHE_SPACE_HINT),
        )


def format_bytes(nbytes: int) -> str:
    """A size as a person reads it: "290 MB", "12.5 GB"."""
    return f"{nbytes / 1e9:,.1f} GB" if nbytes >= 1e9 else f"{nbytes / 1e6:,.0f} MB"


@contextmanager
def convert_disk_errors(folder: Path, hint: str = "") -> Iterator[None]:
    """Turns what a disk can do to us into DownloadErrors."""
    try:
        yield
    except OSError as error:
        where = error.filename or folder
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DownloadError(
                _("The disk is full: {where} could not be written.").format(where=where),
                hint or _(CACHE_SPACE_HINT),
            ) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise DownloadError(
                _("{where} may not be written: {reason}.").format(
                    where=where, reason=error.strerror
                ),
                _("Change its permissions, or move the folder with GLMTUI_CACHE_DIR or HF_HOME."),
            ) from error
        raise DownloadError(f"{where}: {error.strerror or error}.") from error
