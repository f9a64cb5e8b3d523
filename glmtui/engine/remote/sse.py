"""Parses server-sent events, see https://html.spec.whatwg.org/multipage/server-sent-events.html.

Lines are split as bytes and decoded as a whole, so that the network may split characters and line
ends anywhere.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from glmtui.engine.remote.surrogates import decode_utf8

# Limits of one event, against broken servers. Real events are far smaller.
MAX_LINE_BYTES = 4 << 20
MAX_DATA_LINES = 10_000

# A "\r" at the very end may be the first half of "\r\n": wait for the next byte.
_LINE_END = re.compile(rb"\r\n|\n|\r(?=.)", re.DOTALL)


def parse_events(pieces: Iterable[bytes]) -> Iterator[tuple[str, str]]:
    """Yield (kind, data) of every event; kind is "data" or "error".

    Tolerated deviations from the standard:

    - An error is marked by the event's name, or by a field named "error" (old llama-server).
    - Comments, which keep a connection alive, may be sent as data. All comments are ignored.
    - A JSON object on a line without a field name is an event.
    - The last event may lack its blank line.

    Raises ValueError for a line or event over the limits.
    """
    kind, data, size, bare = "data", list[str](), 0, False  # bare: JSON without field names
    for line in _lines(pieces):
        if not line:
            if data or kind == "error":
                yield kind, "\n".join(data)
            kind, data, size, bare = "data", [], 0, False
            continue
        if line.startswith("{") and not bare:
            if data:
                yield kind, "\n".join(data)
            data, size, bare = [], 0, not line.rstrip().endswith("}")
            if not bare:  # the object ends on this line
                yield kind, line
                kind = "data"
                continue
        name, value = ("data", line) if bare else _field(line)
        if name == "event" and "error" in value.lower():
            kind = "error"
        if name not in ("data", "error") or (not data and value.lstrip().startswith(":")):
            continue
        kind = "error" if name == "error" else kind
        data.append(value)
        size += len(value)
        if size > MAX_LINE_BYTES or len(data) > MAX_DATA_LINES:
            raise ValueError("an event without an end")
    if data or kind == "error":
        yield kind, "\n".join(data)


def _field(line: str) -> tuple[str, str]:
    name, _, value = line.partition(":")
    return name, value.removeprefix(" ")


def _lines(pieces: Iterable[bytes]) -> Iterator[str]:
    line = bytearray()  # the incomplete line
    is_first = True
    for piece in pieces:
        if not piece:
            continue
        # Search only the new bytes and a "\r" before them: a line may come in many pieces.
        tail = line[-1:] if line[-1:] == b"\r" else b""
        first, *others = _LINE_END.split(bytes(tail) + piece)
        del line[len(line) - len(tail) :]
        line += first
        for other in others:
            yield _decode_line(line, is_first)
            is_first = False
            line = bytearray(other)
        if len(line) > MAX_LINE_BYTES:
            raise ValueError("a line without an end")
    if line:
        yield _decode_line(line.removesuffix(b"\r"), is_first)


def _decode_line(line: bytearray, is_first: bool) -> str:
    text = decode_utf8(bytes(line))
    return text.removeprefix("\ufeff") if is_first else text
