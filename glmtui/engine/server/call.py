"""One question put to a server: sent, sent again as the server can take it, its answer read.

Knows HTTP and when to give way: a conversation that is too long loses its older half, a field
that the server does not know is left out. Blocks; threads are `server_reply`'s.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import socket
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from glmtui.chat import Message, SamplingParams
from glmtui.engine.server import sse
from glmtui.engine.server.chat_completions import (
    Chunk,
    ListedModel,
    continues,
    error_in,
    parse_chunk,
    parse_models,
    request_body,
    shortened,
)
from glmtui.engine.server.endpoint import Endpoint
from glmtui.engine.server.refusals import (
    LOG_HINT,
    Blame,
    Refused,
    broken_off,
    failed_inside,
    not_a_reply,
    refused,
    unreachable,
)
from glmtui.errors import ServerError
from glmtui.language import _

if TYPE_CHECKING:
    import httpx

MAX_ERROR_BYTES = 1 << 16
MAX_WHOLE_BYTES = 64 << 20
MAX_LIST_BYTES = 4 << 20
LIST_SECONDS = 30.0
SILENCE_SECONDS = 600.0  # a long prompt on a busy server is answered late

_log = logging.getLogger(__name__)


class Call:
    """A question and its answer.

    Args:
        extra: fields that not every server knows.
        unknown: names of fields this server is known not to know; those it turns out to refuse
            are added.

    Attributes:
        dropped: how many of the oldest messages were left out so far.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        blame: Blame,
        messages: Sequence[Message],
        params: SamplingParams,
        extra: Mapping[str, Any],
        unknown: set[str],
    ) -> None:
        self.dropped = 0
        self._endpoint = endpoint
        self._blame = blame
        self._messages = tuple(messages)
        self._params = params
        self._extra = {name: value for name, value in extra.items() if name not in unknown}
        self._unknown = unknown
        self._refused: set[str] = set()
        self._hung_up = threading.Event()
        self._socket: socket.socket | None = None
        self._heard = 0.0

    def chunks(self) -> Iterator[Chunk]:
        """The answer as it comes. Raises ServerError, also for what `hang_up` cut short."""
        while True:
            begun = False
            try:
                for chunk in self._ask():
                    if not begun:
                        begun = True
                        self._learn()
                    yield chunk
                return
            except Refused as refusal:
                if begun or self._hung_up.is_set():
                    raise
                self._give_way(refusal)

    def hang_up(self) -> None:
        """Ends the call in whatever it is doing. From any thread, any number of times."""
        self._hung_up.set()
        if self._socket is not None:
            # Not the method of an SSLSocket, which is not made for a second thread.
            with contextlib.suppress(OSError):
                socket.socket.shutdown(self._socket, socket.SHUT_RDWR)

    # ---- giving way

    def _give_way(self, refusal: Refused) -> None:
        """Makes the next request one that the server may take; raises where there is none."""
        if refusal.too_long:
            fewer = shortened(self._messages)
            if fewer is None:
                raise refusal
            self.dropped += len(self._messages) - len(fewer)
            self._messages = fewer
        elif refusal.bad_request and self._extra:
            named = {name for name in self._extra if name in refusal.words}
            self._refused |= named or self._extra.keys()
            self._extra = {k: v for k, v in self._extra.items() if k not in self._refused}
        elif refusal.about_continuing and continues(self._messages):
            raise ServerError(
                _("{server} will not go on with a reply that was cut short: {words}").format(
                    server=self._blame.address, words=self._blame.quote(refusal.words)
                ),
                _("Ask for the whole reply anew instead."),
            ) from refusal
        else:
            raise refusal

    def _learn(self) -> None:
        """The request was taken: what had to be left out for it need not be tried again."""
        if self._refused:
            _log.warning("%s does not take %s", self._blame.address, sorted(self._refused))
        self._unknown |= self._refused

    # ---- one request

    def _ask(self) -> Iterator[Chunk]:
        import httpx

        body = request_body(self._blame.model, self._messages, self._params) | self._extra
        begun = False
        self._heard = time.monotonic()
        try:
            with (
                self._endpoint.client(SILENCE_SECONDS) as client,
                client.stream(
                    "POST",
                    self._endpoint.url("/chat/completions"),
                    content=json.dumps(body),
                    extensions={"trace": self._on_trace},
                ) as response,
            ):
                if response.status_code != 200:
                    raise refused(
                        self._blame,
                        response.status_code,
                        response.headers,
                        _at_most(response.iter_bytes(), MAX_ERROR_BYTES),
                    )
                for chunk in self._read(self._listen(response)):
                    begun = begun or bool(chunk.text or chunk.reasoning)
                    yield chunk
        except httpx.HTTPError as error:
            waited = time.monotonic() - self._heard
            raise unreachable(self._blame, error, seconds=waited, begun=begun) from error

    def _on_trace(self, event: str, info: dict[str, Any]) -> None:
        # How httpx tells which socket it is on; known early, it can be let go of at any time.
        if event.endswith(("connect_tcp.complete", "start_tls.complete")):
            self._socket = info["return_value"].get_extra_info("socket")
            if self._hung_up.is_set():
                self.hang_up()

    def _listen(self, response: httpx.Response) -> Iterator[bytes]:
        for piece in response.iter_bytes():
            self._heard = time.monotonic()
            yield piece

    def _read(self, pieces: Iterator[bytes]) -> Iterator[Chunk]:
        # Told by how it begins: some servers stream, and some answer at once whatever is asked,
        # under any content type.
        head = b""
        while not head.strip(b"\xef\xbb\xbf \t\r\n") and (piece := next(pieces, b"")):
            head += piece
        pieces = itertools.chain([head], pieces)
        if head.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] in (b"{", b"[", b"<"):
            yield self._whole(_at_most(pieces, MAX_WHOLE_BYTES))
        else:
            yield from self._streamed(pieces)

    def _whole(self, body: bytes) -> Chunk:
        text = body.decode("utf-8-sig", "replace")
        data = self._parsed(text)
        if not data.get("choices"):
            raise not_a_reply(self._blame, text)
        chunk = parse_chunk(data)
        # One piece, but not one token: where the server does not count, nobody does.
        return replace(
            chunk, finish=chunk.finish or "stop", generated_tokens=chunk.generated_tokens or 0
        )

    def _streamed(self, pieces: Iterable[bytes]) -> Iterator[Chunk]:
        begun = finished = False
        try:
            for field, text in sse.events(pieces):
                if text.strip() == "[DONE]":
                    if not finished:
                        yield Chunk(finish="stop")
                    return
                data = self._parsed(text, is_error=field == "error")
                if not data and begun:
                    break  # cut in the middle of its JSON
                if not data:
                    raise not_a_reply(self._blame, text)
                chunk = parse_chunk(data)
                if chunk.finish == "error":
                    yield replace(chunk, finish=None)
                    words = f"it ended the reply with “{chunk.finish_word}”"
                    raise failed_inside(self._blame, 0, words)
                begun = begun or bool(chunk.text or chunk.reasoning)
                finished = finished or chunk.finish is not None
                yield chunk
        except ValueError as error:
            raise ServerError(
                _("{server} sent {error}.").format(server=self._blame.address, error=error),
                _(LOG_HINT),
            ) from error
        if not finished:
            raise broken_off(self._blame, begun=begun)

    def _parsed(self, text: str, *, is_error: bool = False) -> dict[str, Any]:
        """The JSON object in `text`; empty if there is none. Raises what error it tells of."""
        try:
            data = json.loads(text)
        except (ValueError, RecursionError):
            data = None
        if is_error:
            data = {"error": data or text}
        failure = error_in(data)
        if failure is not None:
            raise failed_inside(self._blame, *failure)
        return data if isinstance(data, dict) else {}


def list_models(endpoint: Endpoint, *, model: str = "") -> tuple[ListedModel, ...]:
    """What the server says it has; nothing if it keeps no list and `model` says what to use.

    Raises ServerError.
    """
    import httpx

    blame = Blame(endpoint.shown, key=endpoint.key)
    started = time.monotonic()
    try:
        with (
            endpoint.client(LIST_SECONDS) as client,
            client.stream("GET", endpoint.url("/models")) as response,
        ):
            status, headers = response.status_code, response.headers
            body = _at_most(response.iter_bytes(), MAX_LIST_BYTES)
    except httpx.HTTPError as error:
        waited = time.monotonic() - started
        raise unreachable(blame, error, seconds=waited, begun=False) from error
    if status in (404, 405) and model:
        return ()
    if status != 200:
        raise refused(blame, status, headers, body)
    text = body.decode("utf-8-sig", "replace")
    try:
        return parse_models(json.loads(text))
    except (ValueError, RecursionError) as error:
        raise not_a_reply(blame, text) from error


def _at_most(pieces: Iterable[bytes], limit: int) -> bytes:
    whole = bytearray()
    for piece in pieces:
        whole += piece
        if len(whole) >= limit:
            break
    return bytes(whole[:limit])
