"""One line on a terminal's stderr that says how far a long job is, and leaves no trace.

Where stderr is no terminal it says nothing. A terminal that cannot place a cursor gets a line now
and then, without escape sequences. Knows no job.
"""

from __future__ import annotations

import shutil
import sys
import time

from rich.cells import set_cell_size

from glmtui.engine.progress import Progress
from glmtui.sanitize import sanitize_line
from glmtui.system.terminfo import can_move_cursor

ERASE = "\r\x1b[K"
SHOW_SECONDS = 0.1
LINE_SECONDS = 10.0  # between two lines, where they stay


class ProgressLine:
    """A `ProgressHook`; as a context manager it erases its line at the end."""

    def __init__(self) -> None:
        self._on = sys.stderr.isatty()
        self._stays = self._on and not can_move_cursor()
        self._line_at = time.monotonic()  # when the last line that stays was written
        self._what = ""
        self._began = 0.0
        self._first = 0
        self._shown = 0.0

    def __enter__(self) -> ProgressLine:
        return self

    def __exit__(self, *exception: object) -> None:
        self.erase()

    def __call__(self, progress: Progress) -> None:
        """Shows how many bytes there are of how many, and the rate; at most ten times a second."""
        now = time.monotonic()
        if progress.what != self._what:
            self._what, self._began, self._first = progress.what, now, progress.done
            self._line_at = now - LINE_SECONDS
        elif now - self._shown < SHOW_SECONDS:
            return
        self._shown = now
        seconds = now - self._began
        # What a resumed download already had says nothing of the rate.
        rate = (progress.done - self._first) / seconds if seconds >= 1 else None
        self.show(format_progress(progress, rate))

    def show(self, text: str) -> None:
        """Puts `text` in place of what the line said."""
        if self._stays:
            self._add(text)
        elif self._on:
            room = shutil.get_terminal_size().columns - 1
            sys.stderr.write(ERASE + set_cell_size(sanitize_line(text), room).rstrip())
            sys.stderr.flush()

    def erase(self) -> None:
        """Gives the line back to whatever comes next."""
        if self._on and not self._stays:
            sys.stderr.write(ERASE)
            sys.stderr.flush()

    def _add(self, text: str) -> None:
        now = time.monotonic()
        if now - self._line_at >= LINE_SECONDS:
            self._line_at = now
            sys.stderr.write(sanitize_line(text) + "\n")
            sys.stderr.flush()


def format_progress(progress: Progress, rate: float | None = None) -> str:
    """How far a job is, such as "downloading x: 43 %, 41 of 97 MB, 12 MB/s, 5 s left".

    Args:
        rate: bytes per second; None while unknown.
    """
    done, total = progress.done, progress.total
    if not done:
        return progress.what
    parts = [f"{done / 1e6:,.0f} MB"]
    if total:
        parts = [f"{100 * done // total} %", f"{done / 1e6:,.0f} of {total / 1e6:,.0f} MB"]
    if rate and done < total:
        seconds = round((total - done) / rate)
        left = f"{seconds // 60} min" if seconds >= 120 else f"{seconds} s"
        parts += [f"{rate / 1e6:,.1f} MB/s", f"{left} left"]
    return f"{progress.what}: {', '.join(parts)}"
