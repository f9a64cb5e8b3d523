"""Downloads one file over HTTP, with resuming and verification.

`huggingface_hub` (2.4) deletes an unfinished file when its process ends, which on a slow link costs
up to a whole shard of 2 GB. Here it is kept, and the next run resumes it.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import httpx

from glmtui.engine.pull.hub_errors import open_client, redirect_error, response_error
from glmtui.engine.pull.staging import CHUNK_BYTES, Job, format_bytes
from glmtui.errors import DownloadError
from glmtui.language import _
from glmtui.net.addresses import redact_credentials
from glmtui.net.http_client import AbortHandle, RedirectRefused, abort_when, stream_get
from glmtui.sanitize import sanitize_line

MAX_ATTEMPTS = 6  # failed attempts in a row before the download is given up
PROGRESS_BYTES = 1024  # an attempt that receives less than this counts as failed
STALL_SECONDS = 60.0  # a connection that receives less than that in this time is aborted
FIRST_WAIT_SECONDS = 0.5  # after a failed attempt; doubled after each further one
REPORT_SECONDS = 0.1
FLAGS = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
FILE_MODE = 0o664  # reduced by the umask; never writable for others


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file to download.

    Attributes:
        name: for display.
        size: in bytes.
        sha256: checksum in hex; if None, `git_sha1` is used.
        git_sha1: id of a git blob in hex.
        hub: the configurable address that `url` begins with.
    """

    name: str
    url: str
    size: int
    sha256: str | None = None
    git_sha1: str | None = None
    hub: str = ""

    @property
    def etag(self) -> str:
        """Name of the content in the hub's cache."""
        return self.sha256 or self.git_sha1 or ""


class _ConnectionBroken(Exception):
    """The connection broke, or the server has a temporary problem."""


def fetch(
    file: RemoteFile, target: Path, private_headers: Mapping[str, str], job: Job, what: str
) -> None:
    """Download to `target`, through ``target.incomplete``, which is kept when the download fails.

    Args:
        private_headers: sent to the host of the file's URL only, not to hosts it redirects to.
        what: for the progress report.

    Raises:
        DownloadError: the server refuses, breaks off repeatedly, or sends different content.
        PullCancelled, OSError.
    """
    part = target.with_name(target.name + ".incomplete")
    with os.fdopen(os.open(part, FLAGS, FILE_MODE), "ab") as out:
        _lock(out, file.name)
        if out.tell() > file.size:  # not of this file
            out.truncate(0)
            out.seek(0)
        failures, received = 0, out.tell()
        job.report(what, received, file.size)
        while out.tell() < file.size:
            try:
                _attempt(file, private_headers, out, job, what)
            except (
                _ConnectionBroken,
                httpx.HTTPError,
                httpx.InvalidURL,
                httpx.StreamError,
            ) as error:
                job.raise_if_cancelled()
                if isinstance(error, RedirectRefused) and error.target:
                    raise redirect_error(error, file.url, file.hub) from error
                failures = 0 if out.tell() - received >= PROGRESS_BYTES else failures + 1
                received = max(received, out.tell())
                if failures == MAX_ATTEMPTS:
                    raise _attempts_error(file, job, out.tell(), str(error)) from error
                if failures:
                    job.cancelled.wait(FIRST_WAIT_SECONDS * 2 ** (failures - 1))
                    job.raise_if_cancelled()
        out.flush()
        if part.stat().st_size != file.size or not _has_checksum(part, file, job):
            part.unlink()
            raise DownloadError(
                _("{name} is damaged: its size or checksum differs from that on the hub.").format(
                    name=file.name
                ),
                _("Try again. If that does not help, set another mirror (hub.endpoint)."),
            )
        part.replace(target)


def _lock(out: IO[bytes], name: str) -> None:
    """Keep other processes from writing to the file until it is closed."""
    try:
        fcntl.flock(out, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise DownloadError(
            _("Another program is downloading {name}.").format(name=name),
            _("Wait until it is done, then try again."),
        ) from error
    except OSError:  # a file system without locks
        return


def _attempts_error(file: RemoteFile, job: Job, received: int, reason: str) -> DownloadError:
    return DownloadError(
        _(
            "The download of {name} failed repeatedly ({error}). {received} of {size} are kept."
        ).format(
            name=file.name,
            error=sanitize_line(redact_credentials(reason))[:200],
            received=format_bytes(received),
            size=format_bytes(file.size),
        ),
        _("Resume it with: glmtui pull {model}").format(model=job.name),
    )


class _StallDetector:
    """Detects a connection that receives next to nothing for `STALL_SECONDS`."""

    def __init__(self, count: int) -> None:
        self._since, self._count = time.monotonic(), count

    def is_stalled(self, count: int) -> bool:
        """Update with the number of bytes received so far."""
        now = time.monotonic()
        if count - self._count >= PROGRESS_BYTES:
            self._since, self._count = now, count
        self._count = min(self._count, count)  # smaller after a restart from the beginning
        return now - self._since > STALL_SECONDS


def _attempt(
    file: RemoteFile, private_headers: Mapping[str, str], out: IO[bytes], job: Job, what: str
) -> None:
    """Request the missing part once. Raises _ConnectionBroken if it does not arrive completely."""
    offset, abort_handle = out.tell(), AbortHandle()
    stall = _StallDetector(offset)
    with (
        abort_when(abort_handle, lambda: job.cancelled.is_set() or stall.is_stalled(out.tell())),
        open_client(abort_handle) as client,
        stream_get(client, file.url, {"Range": f"bytes={offset}-"}, private_headers) as response,
    ):
        status, host = response.status_code, sanitize_line(response.url.host)
        if status in (408, 429) or status >= 500:
            raise _ConnectionBroken(_("{host} answers {status}").format(host=host, status=status))
        if status not in (200, 206):
            raise response_error(response, file.name, file.url, file.hub)
        start = _range_start(response) if status == 206 else 0
        if start != offset:  # the server does not resume: start from the beginning
            out.seek(0)
            out.truncate()
        if start not in (0, offset):
            raise _ConnectionBroken(_("{host} answers {status}").format(host=host, status=status))
        _write_body(response, out, file.size, job, what)
    job.report(what, out.tell(), file.size)
    if out.tell() < file.size:
        raise _ConnectionBroken(
            _("it ended after {count:,} of {total:,} bytes").format(
                count=out.tell(), total=file.size
            )
        )


def _range_start(response: httpx.Response) -> int:
    """The first byte of a partial response; -1 if its headers do not say."""
    match = re.match(r"bytes ([0-9]{1,18})-", response.headers.get("content-range", ""))
    return int(match[1]) if match else -1


def _write_body(response: httpx.Response, out: IO[bytes], size: int, job: Job, what: str) -> None:
    """Write the body to `out` until it ends or exceeds `size`, which the caller checks."""
    reported = 0.0
    for chunk in response.iter_raw():
        out.write(chunk)
        job.raise_if_cancelled()
        if out.tell() > size:
            return
        if time.monotonic() - reported > REPORT_SECONDS:
            job.report(what, out.tell(), size)
            reported = time.monotonic()


def _has_checksum(part: Path, file: RemoteFile, job: Job) -> bool:
    if file.sha256 is not None:
        return job.sha256(part) == file.sha256
    digest = hashlib.sha1(b"blob %d\0" % file.size, usedforsecurity=False)
    with part.open("rb") as content:
        while chunk := content.read(CHUNK_BYTES):
            digest.update(chunk)
    return file.git_sha1 is None or digest.hexdigest() == file.git_sha1
