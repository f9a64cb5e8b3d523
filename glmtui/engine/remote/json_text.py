"""JSON of unknown origin as Python objects, whatever its depth and its numbers."""

from __future__ import annotations

import json
from typing import Any

MAX_DIGITS = 400  # Python takes a time that grows with the square of their number


def parse_json(text: str) -> Any:
    """The value; None where `text` is no JSON. Numbers of too many digits are infinite."""
    try:
        return json.loads(text, parse_int=_whole_number)
    except (ValueError, RecursionError):
        return None


def _whole_number(digits: str) -> int | float:
    return int(digits) if len(digits) <= MAX_DIGITS else float("inf")
