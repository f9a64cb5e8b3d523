"""What the terminal can do, by its name in TERM. Draws nothing."""

from __future__ import annotations

import os
from collections.abc import Mapping

_DUMB = ("", "dumb", "unknown", "emacs", "network", "dialup", "glasstty")
"""Names of terminals that take lines and no more, where no terminfo entry says so."""


def can_move_cursor(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether escape sequences that move the cursor may be written to the terminal.

    A terminal that terminfo does not know (a new one, over SSH) is taken for one that can. curses
    looks TERM up once in a process; what it found then stays.
    """
    term = environ.get("TERM", "")
    if term in _DUMB:
        return False
    try:
        import curses
    except ImportError:  # a Python that was built without it
        return True
    try:
        curses.setupterm(term, 1)
        return bool(curses.tigetstr("cup"))
    except curses.error:
        return True
