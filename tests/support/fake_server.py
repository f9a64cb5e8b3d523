"""A fake chat server: a function of the test answers each request.

`Exchange` has methods for correct answers and for failures, such as a reset or a silent connection.
"""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

MODELS = {"object": "list", "data": [{"id": "fake-glm", "object": "model", "owned_by": "fake"}]}


def delta(text: str = "", finish: str | None = None, **fields: str) -> dict[str, Any]:
    """A chunk of a streamed reply."""
    piece = {"content": text, **fields}
    return {"choices": [{"index": 0, "delta": piece, "finish_reason": finish}]}


class Exchange(BaseHTTPRequestHandler):
    """One request and its answer."""

    protocol_version = "HTTP/1.1"
    body: dict[str, Any]
    chunked = True

    def do_GET(self) -> None:
        self.body = {}
        self._answer()

    def do_POST(self) -> None:
        self.body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self._answer()

    def _answer(self) -> None:
        server = self.server
        assert isinstance(server, FakeServer)
        server.exchanges.append(self)
        # Many tests disconnect the client.
        with contextlib.suppress(ConnectionError):
            server.answer(self)

    # ---- whole answers

    def send(self, body: bytes, status: int = 200, kind: str = "", **headers: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind or "application/json")
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def json(self, data: Any, status: int = 200, **headers: str) -> None:
        self.send(json.dumps(data).encode(), status, **headers)

    def answer_model_list(self) -> bool:
        """Answer a request for the list of models; False for any other request."""
        if self.command == "GET":
            self.json(MODELS)
        return self.command == "GET"

    # ---- streamed answers

    def start(self, *, chunked: bool = True) -> None:
        """Begin a stream. If not `chunked`, the answer ends with the connection."""
        self.chunked = chunked
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header(
            *(("Transfer-Encoding", "chunked") if chunked else ("Connection", "close"))
        )
        self.end_headers()

    def write(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data) if self.chunked else data)

    def event(self, data: Any) -> None:
        self.write(b"data: " + json.dumps(data, ensure_ascii=False).encode() + b"\n\n")

    def end(self) -> None:
        """End the answer, without "[DONE]"."""
        if self.chunked:
            self.wfile.write(b"0\r\n\r\n")
        self.close_connection = True

    def reply(self, *texts: str, usage: dict[str, Any] | None = None) -> None:
        """Send a whole reply, with one event for each text."""
        self.start()
        for text in texts:
            self.event(delta(text))
        self.event(delta(finish="stop"))
        if usage:
            self.event({"choices": [], "usage": usage})
        self.write(b"data: [DONE]\n\n")
        self.end()

    # ---- failures

    def reset_connection(self) -> None:
        linger = struct.pack("ii", 1, 0)
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.connection.close()
        self.close_connection = True

    def wait_for_disconnect(self, seconds: float = 10.0) -> bool:
        """Send nothing until the client disconnects; False if it does not."""
        self.connection.settimeout(seconds)
        self.close_connection = True
        try:
            return not self.connection.recv(1)
        except ConnectionError:
            return True
        except TimeoutError:
            return False

    def log_message(self, *args: Any) -> None:
        pass


class FakeServer(ThreadingHTTPServer):
    """A server on a free port of this machine.

    Attributes:
        exchanges: all so far.
        url: the base URL of its API.
    """

    daemon_threads = True

    def __init__(self, answer: Callable[[Exchange], None]) -> None:
        super().__init__(("127.0.0.1", 0), Exchange)
        self.answer = answer
        self.exchanges: list[Exchange] = []
        self.url = f"http://127.0.0.1:{self.server_port}/v1"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Print nothing: the client's side of the test fails."""

    @property
    def questions(self) -> list[dict[str, Any]]:
        """The bodies of the POST requests, in order."""
        return [exchange.body for exchange in self.exchanges if exchange.command == "POST"]


@contextlib.contextmanager
def serving(answer: Callable[[Exchange], None]) -> Iterator[FakeServer]:
    """Run a fake server during the block."""
    server = FakeServer(answer)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
