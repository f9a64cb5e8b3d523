"""One file over HTTP into one file on disk: resumed where it broke, checked when it is whole.

`huggingface_hub` (2.4) throws an unfinished file away when its process ends, which over a slow link
costs up to a whole shard of 2 GB; here it stays and the next run goes on from its end. Knows
nothing of the hub's addresses or cache.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import httpx

from glmtui.engine.pull.staging import CHUNK_BYTES, Job, format_bytes
from glmtui.errors import DownloadError
from glmtui.language import _
from glmtui.net.addresses import parse_http_url, redact_credentials, redact_url
from glmtui.net.http_client import (
    AbortHandle,
    RedirectRefused,
    UnusableCertificates,
    UnusableProxy,
    abort_when,
    http_client,
    is_same_service,
    stream_get,
)
from glmtui.sanitize import sanitize_line

ATTEMPTS = 6  # in a row that bring next to nothing
PROGRESS_BYTES = 1024  # an attempt that brings less than this counts as failed
STALL_SECONDS = 60.0  # in which a connection brings that much, or is given up
FIRST_WAIT_SECONDS = 0.5  # doubled after each of them
REPORT_SECONDS = 0.1
FLAGS = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
FILE_MODE = 0o664  # less what the umask takes: never for others to write


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file to fetch.

    Attributes:
        name: as a person should see it.
        size: in bytes.
        sha256: in hex; or else `git_sha1`, the id of a git blob.
        hub: what `url` begins with: the address that a person can set.
    """

    name: str
    url: str
    size: int
    sha256: str | None = None
    git_sha1: str | None = None
    hub: str = ""

    @property
    def etag(self) -> str:
        """What the hub's cache calls its content."""
        return self.sha256 or self.git_sha1 or ""


class _Broken(Exception):
    """The connection broke, or the server is in trouble for the moment."""


def fetch(file: RemoteFile, target: Path, private: Mapping[str, str], job: Job, what: str) -> None:
    """Downloads to `target`, by way of ``target.incomplete``, which outlives a failure.

    Args:
        private: headers for the host of the file's URL alone, not for hosts it redirects to.
        what: for the progress report.

    Raises:
        DownloadError: the server refuses, breaks off again and again, or sends something else.
        PullCancelled, OSError.
    """
    part = target.with_name(target.name + ".incomplete")
    with os.fdopen(os.open(part, FLAGS, FILE_MODE), "ab") as out:
        _lock(out, file.name)
        if out.tell() > file.size:  # left by something else
            out.truncate(0)
            out.seek(0)
        failures, most = 0, out.tell()
        job.report(what, most, file.size)
        while out.tell() < file.size:
            try:
                _receive(file, private, out, job, what)
            except (_Broken, httpx.HTTPError, httpx.InvalidURL, httpx.StreamError) as error:
                job.raise_if_cancelled()
                if isinstance(error, RedirectRefused) and error.target:
                    raise redirect_error(error, file.url, file.hub) from error
                failures = 0 if out.tell() - most >= PROGRESS_BYTES else failures + 1
                most = max(most, out.tell())
                if failures == ATTEMPTS:
                    raise _given_up(file, job, out.tell(), str(error)) from error
                if failures:
                    job.cancelled.wait(FIRST_WAIT_SECONDS * 2 ** (failures - 1))
                    job.raise_if_cancelled()
        out.flush()
        if part.stat().st_size != file.size or not _is_intact(part, file, job):
            part.unlink()
            raise DownloadError(
                _("{name} arrived damaged: its size or checksum is not what the hub says.").format(
                    name=file.name
                ),
                _(
                    "Try again; if it stays so, the mirror is out of step: set another "
                    "(hub.endpoint)."
                ),
            )
        part.replace(target)


