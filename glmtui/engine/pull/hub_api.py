"""The API of a hub: the commit and the files of a repository, validated.

A hub or a mirror may be hostile. File names, digests and the commit become parts of paths, so each
must match a strict pattern.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, unquote

import httpx

from glmtui.engine.catalog.model_folder import MANIFEST
from glmtui.engine.catalog.quants import CPM_FILE, MAX_CPM_BYTES
from glmtui.engine.pull.fetch import RemoteFile
from glmtui.engine.pull.hub_errors import (
    hub_error,
    open_client,
    redirect_error,
    redirected_base,
    response_error,
)
from glmtui.engine.pull.staging import Job
from glmtui.errors import DownloadError, UnsupportedModel
from glmtui.language import _
from glmtui.net.addresses import origin, parse_http_url, redact_url
from glmtui.net.http_client import (
    AbortHandle,
    RedirectRefused,
    abort_when,
    is_same_service,
    read_body,
    stream_get,
)

API_SECONDS = 30.0  # for the whole answer
MAX_API_BYTES = 8 << 20  # a repository of 1,000 files takes 0.3 MB
MAX_API_VALUES = (
    400_000  # of JSON; parsed, they take up to a hundred times the memory of their text
)
MAX_FILES = 2000  # to download from a repository; the largest models have 200
MAX_FILE_BYTES = 1 << 42
MAX_SIDE_BYTES = 256 << 20  # of a tokenizer or configuration file; the largest have 40 MB

REPOSITORY_NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
SHA1 = re.compile(r"[0-9a-f]{40}")
SHA256 = re.compile(r"[0-9a-f]{64}")
_PLAIN_NAME = r"[A-Za-z0-9_][A-Za-z0-9_.+=-]{0,120}"  # no separators, dot files, spaces, Unicode
SIDE_FILES = re.compile(rf"{_PLAIN_NAME}\.(json|model|jinja)|(vocab|merges)\.txt")
WINDOWS_DEVICES = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])\..*", re.IGNORECASE)
SAFETENSORS = re.compile(r"model(-[0-9]{1,6}-of-[0-9]{1,6})?\.safetensors")
BIN = re.compile(r"pytorch_model(-[0-9]{1,6}-of-[0-9]{1,6})?\.bin")
WEIGHT_FORMATS = ((SAFETENSORS, ".safetensors.index.json"), (BIN, ".bin.index.json"))
CHATGLM_TOKENIZER = "tokenization_chatglm.py"  # only ChatGLM repositories have it


@dataclass(frozen=True, slots=True)
class Hub:
    """A hub, with the credentials for it.

    Attributes:
        base: its address without user name, password and query.
        private_headers: authorization for this host only; never display it.
    """

    base: str
    private_headers: Mapping[str, str] = field(repr=False)

    @classmethod
    def from_endpoint(cls, endpoint: str, token: str | None) -> Hub:
        """Raises DownloadError for an invalid address or token."""
        parts = parse_http_url(endpoint)
        if parts is None:
            raise DownloadError(
                _("{endpoint} is not a hub address.").format(endpoint=redact_url(endpoint)),
                _("It should look like https://hf-mirror.com: see hub.endpoint and HF_ENDPOINT."),
            )
        headers = {}
        if parts.username or parts.password:
            login = f"{unquote(parts.username or '')}:{unquote(parts.password or '')}"
            headers["Authorization"] = f"Basic {base64.b64encode(login.encode()).decode()}"
        elif token:
            if not (token.isascii() and token.isprintable()):
                raise DownloadError(
                    _("The token for the hub contains invalid characters."),
                    _("Check HF_TOKEN for line breaks or extra quotes."),
                )
            headers["Authorization"] = f"Bearer {token}"
        return cls(f"{origin(parts)}{parts.path.rstrip('/')}", headers)

    def file_url(self, repo: str, revision: str, name: str) -> str:
        """The URL of a file at a commit."""
        return f"{self.base}/{quote(repo)}/resolve/{revision}/{quote(name)}"

    def fetch_repository(self, repo: str, job: Job) -> Repository:
        """Request the commit and the files of a repository.

        Raises:
            DownloadError: no answer, a refusal, or an invalid answer.
            PullCancelled.
        """
        abort_handle, url = AbortHandle(), f"{self.base}/api/models/{quote(repo)}?blobs=true"
        try:
            with (
                abort_when(abort_handle, job.cancelled.is_set, API_SECONDS),
                open_client(abort_handle) as client,
                stream_get(client, url, private_headers=self.private_headers) as response,
            ):
                if response.status_code != 200:
                    raise response_error(response, repo, url, self.base)
                response_url = response.url
                body = read_body(response, MAX_API_BYTES)
        except RedirectRefused as error:
            if error.target:
                raise redirect_error(error, url, self.base) from error
            raise hub_error(self.base, str(error)) from error
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError) as error:
            job.raise_if_cancelled()
            raise hub_error(self.base, type(error).__name__) from error
        try:
            return parse_repository(body, self.base)
        except DownloadError as error:
            if is_same_service(httpx.URL(url), response_url):
                raise
            raise DownloadError(
                _("{hub} redirects to {address}. {reason}").format(
                    hub=redact_url(self.base),
                    address=redirected_base(str(response_url), url, self.base),
                    reason=error.message,
                ),
                _("If it has moved there, set hub.endpoint or HF_ENDPOINT to the new address."),
            ) from error


@dataclass(frozen=True, slots=True)
class Repository:
    """The commit of a repository and its files, whose names and digests are not validated yet."""

    revision: str
    files: tuple[RemoteFile, ...]


def parse_repository(body: bytes, hub: str) -> Repository:
    """Parse the answer of ``/api/models/ORG/NAME?blobs=true``.

    Args:
        hub: address of the hub, for errors.

    Raises DownloadError for anything else, and for an invalid commit.
    """
    if sum(map(body.count, (b"{", b"[", b","))) > MAX_API_VALUES:
        raise _file_list_error(hub)
    try:
        data = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise hub_error(hub, type(error).__name__) from error
    siblings = data.get("siblings") if isinstance(data, dict) else None
    if not isinstance(siblings, list):
        raise hub_error(hub, _("no list of files"))
    revision = data.get("sha")
    if not isinstance(revision, str) or not (
        SHA1.fullmatch(revision) or SHA256.fullmatch(revision)
    ):
        raise _checksum_error(hub, revision)
    entries = (entry for entry in siblings if isinstance(entry, dict))
    return Repository(revision, tuple(map(_remote_file, entries)))


def choose_files(repo: str, files: Sequence[RemoteFile], hub: str) -> list[RemoteFile]:
    """Select the files of a repository that a model needs: config.json first and weights last.

    Safetensors are preferred to .bin files. The names, digests and sizes of the result are valid.

    Raises:
        UnsupportedModel: no config.json, or no weights in a supported format.
        DownloadError: a needed file has no valid digest or size, two files have the same name, or
            there are too many files.
    """
    by_format = [
        ([f for f in files if pattern.fullmatch(f.name)], end) for pattern, end in WEIGHT_FORMATS
    ]
    weights, index_end = next((found for found in by_format if found[0]), ([], ""))
    names = {file.name for file in files}
    if not weights or "config.json" not in names:
        missing = "config.json" if weights else _("safetensors or pytorch_model.bin")
        hint = ""
        if any(name.endswith(".gguf") for name in names):
            hint = _("Download one of its GGUF files and run: glmtui pull FILE.gguf")
        raise UnsupportedModel(
            _("glmtui cannot run {repo}: it has no {missing}.").format(repo=repo, missing=missing),
            hint,
        )
    side_files = [file for file in files if _is_side_file(file, index_end)]
    if CHATGLM_TOKENIZER in names:
        side_files += [f for f in files if f.name == CPM_FILE and f.size <= MAX_CPM_BYTES]
    chosen = sorted(side_files, key=lambda file: file.name != "config.json") + weights
    _validate(chosen, hub)
    return chosen


def _remote_file(entry: Mapping[str, Any]) -> RemoteFile:
    """An entry of the list; invalid fields are empty, or -1."""
    name, size, lfs = entry.get("rfilename"), entry.get("size"), entry.get("lfs")
    digest = lfs.get("sha256") if isinstance(lfs, dict) else entry.get("blobId")
    value = digest if isinstance(digest, str) else ""
    return RemoteFile(
        name=name if isinstance(name, str) else "",
        url="",
        size=size if type(size) is int and 0 <= size <= MAX_FILE_BYTES else -1,
        sha256=value if lfs else None,
        git_sha1=None if lfs else value,
    )


def _is_side_file(file: RemoteFile, index_end: str) -> bool:
    if not SIDE_FILES.fullmatch(file.name) or WINDOWS_DEVICES.fullmatch(file.name):
        return False
    if file.name.lower() == MANIFEST or file.size > MAX_SIDE_BYTES:
        return False  # glmtui writes the manifest itself
    return not file.name.endswith(".index.json") or file.name.endswith(index_end)


def _validate(chosen: Sequence[RemoteFile], hub: str) -> None:
    """Raises DownloadError if a size, or a value that becomes part of a path, is invalid."""
    if len(chosen) > MAX_FILES or len({file.name.lower() for file in chosen}) < len(chosen):
        raise _file_list_error(hub)
    for file in chosen:
        pattern = SHA1 if file.sha256 is None else SHA256
        if not pattern.fullmatch(file.etag):
            raise _checksum_error(hub, file.etag)
        if file.size < 0:
            raise hub_error(hub, _("no size of {name}").format(name=file.name))


def _file_list_error(hub: str) -> DownloadError:
    return DownloadError(
        _("{endpoint} lists too many files, or two with the same name.").format(
            endpoint=redact_url(hub)
        ),
        _("The mirror is unreliable: set another with hub.endpoint or HF_ENDPOINT."),
    )


def _checksum_error(hub: str, value: object) -> DownloadError:
    return DownloadError(
        _("{endpoint} sent {value!r} instead of a checksum.").format(
            endpoint=redact_url(hub), value=str(value)[:40]
        ),
        _("The mirror is unreliable: set another with hub.endpoint or HF_ENDPOINT."),
    )
