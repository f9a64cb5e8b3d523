"""The client against servers that compress, redirect, drip and never end; all on 127.0.0.1."""

from __future__ import annotations

import gzip
import time
from http.server import BaseHTTPRequestHandler

import httpx
import pytest

from glmtui.net.http_client import (
    AbortHandle,
    DeadlineExceeded,
    RedirectRefused,
    ResponseTooLong,
    UnexpectedEncoding,
    abort_when,
    check_redirect,
    http_client,
    read_body,
    stream_get,
)
from support.http_answers import answering, send


def fetched(url: str, limit: int = 1000, **private: str) -> bytes:
    with http_client() as client, stream_get(client, url, private_headers=private) as response:
        return read_body(response, limit)


@pytest.mark.parametrize("encoding", ["gzip", "gzip, gzip", "Identity,deflate", "br", "unknown"])
def test_what_is_compressed_unasked_is_not_decompressed(encoding: str) -> None:
    bomb = gzip.compress(gzip.compress(bytes(50 << 20)))
    with (
        answering(lambda handler: send(handler, bomb, Content_Encoding=encoding)) as url,
        pytest.raises(UnexpectedEncoding),
    ):
        fetched(url)


def test_identity_was_asked_for() -> None:
    asked = []

    def answer(handler: BaseHTTPRequestHandler) -> None:
        asked.append(handler.headers["Accept-Encoding"])
        send(handler, b"ok", Content_Encoding="identity")

    with answering(answer) as url:
        assert fetched(url) == b"ok"
    assert asked == ["identity"]


def test_a_body_without_an_end() -> None:
    sent = []

    def answer(handler: BaseHTTPRequestHandler) -> None:
        send(handler, b"")
        while True:
            sent.append(handler.wfile.write(bytes(1 << 16)))

    with answering(answer) as url, pytest.raises(ResponseTooLong):
        fetched(url, limit=1 << 20)
    assert sum(sent) < 64 << 20


def test_the_body_of_a_redirect_is_not_read() -> None:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        if handler.path == "/there":
            return send(handler, b"ok")
        send(handler, b"", 302, Location="/there")
        while True:
            handler.wfile.write(bytes(1 << 16))

    with answering(answer) as url:
        assert fetched(url) == b"ok"


def test_redirects_for_ever() -> None:
    with (
        answering(lambda handler: send(handler, b"", 302, Location=handler.path + "x")) as url,
        pytest.raises(RedirectRefused),
    ):
        fetched(url)


@pytest.mark.parametrize("where", ["http://a b/", "http://[::1/", "//", "http://\u2603.\u3002/"])
def test_a_redirect_to_nowhere(where: str) -> None:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        send(handler, b"", 302, Location=where.encode().decode("latin-1"))

    with answering(answer) as url, pytest.raises(httpx.HTTPError):
        fetched(url)


def test_what_is_private_stays_with_its_host() -> None:
    seen: list[str | None] = []

    def last(handler: BaseHTTPRequestHandler) -> None:
        seen.append(handler.headers["Authorization"])
        send(handler, b"ok")

    with answering(last) as elsewhere:

        def first(handler: BaseHTTPRequestHandler) -> None:
            seen.append(handler.headers["Authorization"])
            away = elsewhere if handler.path == "/away" else "/away"
            send(handler, b"", 307, Location=away)

        with answering(first) as url:
            assert fetched(url, Authorization="Bearer canary") == b"ok"
    assert seen == ["Bearer canary", "Bearer canary", None]


@pytest.mark.parametrize(
    ("here", "there"),
    [
        ("https://hub.example/", "http://hub.example/"),
        ("https://hub.example/", "ftp://hub.example/"),
        ("https://hub.example/", "https://localhost/"),
        ("http://hub.example/", "http://169.254.169.254/latest/meta-data"),
        ("http://hub.example/", "http://[::ffff:127.0.0.1]/"),
    ],
)
def test_where_a_redirect_may_not_lead(here: str, there: str) -> None:
    with pytest.raises(RedirectRefused):
        check_redirect(httpx.URL(here), httpx.URL(there))


def test_a_redirect_brings_no_password() -> None:
    there = check_redirect(httpx.URL("http://a/"), httpx.URL("https://u:p@b/x?y=1#z"))
    assert str(there) == "https://b/x?y=1"


@pytest.mark.parametrize("part", ["headers", "body"])
@pytest.mark.parametrize("by", ["time", "hand"])
def test_a_response_that_drips(part: str, by: str) -> None:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\n" + (b"\r\n" if part == "body" else b"X: "))
        while True:
            handler.wfile.write(b"x")
            time.sleep(0.01)

    line, started = AbortHandle(), time.monotonic()

    def cancelled() -> bool:
        return by == "hand" and time.monotonic() - started > 0.2

    with answering(answer) as url:
        with (
            pytest.raises(DeadlineExceeded if by == "time" else httpx.HTTPError),
            http_client(line) as client,
            abort_when(line, cancelled, seconds=0.2 if by == "time" else 60),
            stream_get(client, url) as response,
        ):
            read_body(response, 1 << 20)
        with pytest.raises(httpx.HTTPError), http_client(line) as client:
            client.get(url)  # an ended line stays ended
    assert line.aborted
    assert time.monotonic() - started < 5


def test_cookies_are_not_kept() -> None:
    asked = []

    def answer(handler: BaseHTTPRequestHandler) -> None:
        asked.append(handler.headers["Cookie"])
        send(handler, b"", Set_Cookie="a=b")

    with answering(answer) as url, http_client() as client:
        for _ in range(2):
            with stream_get(client, url) as response:
                read_body(response, 10)
    assert asked == [None, None]
