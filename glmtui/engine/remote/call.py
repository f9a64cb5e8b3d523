"""One question put to a server: sent, sent again as the server can take it, its answer read.

Knows HTTP and when to give way: a conversation that is too long loses its older half, a field
that the server does not know is left out. Blocks; threads are `server_reply`'s.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from glmtui.chat import FinishReason, Message, SamplingParams
from glmtui.chat.reasoning import strip_reasoning
from glmtui.chat.turns import merge_turns_without_system
from glmtui.engine.remote import sse
from glmtui.engine.remote.answer import Answer
from glmtui.engine.remote.chat_completions import (
    Chunk,
    continues,
    error_in,
    prepared,
    refusal_text,
    request_body,
    shortened,
)
from glmtui.engine.remote.endpoint import Endpoint
from glmtui.engine.remote.json_text import parse_json
from glmtui.engine.remote.refusals import (
    LOG_HINT,
    ErrorContext,
    Refused,
    broken_off,
    failed_inside,
    not_a_reply,
    nothing_shown,
    refused,
    too_long_an_answer,
    unreachable,
)
from glmtui.engine.remote.request_fields import SETTINGS, RequestFields, about_a_value, mentioned
from glmtui.engine.remote.text_pieces import decode, whole_characters
from glmtui.errors import ServerError
from glmtui.language import _

if TYPE_CHECKING:
    import httpx

    from glmtui.net.http_client import Line

# What a sound answer stays far below, in bytes. A reply's text has a limit of its own (`reply`).
MAX_ERROR_BYTES = 1 << 16
MAX_WHOLE_BYTES = 8 << 20
MAX_STREAM_BYTES = 1 << 30
MAX_BLANK_BYTES = 1 << 16  # before the first word; some servers send blanks while one waits
MAX_IDLE_EVENTS = 200_000  # in a row that say nothing; a prompt that is read is a few hundred
ERROR_SECONDS = 10.0  # for the words of an error; those that came by then will do
SILENCE_SECONDS = 600.0  # a long prompt on a busy server is answered late
MAX_TRIES = 24

_BLANKS = b"\xef\xbb\xbf \t\r\n"
_log = logging.getLogger(__name__)


class ServerCall:
    """A question and its answer.

    Args:
        extra: fields that not every server knows.
        known: which fields this server takes; what it turns out to refuse is added.

    Attributes:
        dropped: how many of the oldest messages were left out so far.

    Raises ServerError where a reply is to be continued that was cut short in its thoughts.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        blame: ErrorContext,
        messages: Sequence[Message],
        params: SamplingParams,
        extra: Mapping[str, Any],
        known: RequestFields,
    ) -> None:
        self.dropped = 0
        self._endpoint = endpoint
        self._blame = blame
        self._messages = tuple(messages)
        self._strict = False  # the server takes neither a system role nor a reply at the beginning
        self._params = params
        self._extra = extra
        self._known = known
        self._fields = known.copy()
        self._tries = 0
        self._continues = continues(prepared(messages))
        self._open_thoughts = _only_thoughts(messages)
        self._answer = Answer()
        self._hung_up = threading.Event()
        self._line: Line | None = None
        self._heard = 0.0

    def chunks(self) -> Iterator[Chunk]:
        """The answer as it comes. Raises ServerError, also for what `hang_up` cut short."""
        if self._open_thoughts:
            raise ServerError(
                _("The reply was cut short in its thoughts: a server cannot go on from there."),
                _("Ask for the whole reply anew instead."),
            )
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
        if self._line is not None:
            self._line.hang_up()

    def problem(self, finish: FinishReason | None, word: str, *, empty: bool) -> ServerError | None:
        """Why a reply that came to its end is none, if so.

        Args:
            finish, word: why it ended, and the server's word for that.
            empty: it has nothing to show.
        """
        if finish == "error":
            return failed_inside(self._blame, 0, f"it ended the reply with “{word}”")
        if empty and not self._continues:
            answer = self._answer
            return nothing_shown(self._blame, answer.tools, sorted(answer.others), finish)
        return None

    # ---- giving way

    def _give_way(self, refusal: Refused) -> None:
        """Makes the next request one that the server may take; raises where there is none."""
        self._tries += 1
        if self._tries > MAX_TRIES:
            raise refusal
        body, turns = self._body(), prepared(self._messages)
        if refusal.too_long:
            fewer = shortened(self._messages)
            if fewer is None:
                raise refusal
            self.dropped += len(self._messages) - len(fewer)
            self._messages = fewer
        elif self._fields.adjust(body, refusal.words):
            pass
        elif (
            refusal.about_turns and not self._strict and merge_turns_without_system(turns) != turns
        ):
            self._strict = True
        elif refusal.bad_request and (unneeded := self._unneeded(body, refusal.words)):
            self._fields.dropped |= unneeded
        elif refusal.about_continuing and continues(self._messages):
            raise ServerError(
                _("{server} will not go on with a reply that was cut short: {words}").format(
                    server=self._blame.address, words=self._blame.quote(refusal.words)
                ),
                _("Ask for the whole reply anew instead."),
            ) from refusal
        else:
            raise self._hinting(refusal, body)

    def _unneeded(self, body: Mapping[str, Any], words: str) -> frozenset[str]:
        """The fields to leave out where a server names none, or names one with no reason."""
        if about_a_value(words) and mentioned(words, SETTINGS):
            return frozenset()
        extra = [name for name in self._extra if name in body]
        return frozenset(mentioned(words, extra) or extra)

    def _hinting(self, refusal: Refused, body: Mapping[str, Any]) -> Refused:
        """The refusal with the settings in its hint whose fields its words name."""
        settings = dict.fromkeys(SETTINGS[name] for name in mentioned(refusal.words, SETTINGS))
        named = [name for name in settings if name in refusal.words or name in self._sent(body)]
        if not (refusal.bad_request and named):
            return refusal
        hint = _("Change or unset this setting: {names}").format(names=", ".join(named))
        return Refused(refusal.message, hint, refusal.status, refusal.words)

    def _sent(self, body: Mapping[str, Any]) -> set[str]:
        return {SETTINGS[name] for name in body if name in SETTINGS}

    def _learn(self) -> None:
        """The request was taken: what had to be changed for it is known from now on."""
        fields, known = self._fields, self._known
        if fields.dropped != known.dropped or fields.renamed != known.renamed:
            gone, named = sorted(fields.dropped - known.dropped), dict(fields.renamed)
            _log.warning("%s does not take %s; names: %s", self._blame.address, gone, named)
        known.learn(fields)

    def _body(self) -> dict[str, Any]:
        turns = prepared(self._messages)
        turns = merge_turns_without_system(turns) if self._strict else turns
        body = request_body(self._blame.model, turns, self._params)
        return self._fields.apply(body | dict(self._extra))

    # ---- one request

    def _ask(self) -> Iterator[Chunk]:
        import httpx

        from glmtui.net.http_client import Line

        self._answer = Answer()
        self._line = line = Line()
        if self._hung_up.is_set():
            line.hang_up()
        begun = False
        self._heard = time.monotonic()
        try:
            with (
                self._endpoint.client(SILENCE_SECONDS, line) as client,
                client.stream(
                    "POST",
                    self._endpoint.url("/chat/completions"),
                    content=json.dumps(self._body()),
                ) as response,
            ):
                if not response.is_success:  # some servers answer 201
                    raise refused(
                        self._blame,
                        response.status_code,
                        response.headers,
                        _words_of(response, line),
                    )
                for chunk in self._read(self._listen(response)):
                    begun = begun or bool(chunk.text or chunk.reasoning)
                    yield chunk
        except httpx.HTTPError as error:
            waited = time.monotonic() - self._heard
            raise unreachable(self._blame, error, seconds=waited, begun=begun) from error

    def _listen(self, response: httpx.Response) -> Iterator[bytes]:
        import httpx

        size = 0
        for piece in response.iter_raw():
            if self._hung_up.is_set():  # a server that writes without a pause is still heard
                raise httpx.ReadError("the call was ended")
            self._heard = time.monotonic()
            size += len(piece)
            if size > MAX_STREAM_BYTES:
                raise too_long_an_answer(self._blame, MAX_STREAM_BYTES)
            yield piece

    def _read(self, pieces: Iterator[bytes]) -> Iterator[Chunk]:
        # Told by how it begins: some servers stream, and some answer at once whatever is asked,
        # under any content type.
        head = bytearray()
        for piece in pieces:
            head += piece
            if piece.strip(_BLANKS):
                break
            if len(head) > MAX_BLANK_BYTES:
                raise not_a_reply(self._blame, "")
        begin = bytes(head).lstrip(_BLANKS)
        pieces = itertools.chain([begin], pieces)
        if begin[:1] in (b"{", b"[", b"<"):
            yield from self._whole(pieces)
        else:
            yield from self._streamed(pieces)

    def _whole(self, pieces: Iterable[bytes]) -> Iterator[Chunk]:
        body = bytearray()
        for piece in pieces:
            body += piece
            if len(body) > MAX_WHOLE_BYTES:
                raise too_long_an_answer(self._blame, MAX_WHOLE_BYTES)
        text = decode(bytes(body))
        if body.startswith(b"{") and b"\n{" in body.strip() and parse_json(text) is None:
            yield from self._streamed([bytes(body)])  # an object on each line
            return
        data = self._parsed(text)
        if not data.get("choices") and not isinstance(data.get("message"), dict):
            raise not_a_reply(self._blame, whole_characters(text))
        chunk, rest = self._answer.read(data), self._answer.end()
        # One piece, but not one token: where the server does not count, nobody does.
        yield replace(
            chunk,
            text=chunk.text + rest.text,
            reasoning=chunk.reasoning + rest.reasoning,
            finish=chunk.finish or "stop",
            generated_tokens=chunk.generated_tokens or 0,
        )

    def _streamed(self, pieces: Iterable[bytes]) -> Iterator[Chunk]:
        begun = finished = False
        idle = 0
        try:
            for kind, text in sse.events(pieces):
                if kind != "error" and not text.strip():
                    continue
                if text.strip() == "[DONE]":
                    yield self._answer.end()
                    if not finished:
                        yield Chunk(finish="stop")
                    return
                data = self._parsed(text, is_error=kind == "error")
                if not data and begun and text.lstrip().startswith(("{", "[")):
                    break  # cut in the middle of its JSON
                if not data and begun:
                    raise failed_inside(self._blame, 0, whole_characters(text))
                if not data:
                    raise not_a_reply(self._blame, whole_characters(text))
                chunk = self._answer.read(data)
                said = bool(chunk.text or chunk.reasoning)
                idle = 0 if said else idle + 1
                if idle > MAX_IDLE_EVENTS:
                    raise ValueError(f"{idle:,} events in a row without a word")
                begun = begun or said
                finished = finished or chunk.finish is not None
                yield chunk
        except ValueError as error:
            raise ServerError(
                _("{server} sent {error}.").format(server=self._blame.address, error=error),
                _(LOG_HINT),
            ) from error
        if not finished:
            raise broken_off(self._blame, begun=begun)
        yield self._answer.end()

    def _parsed(self, text: str, *, is_error: bool = False) -> dict[str, Any]:
        """The JSON object in `text`; empty if there is none. Raises what error it tells of."""
        data = parse_json(text.removeprefix("\ufeff"))
        if is_error and not refusal_text(data):
            data = {"error": text.strip() or "?"}
        elif is_error and error_in(data) is None:
            data = {"error": data}
        failure = error_in(data)
        if failure is not None:
            raise failed_inside(self._blame, *failure)
        return data if isinstance(data, dict) else {}


def _only_thoughts(messages: Sequence[Message]) -> bool:
    """Whether the reply to be continued has thoughts and no answer."""
    said = messages[-1].content if continues(messages) else ""
    return bool(said.strip()) and not strip_reasoning(said).strip()


def _words_of(response: httpx.Response, line: Line) -> bytes:
    """The beginning of an error's body: what comes of it within a bound of bytes and time."""
    import httpx

    from glmtui.net.http_client import ending

    body = bytearray()
    with contextlib.suppress(httpx.HTTPError), ending(line, seconds=ERROR_SECONDS):
        for piece in response.iter_raw():
            body += piece
            if len(body) >= MAX_ERROR_BYTES:
                break
    return bytes(body[:MAX_ERROR_BYTES])