def _lock(out: IO[bytes], name: str) -> None:
    """Keeps other processes from writing to the file until it is closed."""
    try:
        fcntl.flock(out, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise DownloadError(
            _("Another program is downloading {name} just now.").format(name=name),
            _("Wait until it is done, then try again."),
        ) from error
    except OSError:  # a file system without locks
        return


def _given_up(file: RemoteFile, job: Job, kept: int, reason: str) -> DownloadError:
    return DownloadError(
        _(
            "The connection for {name} broke again and again ({error}). {kept} of {size} are kept."
        ).format(
            name=file.name,
            error=sanitize_line(redact_credentials(reason))[:200],
            kept=format_bytes(kept),
            size=format_bytes(file.size),
        ),
        _("Go on from there with: glmtui pull {model}").format(model=job.name),
    )


class _Pace:
    """Whether a connection has brought next to nothing for long, in headers or in the body."""

    def __init__(self, count: int) -> None:
        self._since, self._count = time.monotonic(), count

    def stalled(self, count: int) -> bool:
        """Looks again, at the bytes there are now."""
        now = time.monotonic()
        if count - self._count >= PROGRESS_BYTES:
            self._since, self._count = now, count
        self._count = min(self._count, count)  # it began anew
        return now - self._since > STALL_SECONDS


def _receive(
    file: RemoteFile,
    private: Mapping[str, str],
    out: IO[bytes],
    job: Job,
    what: str,
) -> None:
    """One request for what is missing. Raises _Broken if less came than was promised."""
    have, line = out.tell(), AbortHandle()
    pace = _Pace(have)
    with (
        abort_when(line, lambda: job.cancelled.is_set() or pace.stalled(out.tell())),
        open_client(line) as client,
        stream_get(client, file.url, {"Range": f"bytes={have}-"}, private) as response,
    ):
        status, host = response.status_code, sanitize_line(response.url.host)
        if status in (408, 429) or status >= 500:
            raise _Broken(_("{host} answers {status}").format(host=host, status=status))
        if status not in (200, 206):
            raise response_error(response, file.name, file.url, file.hub)
        begins = _begins(response) if status == 206 else 0
        if begins != have:  # it does not resume: from the start, then
            out.seek(0)
            out.truncate()
        if begins not in (0, have):
            raise _Broken(_("{host} answers {status}").format(host=host, status=status))
        _copy(response, out, file.size, job, what)
    job.report(what, out.tell(), file.size)
    if out.tell() < file.size:
        raise _Broken(
            _("it ended after {count:,} of {total:,} bytes").format(
                count=out.tell(), total=file.size
            )
        )


def _begins(response: httpx.Response) -> int:
    """The first byte that an answer to a Range request holds; -1 where it does not say."""
    said = re.match(r"bytes ([0-9]{1,18})-", response.headers.get("content-range", ""))
    return int(said[1]) if said else -1


def _copy(response: httpx.Response, out: IO[bytes], size: int, job: Job, what: str) -> None:
    """Writes the body to `out`, until it ends or is longer than it should be."""
    reported = 0.0
    for chunk in response.iter_raw():
        out.write(chunk)
        job.raise_if_cancelled()
        if out.tell() > size:
            return  # more than there should be: the caller sees the size
        if time.monotonic() - reported > REPORT_SECONDS:
            job.report(what, out.tell(), size)
            reported = time.monotonic()


def _is_intact(part: Path, file: RemoteFile, job: Job) -> bool:
    if file.sha256 is not None:
        return job.sha256(part) == file.sha256
    digest = hashlib.sha1(b"blob %d\0" % file.size, usedforsecurity=False)
    with part.open("rb") as content:
        while chunk := content.read(CHUNK_BYTES):
            digest.update(chunk)
    return file.git_sha1 is None or digest.hexdigest() == file.git_sha1


@contextlib.contextmanager
def open_client(line: AbortHandle) -> Iterator[httpx.Client]:
    """A client to fetch with. Raises DownloadError for a proxy or certificates that are none."""
    try:
        with http_client(line) as client:
            yield client
    except UnusableProxy as error:
        raise DownloadError(
            _("The proxy set in the environment cannot be used: {reason}").format(reason=error),
            _(
                "See HTTP_PROXY, HTTPS_PROXY and ALL_PROXY, or list the server in NO_PROXY; a "
                "SOCKS proxy needs `pip install httpx[socks]`."
            ),
        ) from error
    except UnusableCertificates as error:
        raise DownloadError(str(error), _("See SSL_CERT_FILE and SSL_CERT_DIR.")) from error


def redirected_base(there: str, asked: str, hub: str) -> str:
    """Where a mirror has moved: what of `there` stands for `hub` in `asked`, as it may be shown.

    All of `there` where it does not end as `asked` does.
    """
    path = asked.partition("?")[0].removeprefix(hub)
    return redact_url(there).removesuffix(path)


def redirect_error(error: RedirectRefused, asked: str, hub: str) -> DownloadError:
    """A redirect that is not followed, as a person needs to hear it."""
    address = redirected_base(error.target, asked, hub)
    return DownloadError(
        _("{hub} redirects to {address}, which is not followed: {reason}.").format(
            hub=redact_url(hub or asked), address=address, reason=error
        ),
        _("If you trust that address, set hub.endpoint or HF_ENDPOINT to it.")
        if parse_http_url(address)
        else "",
    )


def response_error(response: httpx.Response, what: str, asked: str, hub: str) -> DownloadError:
    """The status of a response to a request for `asked`, as a person needs to hear it.

    Args:
        what: is asked for.
        hub: what `asked` begins with.
    """
    status, there = response.status_code, str(response.url)
    if is_same_service(httpx.URL(asked), response.url):
        return status_error(status, what, asked)
    if status not in (401, 403):
        return status_error(status, what, there)
    address = redirected_base(there, asked, hub)
    moved = address != redact_url(there)
    return DownloadError(
        _("{hub} redirects to {address}, which refuses access to {what} (HTTP {status}).").format(
            hub=redact_url(hub or asked), address=address, what=what, status=status
        ),
        _("A token is sent to hub.endpoint alone: set it, or HF_ENDPOINT, to {address}.").format(
            address=address
        )
        if moved
        else _("Try again later, or set a mirror with hub.endpoint or HF_ENDPOINT."),
    )


def status_error(status: int, what: str, url: str) -> DownloadError:
    """An HTTP status as a person needs to hear it."""
    parts = parse_http_url(url)
    host = sanitize_line(parts.hostname or "") if parts else redact_url(url)
    if status == 401:
        return DownloadError(
            _(
                "{host} asks for a login for {what}: it is private or gated, or does not exist."
            ).format(host=host, what=what),
            _(
                "Check the name; for your own access set HF_TOKEN to a token from its settings "
                "page."
            ),
        )
    if status == 403:
        return DownloadError(
            _("{host} refuses access to {what}.").format(host=host, what=what),
            _(
                "Accept its terms on the model's page at {host} and set HF_TOKEN to your token."
            ).format(host=host),
        )
    if status == 404:
        return DownloadError(
            _("There is no {what} on {host}.").format(what=what, host=host),
            _("Check the name (ORGANISATION/NAME), or set another hub with hub.endpoint."),
        )
    if status == 429:
        return DownloadError(
            _("{host} asks to slow down.").format(host=host), _("Try again in a few minutes.")
        )
    return DownloadError(
        _("{host} is in trouble (HTTP {status}).").format(host=host, status=status),
        _("Try again later, or set a mirror with hub.endpoint or HF_ENDPOINT."),
    )
