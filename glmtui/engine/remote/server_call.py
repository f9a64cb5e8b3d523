"""Sends a question to a server and, if it is refused, sends it again in a form the server accepts.

A conversation that is too long loses its older half; a field that the server does not know is
renamed or dropped. Blocks; `server_reply` has the thread.
"""

from __future__ import annotations

import contextlib
import json
import logging
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from glmtui.chat import FinishReason, Message, SamplingParams
from glmtui.chat.turns import strict_turns, without_thoughts
from glmtui.engine.remote.answer_reader import AnswerReader
from glmtui.engine.remote.chat_completions import (
    Chunk,
    drop_older_half,
    is_continuation,
    prepare_messages,
    request_body,
)
from glmtui.engine.remote.endpoint import Endpoint
from glmtui.engine.remote.field_adjustments import (
    SETTING_OF_FIELD,
    FieldAdjustments,
    is_about_value,
    mentioned_fields,
)
from glmtui.engine.remote.server_errors import (
    ErrorContext,
    RequestRefused,
    answer_too_long_error,
    connection_error,
    error_in_reply,
    status_error,
)
from glmtui.errors import ServerError
from glmtui.language import _

if TYPE_CHECKING:
    import httpx

    from glmtui.net.http_client import AbortHandle

MAX_ANSWER_BYTES = 1 << 30  # against a server that never stops
MAX_ERROR_BYTES = 1 << 16  # of an error's body; the rest is ignored
ERROR_SECONDS = 10.0  # for an error's body; what arrived until then is used
READ_TIMEOUT_SECONDS = 600.0  # a long prompt on a busy server takes minutes
MAX_RETRIES = 24

_log = logging.getLogger(__name__)


