"""TOML to tables, quickly where it is as this program writes it: 20,000 messages in a moment.

tomli is written in Python and takes 0.1 s and more for a megabyte. Nearly every message is a few
keys of known shapes and one text that stands as it is, which a pattern can read; tomli reads what
is not. What comes of it is what tomli says of the whole. Knows shapes, not what the keys mean.
"""

from __future__ import annotations

import re
from datetime import datetime
from typing import Any

import tomli

BEGINS = "\n[[messages]]\n"
KEYS = ("id", "parent", "role", "time", "model", "metadata", "finish_reason", "error")
_STRING = r'"([^"\\\x00-\x08\x0a-\x1f\x7f]*)"'
_TIME = r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\+00:00)"
_SHORT = "".join(rf"(?:{key} = {_TIME if key == 'time' else _STRING}\n)?" for key in KEYS)
_MESSAGE = re.compile(rf"{_SHORT}content = (?:{_STRING}\n|'''\n)", re.ASCII)
_NUMBER = r"(?:0|[1-9][0-9]*)(?:\.[0-9]+)?"
_STATS = re.compile(rf"(?:\n\[messages\.stats\]\n((?:[a-z_]+ = {_NUMBER}\n)+))?\n*")
_CONTROL = bytes({*range(0x20), 0x7F} - {0x09, 0x0A})


def load_toml(text: str) -> dict[str, Any]:
    """What `tomli.loads` says. Raises as it does."""
    head, *parts = text.split(BEGINS)
    try:
        table = tomli.loads(head)
        if parts and "messages" not in table:
            quick = _known if is_plain(text) else _any
            return table | {"messages": [quick(part) or _any(part) for part in parts]}
    except ValueError:
        pass  # it is no TOML, or one of its texts has a line that looks like a message
    return tomli.loads(text)


def message_in(part: str, most: int) -> dict[str, Any]:
    """The one message in a text that begins like one.

    Raises ValueError, also where a message of more than `most` characters is not as we write it.
    """
    known = None
    if part.startswith(BEGINS) and is_plain(part):
        known = _known(part[len(BEGINS) :])
    if known is None and len(part) > most:
        raise ValueError
    return known or _alone(part)


def _any(part: str) -> dict[str, Any]:
    """A message read by tomli. Raises ValueError, also where there is more than a message."""
    return _alone(BEGINS + part)


def _alone(text: str) -> dict[str, Any]:
    """As `_any`, its first line included."""
    table = tomli.loads(text)
    messages: list[dict[str, Any]] = table.pop("messages")
    if table or len(messages) > 1:
        raise ValueError
    return messages[0]


def is_plain(text: str) -> bool:
    """Whether no character in it is one that TOML forbids or changes."""
    data = text.encode("utf-8", "surrogatepass")
    return len(data.translate(None, _CONTROL)) == len(data)


def _known(part: str) -> dict[str, Any] | None:
    """A message of a plain text, of which every part has a shape that is known here; else None.

    Raises ValueError.
    """
    found = _MESSAGE.match(part)
    if found is None:
        return None
    *values, content = found.groups()
    at = found.end()
    if content is None:
        end = part.find("'''\n", at)
        content, at = part[at:end], end + 4
        if end < 0 or "'''" in content:
            return None
    rest = _STATS.fullmatch(part, at)
    if rest is None:
        return None
    message = {key: value for key, value in zip(KEYS, values, strict=True) if value is not None}
    if "time" in message:
        message["time"] = datetime.fromisoformat(message["time"])
    message["content"] = content
    if rest[1]:
        lines = [line.split(" = ") for line in rest[1].splitlines()]
        message["stats"] = {key: float(n) if "." in n else int(n) for key, n in lines}
        if len(message["stats"]) < len(lines):
            return None  # tomli will say what it thinks of that
    return message
