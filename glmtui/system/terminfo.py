"""Capabilities of the terminal, from its name in TERM."""

from __future__ import annotations

import os
from collections.abc import Mapping

_DUMB = ("", "dumb", "unknown", "emacs", "network", "dialup", "glasstty")
"""Terminals that only print lines, in case terminfo has no entry for them."""


def can_move_cursor(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether the terminal understands escape sequences that move the cursor.

    A terminal that terminfo does not know (a new one, over SSH) is assumed to. curses reads TERM
    only once in a process.
    """
    term = environ.get("TERM", "")
    if term in _DUMB:
        return False
    try:
        import curses
    except ImportError:  # Python was built without it
        return True
    try:
        curses.setupterm(term, 1)
        return bool(curses.tigetstr("cup"))
    except curses.error:
        return True
