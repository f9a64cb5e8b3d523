"""What all pulls share: progress, cancellation, disk space, and folders that appear atomically."""

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

STALE_SECONDS = 24 * 3600  # age at which a work folder is regarded as left behind
CHUNK_BYTES = 1 << 20
CACHE_SPACE_HINT = N_("Free some space, or set GLMTUI_CACHE_DIR or HF_HOME to another folder.")
TARGET_SPACE_HINT = N_("Free some space, or choose a folder on another disk.")


class PullCancelled(DownloadError):
    """The user stopped the pull."""


@dataclass(frozen=True, slots=True)
class Job:
    """The progress and cancellation of one pull.

    Attributes:
        name: of the model, for messages.
    """

    name: str
    on_progress: ProgressHook
    cancelled: threading.Event

    def report(self, what: str, done: int = 0, total: int = 0) -> None:
        """Report progress. Raises PullCancelled if the pull was cancelled."""
        self.raise_if_cancelled()
        self.on_progress(Progress(what, done, total))

    def raise_if_cancelled(self) -> None:
        if self.cancelled.is_set():
            raise PullCancelled(
                _("Pulling {model} was stopped.").format(model=self.name),
                _("Resume it with: glmtui pull {model}").format(model=self.name),
            )

    def sha256(self, path: Path) -> str:
        """The SHA-256 checksum of a file in hex. Reports progress."""
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
    """A temporary folder next to `beside`, so on the same disk.

    Folders that killed processes left behind are removed first.
    """
    make_private_folder(beside.parent)
    _remove_permissions(beside.parent, stat.S_IWOTH)  # it may be older than our umask
    prefix = f".{beside.name}.{socket.gethostname()}."
    for stale in beside.parent.glob(f".{beside.name}.*"):
        if _is_stale(stale, prefix):
            shutil.rmtree(stale, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=f"{prefix}{os.getpid()}.", dir=beside.parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _is_stale(folder: Path, prefix: str) -> bool:
    """Whether the process that made a work folder has ended."""
    try:
        if time.time() - folder.stat().st_mtime > STALE_SECONDS:
            return True
    except FileNotFoundError:  # its process has just finished
        return False
    pid = folder.name.removeprefix(prefix).partition(".")[0]
    return folder.name.startswith(prefix) and pid.isdigit() and not psutil.pid_exists(int(pid))


def install_folder(folder: Path, target: Path) -> None:
    """Move a finished folder to `target` in one step, replacing what is there. Raises OSError."""
    for path in (folder, *folder.rglob("*")):
        _remove_permissions(path, stat.S_IWGRP | stat.S_IWOTH)
    if target.exists():
        # A folder cannot replace one with files. The old one is removed with the work folder.
        target.replace(folder.with_name(folder.name + ".old"))
    folder.replace(target)


def _remove_permissions(path: Path, bits: int) -> None:
    """Remove mode bits from a file or folder that the user owns."""
    status = path.lstat()
    if status.st_mode & bits and status.st_uid == os.getuid() and not stat.S_ISLNK(status.st_mode):
        path.chmod(status.st_mode & ~bits & 0o7777)


def require_space(folder: Path, nbytes: int, what: str, hint: str = "") -> None:
    """Raises DownloadError if the disk of `folder`, which may not exist yet, lacks `nbytes`."""
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if free < nbytes:
        raise DownloadError(
            _(
                "Not enough disk space for {what}: it needs {size} in {folder}, {free} are free."
            ).format(what=what, size=format_bytes(nbytes), folder=folder, free=format_bytes(free)),
            hint or _(CACHE_SPACE_HINT),
        )


def format_bytes(nbytes: int) -> str:
    """A size for display: "290 MB", "12.5 GB"."""
    return f"{nbytes / 1e9:,.1f} GB" if nbytes >= 1e9 else f"{nbytes / 1e6:,.0f} MB"


@contextmanager
def convert_disk_errors(folder: Path, hint: str = "") -> Iterator[None]:
    """Convert OSErrors in the block to DownloadErrors."""
    try:
        yield
    except OSError as error:
        path = error.filename or folder
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DownloadError(
                _("The disk is full. Could not write {path}.").format(path=path),
                hint or _(CACHE_SPACE_HINT),
            ) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise DownloadError(
                _("Could not write {path}: {reason}.").format(path=path, reason=error.strerror),
                _("Change its permissions, or set GLMTUI_CACHE_DIR or HF_HOME to another folder."),
            ) from error
        raise DownloadError(f"{path}: {error.strerror or error}.") from error
