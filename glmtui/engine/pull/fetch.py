"""One file over HTTP into one file on disk: resumed where it broke, checked when it is whole.

`huggingface_hub` (2.4) throws an unfinished file away when its process ends, which over a slow link
costs up to a whole shard of 2 GB; here it stays and the next run goes on from its end. Knows
nothing of the hub's addresses or cache.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import httpx

from glmtui.engine.pull.staging import CHUNK_BYTES, Job, megabytes
from glmtui.errors import DownloadError
from glmtui.language import _

ATTEMPTS = 6  # in a row without a single byte
FIRST_WAIT_SECONDS = 0.5  # doubled after each of them
TIMEOUT = httpx.Timeout(30.0, read=15.0)
REPORT_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file to fetch.

    Attributes:
        name: as a person should see it.
        size: in bytes.
        sha256: in hex; or else `git_sha1`, the id of a git blob.
    """

    name: str
    url: str
    size: int
    sha256: str | None = None
    git_sha1: str | None = None

    @property
    def etag(self) -> str:
        """What the hub's cache calls its content."""
        return self.sha256 or self.git_sha1 or ""


class _Broken(Exception):
    """The connection broke, or the server is in trouble for the moment."""


def fetch(file: RemoteFile, target: Path, headers: Mapping[str, str], job: Job, what: str) -> None:
    """Downloads to `target`, by way of ``target.incomplete``, which outlives a failure.

    Args:
        headers: sent with the request; an authorization is not passed on to other hosts.
        what: for the progress report.

    Raises:
        DownloadError: the server refuses, breaks off again and again, or sends something else.
        PullCancelled, OSError.
    """
    part = target.with_name(target.name + ".incomplete")
    failures = 0
    with httpx.Client(follow_redirects=True, timeout=TIMEOUT) as client, part.open("ab") as out:
        while out.tell() < file.size:
            before = out.tell()
            try:
                _receive(client, file, headers, out, job, what)
            except (_Broken, httpx.HTTPError) as error:
                failures = 0 if out.tell() > before else failures + 1
                if failures == ATTEMPTS:
                    raise DownloadError(
                        _(
                            "The connection for {name} broke again and again ({error}). "
                            "{kept} of {size} are kept."
                        ).format(
                            name=file.name,
                            error=error,
                            kept=megabytes(out.tell()),
                            size=megabytes(file.size),
                        ),
                        _("Go on from there with: glmtui pull {model}").format(model=job.name),
                    ) from error
                if failures:
                    job.cancelled.wait(FIRST_WAIT_SECONDS * 2 ** (failures - 1))
                    job.check()
    if part.stat().st_size != file.size or not _is_intact(part, file, job):
        part.unlink()
        raise DownloadError(
            _("{name} arrived damaged: its size or checksum is not what the hub says.").format(
                name=file.name
            ),
            _("Try again; if it stays so, the mirror is out of step: set another (hub.endpoint)."),
        )
    part.replace(target)


def _receive(
    client: httpx.Client,
    file: RemoteFile,
    headers: Mapping[str, str],
    out: IO[bytes],
    job: Job,
    what: str,
) -> None:
    """One request for what is missing. Raises _Broken if less came than was promised."""
    have = out.tell()
    # without compression, so that bytes on the line are bytes of the file
    asked = {**headers, "Accept-Encoding": "identity", "Range": f"bytes={have}-"}
    with client.stream("GET", file.url, headers=asked) as response:
        if response.status_code in (408, 429) or response.status_code >= 500:
            raise _Broken(
                _("{host} answers {status}").format(
                    host=response.url.host, status=response.status_code
                )
            )
        if response.is_error:
            raise refused(response.status_code, file.name, file.url)
        if response.status_code != 206 and have:  # it does not resume: from the start, then
            out.seek(0)
            out.truncate()
        reported = 0.0
        for chunk in response.iter_raw():
            out.write(chunk)
            job.check()
            if out.tell() > file.size:
                return  # more than there should be: the caller sees the size
            if time.monotonic() - reported > REPORT_SECONDS:
                job.report(what, out.tell(), file.size)
                reported = time.monotonic()
    job.report(what, out.tell(), file.size)
    if out.tell() < file.size:
        raise _Broken(
            _("it ended after {count:,} of {total:,} bytes").format(
                count=out.tell(), total=file.size
            )
        )


def _is_intact(part: Path, file: RemoteFile, job: Job) -> bool:
    if file.sha256 is not None:
        return job.hashed(part) == file.sha256
    digest = hashlib.sha1(b"blob %d\0" % file.size, usedforsecurity=False)
    with part.open("rb") as content:
        while chunk := content.read(CHUNK_BYTES):
            digest.update(chunk)
    return file.git_sha1 is None or digest.hexdigest() == file.git_sha1


def refused(status: int, what: str, url: str) -> DownloadError:
    """An HTTP status as a person needs to hear it."""
    host = httpx.URL(url).host
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
