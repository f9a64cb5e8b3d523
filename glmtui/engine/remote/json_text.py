"""Parses JSON from untrusted sources, of any depth and with numbers of any length."""

from __future__ import annotations

import json
from typing import Any

MAX_DIGITS = 400  # of an integer; Python needs time quadratic in the number of digits


def parse_json(text: str) -> Any:
    """The value; None if `text` is not JSON. Integers over `MAX_DIGITS` digits become infinity."""
    try:
        return json.loads(text, parse_int=_parse_int)
    except (ValueError, RecursionError):
        return None


def _parse_int(digits: str) -> int | float:
    return int(digits) if len(digits) <= MAX_DIGITS else float("inf")
