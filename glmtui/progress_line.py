"""One line on a terminal's stderr that says how far a long job is, and leaves no trace.

Where stderr is no terminal it says nothing. Knows no job.
"""

from __future__ import annotations

import shutil
import sys
import time

from rich.cells import set_cell_size

from glmtui.engine.api import Progress
from glmtui.sanitize import one_line

ERASE = "\r\x1b[K"
SHOW_SECONDS = 0.1


class ProgressLine:
    """A `ProgressHook`; as a context manager it erases its line at the end."""

    def __init__(self) -> None:
        self._on = sys.stderr.isatty()
        self._what = ""
        self._began = 0.0
        self._shown = 0.0

    def __enter__(self) -> ProgressLine:
        return self

    def __exit__(self, *exception: object) -> None:
        self.erase()

    def __call__(self, progress: Progress) -> None:
        """Shows how many bytes there are of how many, and the rate; at most ten times a second."""
        now = time.monotonic()
        if progress.what != self._what:
            self._what, self._began = progress.what, now
        elif now - self._shown < SHOW_SECONDS:
            return
        self._shown = now
        self.show(describe(progress, now - self._began))

    def show(self, text: str) -> None:
        """Puts `text` in place of what the line said."""
        if self._on:
            room = shutil.get_terminal_size().columns - 1
            sys.stderr.write(ERASE + set_cell_size(one_line(text), room).rstrip())
            sys.stderr.flush()

    def erase(self) -> None:
        """Gives the line back to whatever comes next."""
        if self._on:
            sys.stderr.write(ERASE)
            sys.stderr.flush()


def describe(progress: Progress, seconds: float) -> str:
    """How far a job is after `seconds`, such as "downloading x: 43 %, 41 of 97 MB, 12 MB/s"."""
    if not progress.done:
        return progress.what
    parts = []
    if progress.total:
        parts.append(f"{progress.done / progress.total:.0%}".replace("%", " %"))
        parts.append(f"{progress.done / 1e6:,.0f} of {progress.total / 1e6:,.0f} MB")
    else:
        parts.append(f"{progress.done / 1e6:,.0f} MB")
    if seconds >= 1:
        parts.append(f"{progress.done / 1e6 / seconds:,.0f} MB/s")
    return f"{progress.what}: {', '.join(parts)}"
