"""A fake hub on 127.0.0.1, with faults.

Serves ``/api/models/ORG/NAME`` and ``/ORG/NAME/resolve/COMMIT/FILE`` with Range, ETag and the
headers of huggingface.co. `Hub.faults` breaks connections and sends wrong bytes or statuses for a
file; `headers`, `digests`, `entries` and `answer` are for hostile hubs.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"
LFS_BYTES = 4096  # size from which a file is in LFS


@dataclass
class Fault:
    """A failure of requests for a file.

    Attributes:
        cut_after: close the connection after so many bytes.
        status: HTTP status to answer instead of the file.
        body: to send instead of the file.
        drip_seconds: pause after each byte of the answer.
        drips: what is slow: "body", or "headers", which then do not end.
        redirect: address of another host that has the file, at the same path.
        times: how many requests fail.
    """

    cut_after: int | None = None
    status: int | None = None
    body: bytes | None = None
    drip_seconds: float | None = None
    drips: str = "body"
    redirect: str | None = None
    times: int = 1


@dataclass
class Hub:
    """The content of the hub, and the requests it received."""

    repos: dict[str, dict[str, bytes]] = field(default_factory=dict)
    faults: dict[str, Fault] = field(default_factory=dict)
    digests: dict[str, str] = field(default_factory=dict)  # by file name or "commit": sent instead
    token: str | None = None  # if set, requests without it get 401
    status: int | None = None  # for every answer
    resumes: bool = True  # supports Range
    url: str = ""
    headers: dict[str, str] = field(default_factory=dict)  # additional ones for every file
    entries: list[Any] = field(default_factory=list)  # additional ones in the list of files
    answer: Callable[[BaseHTTPRequestHandler], object] | None = None  # replaces the API
    requests: list[tuple[str, str, str]] = field(default_factory=list)  # method, path, range
    tokens: list[str | None] = field(default_factory=list)  # the Authorization of each request

    def downloads(self) -> list[str]:
        """The files that were sent, with the offset if it is not 0: "FILE" or "FILE@OFFSET"."""
        found = []
        for method, path, asked_range in self.requests:
            start = asked_range.removeprefix("bytes=").removesuffix("-")
            if method == "GET" and "/resolve/" in path:
                found.append(path.rpartition("/")[2] + ("" if start in ("", "0") else f"@{start}"))
        return found


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        self.hub.requests.append((self.command, path, self.headers.get("Range", "")))
        self.hub.tokens.append(self.headers.get("Authorization"))
        if self.hub.status is not None:
            return self._refuse(self.hub.status)
        if self.hub.token and self.headers.get("Authorization") != f"Bearer {self.hub.token}":
            return self._refuse(401)
        if path.startswith("/api/models/"):
            if self.hub.answer is not None:
                with suppress(ConnectionError):
                    self.hub.answer(self)
                self.close_connection = True
                return None
            return self._describe(path.removeprefix("/api/models/"))
        repo, _, rest = path.removeprefix("/").partition("/resolve/")
        name = rest.partition("/")[2]
        content = self.hub.repos.get(repo, {}).get(name)
        if content is None:
            return self._refuse(404)
        return self._send(name, content)

    def _refuse(self, status: int) -> None:
        self.send_response(status)
        self.send_header("Content-Length", "0")
        if status == 404:
            self.send_header("X-Error-Code", "RepoNotFound")
        if status == 403:
            self.send_header("X-Error-Code", "GatedRepo")
        self.end_headers()

    def _describe(self, repo: str) -> None:
        files = self.hub.repos.get(repo)
        if files is None:
            return self._refuse(404)
        digests = self.hub.digests
        siblings = [
            _sibling(name, files[name], digests.get(name, _etag(files[name]))) for name in files
        ]
        sha = digests.get("commit", COMMIT)
        listed = [*siblings, *self.hub.entries]
        body = json.dumps({"id": repo, "sha": sha, "siblings": listed}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        return None

    def _send(self, name: str, content: bytes) -> None:
        fault = self.hub.faults.get(name) if self.command == "GET" else None
        if fault is not None and fault.times > 0:
            fault.times -= 1
            if fault.status is not None:
                return self._refuse(fault.status)
            if fault.redirect is not None:
                self.send_response(302)
                self.send_header("Location", fault.redirect + self.path)
                self.send_header("Content-Length", "0")
                return self.end_headers()
            if fault.drips == "headers":
                return self._drip(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 1000, fault.drip_seconds or 0)
            if fault.body is not None:
                content = fault.body
        else:
            fault = None
        start, headers = 0, {"X-Repo-Commit": COMMIT, "ETag": f'"{_etag(content)}"'}
        asked = self.headers.get("Range")
        if asked and self.hub.resumes:
            start = int(asked.removeprefix("bytes=").partition("-")[0])
            self.send_response(206)
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        else:
            self.send_response(200)
        headers["Content-Length"] = str(len(content) - start)
        for header, value in (headers | self.hub.headers).items():
            self.send_header(header, value)
        self.end_headers()
        if self.command == "HEAD":
            return None
        if fault is not None and fault.cut_after is not None:
            self.wfile.write(content[start : start + fault.cut_after])
            self.wfile.flush()
            self.close_connection = True
            return None
        if fault is not None and fault.drip_seconds is not None:
            return self._drip(content[start:], fault.drip_seconds)
        with suppress(ConnectionError):
            self.wfile.write(content[start:])
        return None

    def _drip(self, content: bytes, seconds: float) -> None:
        with suppress(ConnectionError):
            for n in range(len(content)):
                self.wfile.write(content[n : n + 1])
                time.sleep(seconds)
        self.close_connection = True


def _etag(content: bytes) -> str:
    if len(content) >= LFS_BYTES:
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _sibling(name: str, content: bytes, digest: str) -> dict[str, Any]:
    entry: dict[str, Any] = {"rfilename": name, "size": len(content), "blobId": digest}
    if len(content) >= LFS_BYTES:
        entry["blobId"] = "0" * 40
        entry["lfs"] = {"sha256": digest, "size": len(content), "pointerSize": 130}
    return entry


@contextmanager
def hub_server() -> Iterator[Hub]:
    """Run an empty hub during the block."""
    hub = Hub()
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