class ServerCall:
    """A question and its answer.

    Args:
        messages: the conversation; if the last message is the assistant's, it is continued.
        extra: fields that not every server knows.
        adjustments: those known for this server; new ones are added.

    Attributes:
        dropped_messages: how many of the oldest messages were left out so far.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        context: ErrorContext,
        messages: Sequence[Message],
        params: SamplingParams,
        extra: Mapping[str, Any],
        adjustments: FieldAdjustments,
    ) -> None:
        self.dropped_messages = 0
        self._endpoint = endpoint
        self._context = context
        self._messages = tuple(messages)
        self._strict = False  # the server refuses a system role, and a reply as the first message
        self._params = params
        self._extra = extra
        self._shared_adjustments = adjustments
        self._adjustments = adjustments.copy()  # shared only when a request with them succeeds
        self._retries = 0
        self._is_continuation = is_continuation(prepare_messages(messages))
        self._has_only_reasoning = _has_only_reasoning(messages)
        self._reader = AnswerReader(context)
        self._aborted = threading.Event()
        self._abort_handle: AbortHandle | None = None
        self._last_data = 0.0  # time.monotonic() of the last bytes from the server

    def chunks(self) -> Iterator[Chunk]:
        """Send the request and yield the answer as it arrives.

        Raises ServerError, also when aborted, and for a reply to continue that has only reasoning.
        """
        if self._has_only_reasoning:
            raise ServerError(
                _("Cannot continue on a server: the reply was stopped during its reasoning."),
                _("Regenerate the reply instead."),
            )
        while True:
            started = False
            try:
                for chunk in self._send():
                    if not started:
                        started = True
                        self._share_adjustments()
                    yield chunk
                return
            except RequestRefused as refusal:
                if started or self._aborted.is_set():
                    raise
                self._adapt_request(refusal)

    def abort(self) -> None:
        """End the call whatever it is doing. Thread-safe and idempotent."""
        self._aborted.set()
        if self._abort_handle is not None:
            self._abort_handle.abort()

    def reply_error(
        self, finish: FinishReason | None, word: str, *, empty: bool
    ) -> ServerError | None:
        """The error of a reply that has ended; None if it is valid.

        Args:
            finish, word: the finish reason and the server's name for it.
            empty: the reply has no text.
        """
        if finish == "error":
            return error_in_reply(self._context, 0, f"finish reason “{word}”")
        if empty and not self._is_continuation:
            return self._reader.empty_reply_error(finish)
        return None

    # ---- adapting the request

    def _adapt_request(self, refusal: RequestRefused) -> None:
        """Change the next request so that the server may accept it. Raises if it cannot."""
        self._retries += 1
        if self._retries > MAX_RETRIES:
            raise refusal
        body, messages = self._body(), prepare_messages(self._messages)
        if refusal.too_long:
            fewer = drop_older_half(self._messages)
            if fewer is None:
                raise refusal
            self.dropped_messages += len(self._messages) - len(fewer)
            self._messages = fewer
        elif self._adjustments.adjust(body, refusal.words):
            pass
        elif refusal.about_turns and not self._strict and strict_turns(messages) != messages:
            self._strict = True
        elif refusal.bad_request and (fields := self._droppable_fields(body, refusal.words)):
            self._adjustments.dropped |= fields
        elif refusal.about_continuation and is_continuation(self._messages):
            raise ServerError(
                _("{server} cannot continue a reply: {words}").format(
                    server=self._context.address, words=self._context.quote(refusal.words)
                ),
                _("Regenerate the reply instead."),
            ) from refusal
        else:
            raise self._with_settings_hint(refusal, body)

    def _droppable_fields(self, body: Mapping[str, Any], words: str) -> frozenset[str]:
        """The extra fields that an error text names without a reason; all if it names none."""
        if is_about_value(words) and mentioned_fields(words, SETTING_OF_FIELD):
            return frozenset()
        extra = [name for name in self._extra if name in body]
        return frozenset(mentioned_fields(words, extra) or extra)

    def _with_settings_hint(
        self, refusal: RequestRefused, body: Mapping[str, Any]
    ) -> RequestRefused:
        """The refusal, with the settings that its text is about in the hint."""
        fields = mentioned_fields(refusal.words, SETTING_OF_FIELD)
        sent = {SETTING_OF_FIELD[name] for name in body if name in SETTING_OF_FIELD}
        settings = dict.fromkeys(SETTING_OF_FIELD[name] for name in fields)
        names = [name for name in settings if name in refusal.words or name in sent]
        if not (refusal.bad_request and names):
            return refusal
        hint = _("Change or unset this setting: {names}").format(names=", ".join(names))
        return RequestRefused(refusal.message, hint, refusal.status, refusal.words)

    def _share_adjustments(self) -> None:
        """Use the adjustments for later requests, too: the server has accepted this one."""
        new, shared = self._adjustments, self._shared_adjustments
        if new.dropped != shared.dropped or new.renamed != shared.renamed:
            dropped = sorted(new.dropped - shared.dropped)
            message = "%s: dropped fields %s, renamed fields %s"
            _log.warning(message, self._context.address, dropped, dict(new.renamed))
        shared.merge(new)

    def _body(self) -> dict[str, Any]:
        messages = prepare_messages(self._messages)
        messages = strict_turns(messages) if self._strict else messages
        body = request_body(self._context.model, messages, self._params)
        return self._adjustments.apply(body | dict(self._extra))

    # ---- one request

    def _send(self) -> Iterator[Chunk]:
        import httpx

        from glmtui.net.http_client import AbortHandle

        self._reader = AnswerReader(self._context)
        self._abort_handle = abort_handle = AbortHandle()
        if self._aborted.is_set():
            abort_handle.abort()
        started = False
        self._last_data = time.monotonic()
        try:
            with (
                self._endpoint.open_client(READ_TIMEOUT_SECONDS, abort_handle) as client,
                client.stream(
                    "POST",
                    self._endpoint.url("/chat/completions"),
                    content=json.dumps(self._body()),
                ) as response,
            ):
                if not response.is_success:  # some servers answer 201
                    body = _read_error_body(response, abort_handle)
                    raise status_error(self._context, response.status_code, response.headers, body)
                for chunk in self._reader.chunks(self._pieces(response)):
                    started = started or bool(chunk.text or chunk.reasoning)
                    yield chunk
        except httpx.HTTPError as error:
            seconds = time.monotonic() - self._last_data
            raise connection_error(
                self._context, error, seconds=seconds, reply_started=started
            ) from error

    def _pieces(self, response: httpx.Response) -> Iterator[bytes]:
        """The body as it arrives, within `MAX_ANSWER_BYTES`."""
        import httpx

        size = 0
        for piece in response.iter_raw():
            if self._aborted.is_set():  # buffered data may still arrive after an abort
                raise httpx.ReadError("the call was aborted")
            self._last_data = time.monotonic()
            size += len(piece)
            if size > MAX_ANSWER_BYTES:
                raise answer_too_long_error(self._context, MAX_ANSWER_BYTES)
            yield piece


def _has_only_reasoning(messages: Sequence[Message]) -> bool:
    """Whether the reply to continue has reasoning and no answer."""
    text = messages[-1].content if is_continuation(messages) else ""
    return bool(text.strip()) and not without_thoughts(text).strip()


def _read_error_body(response: httpx.Response, abort_handle: AbortHandle) -> bytes:
    """The part of an error's body that arrives within limits of bytes and time."""
    import httpx

    from glmtui.net.http_client import abort_when

    body = bytearray()
    with (
        contextlib.suppress(httpx.HTTPError),
        abort_when(abort_handle, seconds=ERROR_SECONDS),
    ):
        for piece in response.iter_raw():
            body += piece
            if len(body) >= MAX_ERROR_BYTES:
                break
    return bytes(body[:MAX_ERROR_BYTES])
