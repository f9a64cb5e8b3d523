"""What a hub may send, for the fuzzer: the JSON that describes a repository, and whole responses.

Responses come over a socket of 127.0.0.1, which is the proxy as well, so that a redirect to another
host ends there too.
"""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import PurePosixPath, PureWindowsPath

from glmtui.engine.progress import Progress
from glmtui.engine.pull.hub_api import SHA1, SHA256, Hub, Repository, choose_files, parse_repository
from glmtui.engine.pull.staging import Job

REPO = "someone/tiny"
PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def take_description(data: bytes) -> None:
    """All that is chosen of a repository must be fit to be part of a path."""
    check(parse_repository(data, "http://hub"))


def check(told: Repository) -> None:
    """Raises AssertionError for anything that could lead out of a folder."""
    assert SHA1.fullmatch(told.revision) or SHA256.fullmatch(told.revision)
    chosen = choose_files(REPO, told.files, "http://hub")
    assert len({file.name.lower() for file in chosen}) == len(chosen)
    for file in chosen:
        for kind in (PurePosixPath, PureWindowsPath):
            assert kind(file.name).parts == (file.name,)
        assert file.name.isascii()
        assert file.name.isprintable()
        assert not file.name.startswith(".")
        assert SHA1.fullmatch(file.etag) or SHA256.fullmatch(file.etag)
        assert file.size >= 0


def descriptions() -> dict[str, bytes]:
    entry = {"rfilename": "config.json", "size": 2, "blobId": "0" * 40}
    lfs = {"sha256": "0" * 64, "size": 9, "pointerSize": 130}
    weights = {"rfilename": "model.safetensors", "size": 9, "blobId": "0" * 40, "lfs": lfs}
    sound = {"id": REPO, "sha": COMMIT, "siblings": [entry, weights]}
    away = [
        entry | {"rfilename": name} for name in ("../a.json", "/a.json", "a\\b.json", "nul.json")
    ]
    return {
        "sound": json.dumps(sound).encode(),
        "away": json.dumps(sound | {"siblings": [entry, weights, *away]}).encode(),
        "twice": json.dumps(sound | {"siblings": [entry, entry, weights]}).encode(),
        "none": json.dumps(sound | {"siblings": [], "sha": None}).encode(),
    }


def take_response(data: bytes) -> None:
    """The bytes are the answer to every request until there is one that ends it."""
    server = listener()
    server.answer = data
    job = Job(REPO, lambda progress: isinstance(progress, Progress), threading.Event())
    with proxied(server.url):
        check(Hub.from_endpoint(server.url, "token").fetch_repository(REPO, job))


def responses() -> dict[str, bytes]:
    body = descriptions()["sound"]
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
    chunked = b"Transfer-Encoding: chunked\r\n\r\n"
    length = b"Content-Length: %d\r\n" % len(body)
    moved = b"HTTP/1.1 307 Temporary Redirect\r\nContent-Length: 0\r\nLocation: "
    return {
        "sound": head + length + b"\r\n" + body,
        "chunked": head + chunked + b"%x\r\n" % len(body) + body + b"\r\n0\r\n\r\n",
        "encoded": head + length + b"Content-Encoding: gzip\r\n\r\n" + body,
        "moved": moved + b"/api/models/other\r\n\r\n",
        "moved away": moved + b"http://user:pw@other.example/x?y#z\r\nSet-Cookie: a=b\r\n\r\n",
        "refused": b"HTTP/1.1 404 Not Found\r\nX-Error-Code: RepoNotFound\r\n\r\n",
    }


class Listener:
    """Answers every connection with the same bytes, and hangs up."""

    def __init__(self) -> None:
        self.answer = b""
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            connection, _address = self._socket.accept()
            with connection, suppress(OSError):
                connection.settimeout(5)
                asked = b""
                while b"\r\n\r\n" not in asked and (piece := connection.recv(65536)):
                    asked += piece
                connection.sendall(self.answer)


@cache
def listener() -> Listener:
    """The one there is."""
    return Listener()


@contextmanager
def proxied(url: str) -> Iterator[None]:
    """Meanwhile every request goes to `url`, whatever host it is for."""
    names = [*PROXIES, *map(str.lower, PROXIES)]
    before = {name: os.environ.pop(name) for name in names if name in os.environ}
    os.environ["HTTP_PROXY"] = os.environ["HTTPS_PROXY"] = url
    try:
        yield
    finally:
        for name in names:
            os.environ.pop(name, None)
        os.environ.update(before)
