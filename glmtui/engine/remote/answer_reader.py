"""Reads the body of a successful answer: an event stream, or one JSON object.

Servers answer in either way whatever the request and the content type say, so that the first
character decides.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

from glmtui.chat import FinishReason
from glmtui.engine.remote import sse
from glmtui.engine.remote.chat_completions import Chunk, error_text, find_error
from glmtui.engine.remote.json_text import parse_json
from glmtui.engine.remote.reply_parser import ReplyParser
from glmtui.engine.remote.server_errors import (
    LOG_HINT,
    ErrorContext,
    answer_too_long_error,
    disconnected_error,
    empty_reply_error,
    error_in_reply,
    not_a_chat_server_error,
)
from glmtui.engine.remote.surrogates import decode_utf8, repair_surrogates
from glmtui.errors import ServerError
from glmtui.language import _

# Limits against broken servers. The text of a reply has a limit of its own in `server_reply`.
MAX_OBJECT_BYTES = 8 << 20
MAX_BLANK_BYTES = 1 << 16  # before the first character: some servers send blanks while one waits
MAX_IDLE_EVENTS = 200_000  # in a row without text; the prefill of a long prompt sends some hundred

_BLANKS = b"\xef\xbb\xbf \t\r\n"


class AnswerReader:
    """Parses the body of one answer. Raises ServerError for errors in it."""

    def __init__(self, context: ErrorContext) -> None:
        self._context = context
        self._parser = ReplyParser()

    def chunks(self, pieces: Iterator[bytes]) -> Iterator[Chunk]:
        """Parse the body, in pieces as they arrive."""
        head = bytearray()
        for piece in pieces:
            head += piece
            if piece.strip(_BLANKS):
                break
            if len(head) > MAX_BLANK_BYTES:
                raise not_a_chat_server_error(self._context, "")
        start = bytes(head).lstrip(_BLANKS)
        pieces = itertools.chain([start], pieces)
        if start[:1] in (b"{", b"[", b"<"):
            yield from self._read_object(pieces)
        else:
            yield from self._read_events(pieces)

    def empty_reply_error(self, finish: FinishReason | None) -> ServerError:
        """The error for a complete answer without text."""
        parser = self._parser
        return empty_reply_error(
            self._context, parser.tool_calls, sorted(parser.other_types), finish
        )

    def _read_object(self, pieces: Iterable[bytes]) -> Iterator[Chunk]:
        body = bytearray()
        for piece in pieces:
            body += piece
            if len(body) > MAX_OBJECT_BYTES:
                raise answer_too_long_error(self._context, MAX_OBJECT_BYTES)
        text = decode_utf8(bytes(body))
        if body.startswith(b"{") and b"\n{" in body.strip() and parse_json(text) is None:
            yield from self._read_events([bytes(body)])  # an object on each line
            return
        data = self._parse_object(text)
        if not data.get("choices") and not isinstance(data.get("message"), dict):
            raise not_a_chat_server_error(self._context, repair_surrogates(text))
        chunk, rest = self._parser.feed(data), self._parser.flush()
        yield replace(
            chunk,
            text=chunk.text + rest.text,
            reasoning=chunk.reasoning + rest.reasoning,
            finish=chunk.finish or "stop",
            generated_tokens=chunk.generated_tokens or 0,  # this chunk is not one token
        )

    def _read_events(self, pieces: Iterable[bytes]) -> Iterator[Chunk]:
        context = self._context
        started = finished = False
        idle_events = 0
        try:
            for kind, text in sse.parse_events(pieces):
                if kind != "error" and not text.strip():
                    continue
                if text.strip() == "[DONE]":
                    yield self._parser.flush()
                    if not finished:
                        yield Chunk(finish="stop")
                    return
                data = self._parse_object(text, is_error=kind == "error")
                if not data and started and text.lstrip().startswith(("{", "[")):
                    break  # cut off within the JSON
                if not data and started:
                    raise error_in_reply(context, 0, repair_surrogates(text))
                if not data:
                    raise not_a_chat_server_error(context, repair_surrogates(text))
                chunk = self._parser.feed(data)
                has_text = bool(chunk.text or chunk.reasoning)
                idle_events = 0 if has_text else idle_events + 1
                if idle_events > MAX_IDLE_EVENTS:
                    raise ValueError(f"{idle_events:,} events in a row without text")
                started = started or has_text
                finished = finished or chunk.finish is not None
                yield chunk
        except ValueError as error:
            raise ServerError(
                _("{server} sent an invalid answer: {error}.").format(
                    server=context.address, error=error
                ),
                _(LOG_HINT),
            ) from error
        if not finished:
            raise disconnected_error(context, reply_started=started)
        yield self._parser.flush()

    def _parse_object(self, text: str, *, is_error: bool = False) -> dict[str, Any]:
        """The JSON object in `text`; empty if it is anything else. Raises an error it contains."""
        data = parse_json(text.removeprefix("\ufeff"))
        if is_error and not error_text(data):
            data = {"error": text.strip() or "?"}
        elif is_error and find_error(data) is None:
            data = {"error": data}
        error = find_error(data)
        if error is not None:
            raise error_in_reply(self._context, *error)
        return data if isinstance(data, dict) else {}
