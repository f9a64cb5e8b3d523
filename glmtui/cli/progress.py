"""A progress line on stderr that is redrawn in place and erased at the end.

If stderr is not a terminal, nothing is printed. A terminal that cannot move the cursor gets a new
line from time to time, without escape sequences.
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
REDRAW_SECONDS = 0.1  # least time between two updates in place
LINE_SECONDS = 10.0  # least time between two lines on a terminal that cannot move the cursor


class ProgressLine:
    """A `ProgressHook`; as a context manager it erases its line at the end."""

    def __init__(self) -> None:
        self._is_terminal = sys.stderr.isatty()
        self._appends_lines = self._is_terminal and not can_move_cursor()
        self._last_line = time.monotonic()  # when the last line was appended
        self._last_redraw = 0.0
        self._job = ""
        self._job_start = 0.0
        self._done_at_start = 0

    def __enter__(self) -> ProgressLine:
        return self

    def __exit__(self, *exception: object) -> None:
        self.erase()

    def __call__(self, progress: Progress) -> None:
        """Shows the bytes done and the rate, at most ten times a second."""
        now = time.monotonic()
        if progress.what != self._job:
            self._job, self._job_start, self._done_at_start = progress.what, now, progress.done
            self._last_line = now - LINE_SECONDS
        elif now - self._last_redraw < REDRAW_SECONDS:
            return
        self._last_redraw = now
        seconds = now - self._job_start
        # The rate does not include what a resumed download already had.
        rate = (progress.done - self._done_at_start) / seconds if seconds >= 1 else None
        self.show(format_progress(progress, rate))

    def show(self, text: str) -> None:
        """Replaces the text of the line."""
        if self._appends_lines:
            self._append_line(text)
        elif self._is_terminal:
            width = shutil.get_terminal_size().columns - 1
            sys.stderr.write(ERASE + set_cell_size(sanitize_line(text), width).rstrip())
            sys.stderr.flush()

    def erase(self) -> None:
        """Erases the line, so that other output can follow."""
        if self._is_terminal and not self._appends_lines:
            sys.stderr.write(ERASE)
            sys.stderr.flush()

    def _append_line(self, text: str) -> None:
        now = time.monotonic()
        if now - self._last_line >= LINE_SECONDS:
            self._last_line = now
            sys.stderr.write(sanitize_line(text) + "\n")
            sys.stderr.flush()


def format_progress(progress: Progress, rate: float | None = None) -> str:
    """The progress as text, such as "downloading x: 43 %, 41 of 97 MB, 12 MB/s, 5 s left".

    Args:
        rate: bytes per second; None if unknown.
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
