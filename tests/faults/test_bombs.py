"""Servers whose few bytes would become gigabytes: compressed answers are refused."""

from __future__ import annotations

import gzip
import itertools
import subprocess
import sys
import zlib
from collections.abc import Callable

import pytest

from support.fake_server import Exchange, serving

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

MEMORY = 400 << 20  # bytes that the child may allocate after its start
CHILD = """
import resource, sys
from glmtui.chat import Message
from glmtui.engine.model_info import ServerSpec
from glmtui.engine.remote import ServerModel
from glmtui.errors import ServerError
import httpx, glmtui.net.http_client

pages = int(open("/proc/self/statm").read().split()[0])
most = pages * resource.getpagesize() + {memory}
resource.setrlimit(resource.RLIMIT_AS, (most, most))
for url in sys.argv[1:]:
    try:
        if url.endswith("list"):
            ServerModel.connect(ServerSpec(url))
        else:
            list(ServerModel(ServerSpec(url, "m")).stream((Message("user", "hi"),)))
    except ServerError as error:
        print(error.message)
status = open("/proc/self/status").read()  # ru_maxrss would include the parent's
print(status.split("VmHWM:")[1].split()[0])
"""


def bomb() -> bytes:
    """1 GB of zeros in a few kB, compressed twice."""
    squeeze = zlib.compressobj(9, zlib.DEFLATED, -15)
    block = squeeze.compress(bytes(8 << 20)) + squeeze.flush(zlib.Z_FULL_FLUSH)
    once = gzip.compress(b"")[:10] + block * 128 + squeeze.flush()
    return gzip.compress(once)


def test_what_is_compressed_unasked_is_not_decoded() -> None:
    packed = bomb()
    encodings = ["gzip, gzip", "x-gzip", "deflate", "identity, gzip"]

    def answer(exchange: Exchange) -> None:
        _, number, status, *_rest = exchange.path.split("/")
        exchange.send(packed, int(status), Content_Encoding=encodings[int(number)])

    cases = itertools.product(range(len(encodings)), (200, 500), ("chat", "list"))
    words = read_answers(answer, [f"{n}/{status}/{what}" for n, status, what in cases])
    assert len(words) == 16
    assert all("sent a compressed answer" in message for message in words)


def nested(exchange: Exchange) -> None:
    exchange.send(b'{"choices":' + b"[[]," * 100_000 + b"1")


def many(exchange: Exchange) -> None:
    exchange.start()
    exchange.write(b"data: " + b"[],".join([b"["] + [b""] * 1_000_000) + b"]\n\n")
    exchange.end()


def lines(exchange: Exchange) -> None:
    exchange.start()
    for _ in range(1000):
        exchange.write(b"data:\n" * 1000)


def blanks(exchange: Exchange) -> None:
    exchange.start()
    while True:
        exchange.write(b"\n" * 10_000)


def headers(exchange: Exchange) -> None:
    exchange.wfile.write(b"HTTP/1.1 200 OK\r\n")
    while True:
        exchange.wfile.write(b"X: " + b"x" * 10_000 + b"\r\n")


def one_header(exchange: Exchange) -> None:
    exchange.wfile.write(b"HTTP/1.1 200 OK\r\nX: ")
    while True:
        exchange.wfile.write(b"x" * 10_000)


def error_body(exchange: Exchange) -> None:
    exchange.send_response(500)
    exchange.send_header("Connection", "close")
    exchange.end_headers()
    while True:
        exchange.wfile.write(b"x" * 10_000)


def whole(exchange: Exchange) -> None:
    exchange.start()
    exchange.write(b'{"choices": "')
    while True:
        exchange.write(b"x" * 10_000)


ENDLESS = (nested, many, lines, blanks, headers, one_header, error_body, whole)


def test_an_answer_without_end_is_refused() -> None:
    def answer(exchange: Exchange) -> None:
        ENDLESS[int(exchange.path.split("/")[1])](exchange)

    words = read_answers(answer, [f"{n}/chat" for n in range(len(ENDLESS))])
    assert len(words) == len(ENDLESS)
    assert all("http://127.0.0.1" in message for message in words)


def read_answers(answer: Callable[[Exchange], None], paths: list[str]) -> list[str]:
    """The output of a child with little memory that reads the answers of a server."""
    with serving(answer) as server:
        urls = [server.url.removesuffix("v1") + path for path in paths]
        child = subprocess.run(
            [sys.executable, "-c", CHILD.format(memory=MEMORY), *urls],
            capture_output=True,
            text=True,
            timeout=60,
        )
    assert child.returncode == 0, child.stderr
    *words, peak = child.stdout.splitlines()
    assert int(peak) < 300 << 10  # kB
    return words


def test_the_child_cannot_have_more_memory_than_that() -> None:
    greedy = CHILD.format(memory=MEMORY) + f"bytes({MEMORY + (64 << 20)})"
    child = subprocess.run([sys.executable, "-c", greedy], capture_output=True, text=True)
    assert "MemoryError" in child.stderr
