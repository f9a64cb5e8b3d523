"""Counts function calls instead of measuring time: the result is the same on every machine."""

from __future__ import annotations

import sys
from collections.abc import Callable


def calls(function: Callable[[], object]) -> int:
    """The number of Python and C functions that `function` calls on this thread.

    The work inside a single C call, such as a regular expression search, is not counted.
    """
    count = 0

    def called(frame: object, event: str, argument: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(called)
    try:
        function()
    finally:
        sys.setprofile(before)
    return count
