"""Server-sent events: bytes off the wire to the data of each event.

Knows the line format (https://html.spec.whatwg.org/multipage/server-sent-events.html) and
nothing of what the data mean. Lines are cut as bytes and decoded whole, so a character or a
line end may be split anywhere.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

MAX_LINE_BYTES = 16 << 20  # no event of a chat is near it; a server gone wrong may be

# A "\r" at the very end may be half of a "\r\n": it waits for the next byte.
_LINE_END = re.compile(rb"\r\n|\n|\r(?=.)", re.DOTALL)


def events(pieces: Iterable[bytes]) -> Iterator[tuple[str, str]]:
    """The (field, data) of every event; field is "data", or "error" as old llama-servers say it.

    Several data lines of one event are joined by newlines; comments (servers send them to keep a
    connection alive) and other fields are dropped. What an unfinished last event holds is given
    too, for some servers forget the empty line. Raises ValueError for an endless line.
    """
    field, data = "data", list[str]()
    for line in _lines(pieces):
        if not line:
            if data:
                yield field, "\n".join(data)
            field, data = "data", []
            continue
        name, _, value = line.partition(":")
        if name in ("data", "error"):
            field = name
            data.append(value.removeprefix(" "))
    if data:
        yield field, "\n".join(data)


def _lines(pieces: Iterable[bytes]) -> Iterator[str]:
    rest = b""
    start = True
    for piece in pieces:
        *whole, rest = _LINE_END.split(rest + piece)
        if len(rest) > MAX_LINE_BYTES:
            raise ValueError("a line without an end")
        for line in whole:
            text = line.decode("utf-8", "replace")
            yield text.removeprefix("\ufeff") if start else text
            start = False
    if rest:
        yield rest.removesuffix(b"\r").decode("utf-8", "replace")
