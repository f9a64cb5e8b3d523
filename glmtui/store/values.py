"""Typed values from parsed tables, with an error that names the key."""

from __future__ import annotations

import functools
import math
from collections.abc import Hashable
from datetime import date, datetime, timezone
from typing import Any, TypeAlias, TypeVar, cast, get_args, get_type_hints

from glmtui.chat import GenerationStats, SamplingParams
from glmtui.errors import CorruptConversation
from glmtui.language import N_, _

Table: TypeAlias = dict[str, Any]

MOST = 1e15
"""Tokens, seconds or bytes that no reply can take: larger statistics are dropped."""

_Numbers = TypeVar("_Numbers", SamplingParams, GenerationStats)
_Kind = TypeVar("_Kind", str, int, list[Any], dict[str, Any])
_Default = TypeVar("_Default")
_KINDS = {
    str: N_("{key} is not text"),
    int: N_("{key} is not a whole number"),
    float: N_("{key} is not a number"),
    bool: N_("{key} is not true or false"),
    list: N_("{key} is not a list"),
    dict: N_("{key} is not a table"),
}


def value_of(table: Table, key: str, kind: type[_Kind], default: _Default) -> _Kind | _Default:
    """The value at `key`, or `default` if there is none.

    Raises:
        CorruptConversation: it is not of this kind.
    """
    value = table.get(key)
    if value is None:
        return default
    if not isinstance(value, kind) or isinstance(value, bool):
        raise CorruptConversation(_(_KINDS[kind]).format(key=key))
    return value


def one_of(words: tuple[str, ...], table: Table, key: str) -> Any:
    """The value at `key`.

    Raises:
        CorruptConversation: it is not one of these words.
    """
    value = table.get(key)
    if value not in words:
        known = ", ".join(words)
        raise CorruptConversation(
            _("{key} is {value!r}, not one of {known}").format(
                key=key, value=str(value)[:40], known=known
            )
        )
    return value


def numbers_of(kind: type[_Numbers], table: Table) -> _Numbers:
    """A dataclass of optional numbers from the keys of a table.

    Statistics that no reply can have are dropped.

    Raises:
        CorruptConversation: a value has the wrong type.
    """
    values: Table = {}
    for name, wanted in _number_types(cast(Hashable, kind)).items():
        value = table.get(name)
        if value is None:
            continue
        given = type(value)
        if given is int and wanted is float and abs(value) < 2**1000:
            value = float(value)
        elif given is not wanted or (given is float and not math.isfinite(value)):
            raise CorruptConversation(_(_KINDS[wanted]).format(key=name))
        if kind is GenerationStats and not 0 <= value < MOST:
            continue
        if not -(1 << 63) <= value < 1 << 64:
            raise CorruptConversation(_(_KINDS[wanted]).format(key=name))
        values[name] = value
    return kind(**values)


@functools.cache
def _number_types(kind: Any) -> dict[str, type]:
    """The type of each field, without None."""
    hints = get_type_hints(kind).items()
    return {name: (get_args(hint) or (hint,))[0] for name, hint in hints}


def time_of(table: Table, key: str) -> datetime | None:
    """The time at `key` in UTC; one without a time zone is local.

    Raises:
        CorruptConversation: it is not a time.
    """
    value = table.get(key)
    if value is None:
        return None
    try:
        if isinstance(value, str):
            value = datetime.fromisoformat(value.strip().replace("Z", "+00:00"))
        elif isinstance(value, date) and not isinstance(value, datetime):
            value = datetime(value.year, value.month, value.day)
        if isinstance(value, datetime):
            return value.astimezone(timezone.utc)
    except (ValueError, OverflowError, OSError):
        pass
    raise CorruptConversation(
        _("{key} is not a time: {value!r}").format(key=key, value=str(value)[:40])
    )
