"""Server-sent events: bytes off the wire to the data of each event.

Knows the line format (https://html.spec.whatwg.org/multipage/server-sent-events.html) and
nothing of what the data mean. Lines are cut as bytes and decoded whole, so a character or a
line end may be split anywhere.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from glmtui.engine.remote.text_pieces import decode

MAX_LINE_BYTES = 4 << 20  # no event of a chat is near it; a server gone wrong may be
MAX_DATA_LINES = 10_000  # of one event

# A "\r" at the very end may be half of a "\r\n": it waits for the next byte.
_LINE_END = re.compile(rb"\r\n|\n|\r(?=.)", re.DOTALL)


def events(pieces: Iterable[bytes]) -> Iterator[tuple[str, str]]:
    """The (kind, data) of every event; kind is "data", or "error" where the event says so.

    An error is told by the event's name, or by a field of that name as in old llama-servers.
    Several data lines of one event are joined by newlines; comments (servers send them to keep a
    connection alive, some of them as data) and other fields are dropped. A JSON object on a line
    without any field is an event too, as some servers tell their errors. What an unfinished last
    event holds is given too, for some servers forget the empty line. Bytes that are no UTF-8 are as
    `decode` says.

    Raises ValueError for an endless line or event.
    """
    kind, data, size, bare = "data", list[str](), 0, False
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
            if not bare:  # it is whole
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
    rest = bytearray()  # the line that has begun
    start = True
    for piece in pieces:
        if not piece:
            continue
        # Only what is new is searched, and the "\r" before it: a line may come in many pieces.
        tail = rest[-1:] if rest[-1:] == b"\r" else b""
        first, *others = _LINE_END.split(bytes(tail) + piece)
        del rest[len(rest) - len(tail) :]
        rest += first
        for later in others:
            yield _text(rest, start)
            start = False
            rest = bytearray(later)
        if len(rest) > MAX_LINE_BYTES:
            raise ValueError("a line without an end")
    if rest:
        yield _text(rest.removesuffix(b"\r"), start)


def _text(line: bytearray, start: bool) -> str:
    text = decode(bytes(line))
    return text.removeprefix("\ufeff") if start else text
