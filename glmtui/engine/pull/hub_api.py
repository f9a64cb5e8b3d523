"""What a hub says of a repository, checked before anything is made of it.

A hub or a mirror may be hostile. Names, digests and the commit become parts of paths later, so
each has to fit a strict pattern here, whatever the server's language, headers or JSON say. Knows
the API and its URLs; writes nothing to disk.
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
from glmtui.engine.catalog.registry import CPM_FILE, MAX_CPM_BYTES
from glmtui.engine.pull.fetch import (
    RemoteFile,
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

API_SECONDS = 30.0  # for the whole description of a repository
MAX_API_BYTES = 8 << 20  # a repository of 1,000 files has 0.3 MB
MAX_API_VALUES = 400_000  # of JSON, which take up to a hundred times the memory of their text
MAX_FILES = 2000  # that we would take of one repository; the largest models have 200
MAX_FILE_BYTES = 1 << 42
MAX_SIDE_BYTES = 256 << 20  # of a tokenizer or a configuration; the largest have 40 MB

REPOSITORY_NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
SHA1 = re.compile(r"[0-9a-f]{40}")
SHA256 = re.compile(r"[0-9a-f]{64}")
_PLAIN = r"[A-Za-z0-9_][A-Za-z0-9_.+=-]{0,120}"  # no separators, dot files, blanks, other scripts
SIDE_FILES = re.compile(rf"{_PLAIN}\.(json|model|jinja)|(vocab|merges)\.txt")
DEVICES = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])\..*", re.IGNORECASE)  # on Windows
SAFETENSORS = re.compile(r"model(-[0-9]{1,6}-of-[0-9]{1,6})?\.safetensors")
BIN = re.compile(r"pytorch_model(-[0-9]{1,6}-of-[0-9]{1,6})?\.bin")
KINDS = ((SAFETENSORS, ".safetensors.index.json"), (BIN, ".bin.index.json"))
CHATGLM = "tokenization_chatglm.py"  # what marks a repository as one of ChatGLM's


@dataclass(frozen=True, slots=True)
class Hub:
    """Where a hub is, and who asks.

    Attributes:
        base: its address without user, password and query.
        private: headers for this host alone; never to be shown.
    """

    base: str
    private: Mapping[str, str] = field(repr=False)

    @classmethod
    def at(cls, endpoint: str, token: str | None) -> Hub:
        """Raises DownloadError for what is no address, or a token that cannot be sent."""
        parts = parse_http_url(endpoint)
        if parts is None:
            raise DownloadError(
                _("{endpoint} is no address of a hub.").format(endpoint=redact_url(endpoint)),
                _("It looks like https://hf-mirror.com: see hub.endpoint and HF_ENDPOINT."),
            )
        private = {}
        if parts.username or parts.password:
            login = f"{unquote(parts.username or '')}:{unquote(parts.password or '')}"
            private["Authorization"] = f"Basic {base64.b64encode(login.encode()).decode()}"
        elif token:
            if not (token.isascii() and token.isprintable()):
                raise DownloadError(
                    _("The token for the hub holds characters that cannot be sent."),
                    _("Look at HF_TOKEN: a line end or quotes too many?"),
                )
            private["Authorization"] = f"Bearer {token}"
        return cls(f"{origin(parts)}{parts.path.rstrip('/')}", private)

    def file_url(self, repo: str, revision: str, name: str) -> str:
        """Where a file of a commit is."""
        return f"{self.base}/{quote(repo)}/resolve/{revision}/{quote(name)}"

    def repository(self, repo: str, job: Job) -> Repository:
        """Asks for the commit and the files of a repository.

        Raises:
            DownloadError: no answer, a refusal, or an answer that is not sound.
            PullCancelled.
        """
        line, url = AbortHandle(), f"{self.base}/api/models/{quote(repo)}?blobs=true"
        try:
            with (
                abort_when(line, job.cancelled.is_set, API_SECONDS),
                open_client(line) as client,
                stream_get(client, url, private_headers=self.private) as response,
            ):
                if response.status_code != 200:
                    raise response_error(response, repo, url, self.base)
                there = response.url
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
            if is_same_service(httpx.URL(url), there):
                raise
            raise DownloadError(
                _("{hub} redirects to {address}. {reason}").format(
                    hub=redact_url(self.base),
                    address=redirected_base(str(there), url, self.base),
                    reason=error.message,
                ),
                _("If it has moved there, set hub.endpoint or HF_ENDPOINT to the new address."),
            ) from error


@dataclass(frozen=True, slots=True)
class Repository:
    """The commit of a repository and its files, as the hub says; names and digests unchecked."""

    revision: str
    files: tuple[RemoteFile, ...]


def parse_repository(body: bytes, hub: str) -> Repository:
    """The answer of ``/api/models/ORG/NAME?blobs=true``.

    Args:
        hub: whose answer it is, for errors.

    Raises DownloadError for what is no such answer, or names a commit that is none.
    """
    if sum(map(body.count, (b"{", b"[", b","))) > MAX_API_VALUES:
        raise _too_many(hub)
    try:
        told = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise hub_error(hub, type(error).__name__) from error
    siblings = told.get("siblings") if isinstance(told, dict) else None
    if not isinstance(siblings, list):
        raise hub_error(hub, _("no list of files"))
    revision = told.get("sha")
    if not isinstance(revision, str) or not (
        SHA1.fullmatch(revision) or SHA256.fullmatch(revision)
    ):
        raise _no_checksum(hub, revision)
    entries = (entry for entry in siblings if isinstance(entry, dict))
    return Repository(revision, tuple(map(_remote_file, entries)))


def choose_files(repo: str, files: Sequence[RemoteFile], hub: str) -> list[RemoteFile]:
    """The files of a repository that a model needs, config.json first and weights last.

    Safetensors are taken rather than .bin files where there are both. Files of other names are
    left out; in those that are taken, everything is sound.

    Raises:
        UnsupportedModel: no config.json, or no weights of a kind we read.
        DownloadError: a needed file without a sound digest or size, two files of one name, or
            more files than any model has.
    """
    of_kind = [([f for f in files if pattern.fullmatch(f.name)], end) for pattern, end in KINDS]
    weights, index_end = next((kind for kind in of_kind if kind[0]), ([], ""))
    names = {file.name for file in files}
    if not weights or "config.json" not in names:
        lacks = "config.json" if weights else _("safetensors or pytorch_model.bin")
        hint = ""
        if any(name.endswith(".gguf") for name in names):
            hint = _("Download one of its GGUF files and run: glmtui pull FILE.gguf")
        raise UnsupportedModel(
            _("{repo} is no model that glmtui can run: it has no {lacks}.").format(
                repo=repo, lacks=lacks
            ),
            hint,
        )
    side = [file for file in files if _is_side_file(file, index_end)]
    if CHATGLM in names:
        side += [f for f in files if f.name == CPM_FILE and f.size <= MAX_CPM_BYTES]
    chosen = sorted(side, key=lambda file: file.name != "config.json") + weights
    _check(chosen, hub)
    return chosen


def hub_error(hub: str, reason: str) -> DownloadError:
    """The error for a hub that does not answer, or not as a hub does."""
    return DownloadError(
        _("{endpoint} cannot be reached, or is no hub ({error}).").format(
            endpoint=redact_url(hub), error=reason
        ),
        _(
            "Check the network and proxy (HTTPS_PROXY), or set a mirror: hub.endpoint or "
            "HF_ENDPOINT."
        ),
    )


def _remote_file(entry: Mapping[str, Any]) -> RemoteFile:
    """An entry of the list; what is unsound in it is empty, or -1."""
    name, size, lfs = entry.get("rfilename"), entry.get("size"), entry.get("lfs")
    digest = lfs.get("sha256") if isinstance(lfs, dict) else entry.get("blobId")
    said = digest if isinstance(digest, str) else ""
    return RemoteFile(
        name=name if isinstance(name, str) else "",
        url="",
        size=size if type(size) is int and 0 <= size <= MAX_FILE_BYTES else -1,
        sha256=said if lfs else None,
        git_sha1=None if lfs else said,
    )


def _is_side_file(file: RemoteFile, index_end: str) -> bool:
    if not SIDE_FILES.fullmatch(file.name) or DEVICES.fullmatch(file.name):
        return False
    if file.name.lower() == MANIFEST or file.size > MAX_SIDE_BYTES:
        return False  # the manifest is ours to write
    return not file.name.endswith(".index.json") or file.name.endswith(index_end)


def _check(chosen: Sequence[RemoteFile], hub: str) -> None:
    """Raises DownloadError if anything that will be part of a path, or a size, is not sound."""
    if len(chosen) > MAX_FILES or len({file.name.lower() for file in chosen}) < len(chosen):
        raise _too_many(hub)
    for file in chosen:
        sound = SHA1 if file.sha256 is None else SHA256
        if not sound.fullmatch(file.etag):
            raise _no_checksum(hub, file.etag)
        if file.size < 0:
            raise hub_error(hub, _("no size of {name}").format(name=file.name))


def _too_many(hub: str) -> DownloadError:
    return DownloadError(
        _("{endpoint} lists files that no model has: too many, or two of one name.").format(
            endpoint=redact_url(hub)
        ),
        _("It is no sound mirror: set another with hub.endpoint or HF_ENDPOINT."),
    )


def _no_checksum(hub: str, said: object) -> DownloadError:
    return DownloadError(
        _("{endpoint} gives no checksum for what it has, but {said!r}.").format(
            endpoint=redact_url(hub), said=str(said)[:40]
        ),
        _("It is no sound mirror: set another with hub.endpoint or HF_ENDPOINT."),
    )
