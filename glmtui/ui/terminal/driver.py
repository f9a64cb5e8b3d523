"""Exclusive access to the terminal while the app runs, and Textual's driver with filtered input.

Libraries write to file descriptors 1 and 2 and would garble the screen. While the app runs, both
descriptors lead to a log file and Textual writes to a handle of its own.
"""

from __future__ import annotations

import io
import os
import re
import selectors
import sys
from codecs import getincrementaldecoder
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from textual._xterm_parser import XTermParser
from textual.drivers.linux_driver import LinuxDriver

from glmtui.logs import log_rotation, log_warnings_to, open_log
from glmtui.ui.terminal.guard import TerminalGuard

_PASTE_BEGINS, _PASTE_ENDS = "\x1b[200~", "\x1b[201~"
_MODIFIED_ENTER = re.compile(r"\x1b\[27;(\d+);13~")


def supports_links(environ: Mapping[str, str]) -> bool:
    """Whether the terminal supports hyperlinks (OSC 8) or ignores them."""
    term = environ.get("TERM", "dumb")
    in_screen = term.startswith("screen") and "TMUX" not in environ
    return not in_screen and not term.startswith(("dumb", "linux", "vt", "eterm"))


class TerminalFile(io.TextIOWrapper):
    """A text file for the terminal. Writing goes on without error when the terminal is gone.

    Attributes:
        blocked: whether a write is waiting because the terminal does not read.
        guard: restores the terminal if the app ends without doing so.
    """

    def __init__(self, descriptor: int, guard: TerminalGuard | None = None) -> None:
        super().__init__(os.fdopen(descriptor, "wb"), encoding="utf-8", errors="replace")
        self.blocked = False
        self.guard = guard

    def write(self, text: str, /) -> int:
        """Writes and flushes `text`; discards it if the terminal is gone (a dropped SSH link)."""
        self.blocked = True
        try:
            super().write(text)
            super().flush()
        except OSError:
            pass  # SIGHUP ends the app
        self.blocked = False
        return len(text)

    def flush(self) -> None:
        """Does nothing: `write` flushes."""


@contextmanager
def exclusive_terminal(log: Path) -> Iterator[TerminalFile]:
    """Gives the caller the terminal on descriptor 1; descriptors 1 and 2 and warnings go to `log`.

    Create the app inside: Textual reads `sys.__stdout__` and `sys.__stderr__` in its constructor.
    """
    log_fd = _open_log(log)
    saved_stdout, saved_stderr = os.dup(1), os.dup(2)
    saved_streams = sys.__stdout__, sys.__stderr__
    descriptor = os.dup(1)
    guard = TerminalGuard(descriptor, log_fd, log)
    terminal = TerminalFile(descriptor, guard)
    try:
        sys.stdout.flush()
        sys.stderr.flush()
        os.dup2(log_fd, 1)
        os.dup2(log_fd, 2)
        sys.__stdout__ = sys.__stderr__ = terminal  # type: ignore[misc]
        with log_rotation(log, log_fd, 1, 2), log_warnings_to(log_fd):
            yield terminal
    finally:
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError):  # the log's disk is full
                stream.flush()
        os.dup2(saved_stdout, 1)
        os.dup2(saved_stderr, 2)
        guard.close()
        sys.__stdout__, sys.__stderr__ = saved_streams  # type: ignore[misc]
        for descriptor in (log_fd, saved_stdout, saved_stderr):
            os.close(descriptor)


def _open_log(log: Path) -> int:
    """A descriptor for the log file, or for /dev/null if the file cannot be opened."""
    try:
        return open_log(log)
    except OSError:
        return os.open(os.devnull, os.O_WRONLY)


class InputFilter:
    """Corrects terminal input that Textual's parser misreads.

    The parser takes Alt+Enter (ESC CR in most terminals) and xterm's Shift+Enter for Enter, which
    would send the prompt; both become the kitty protocol's sequences. An ESC in a bracketed paste
    would end the paste, and the rest would be read as keys, including Enter; it becomes ␛.
    """

    def __init__(self) -> None:
        self._pasting = False
        self._pending = ""

    def feed(self, text: str) -> str:
        """Input for the parser after `text` was read; an incomplete paste mark is held back."""
        text, out = self._pending + text, []
        self._pending = ""
        while text:
            marker = _PASTE_ENDS if self._pasting else _PASTE_BEGINS
            part, found, text = text.partition(marker)
            if not found:
                # Outside a paste a single ESC may be the Escape key, so it is not held back.
                part, self._pending = _split_partial(part, marker, 1 if self._pasting else 2)
            out += [self._corrected(part), found]
            self._pasting ^= bool(found)
        return "".join(out)

    def _corrected(self, part: str) -> str:
        if self._pasting:
            return part.replace("\x1b", "␛")
        return _MODIFIED_ENTER.sub("\x1b[13;\\1u", part.replace("\x1b\r", "\x1b[13;3u"))


def _split_partial(text: str, marker: str, shortest: int) -> tuple[str, str]:
    """Splits off the end of `text` if it is the beginning of `marker`, at least `shortest` long."""
    for size in range(len(marker) - 1, shortest - 1, -1):
        if text.endswith(marker[:size]):
            return text[:-size], text[-size:]
    return text, ""


class TerminalDriver(LinuxDriver):
    """Textual's driver with an `InputFilter`; exits the app when the terminal is gone.

    Tells the terminal's guard when the app acquires and releases the terminal.
    """

    def start_application_mode(self) -> None:
        """Called at the start and after a suspension."""
        super().start_application_mode()  # type: ignore[no-untyped-call]
        if isinstance(self._file, TerminalFile) and self._file.guard:
            self._file.guard.notify_acquired()

    def close(self) -> None:
        """Called after the terminal was restored, at exit and for a suspension."""
        super().close()
        if isinstance(self._file, TerminalFile) and self._file.guard:
            self._file.guard.notify_released()

    def run_input_thread(self) -> None:
        """Reads and dispatches input until the app ends or the terminal is gone."""
        parser, input_filter = XTermParser(self._debug), InputFilter()
        decode = getincrementaldecoder("utf-8")(errors="replace").decode
        with selectors.SelectSelector() as selector:
            selector.register(self.fileno, selectors.EVENT_READ)
            while not self.exit_event.is_set():
                if selector.select(0.1):
                    try:
                        data = os.read(self.fileno, 4096)
                    except OSError:
                        data = b""
                    if not data:
                        self._app.call_later(self._app.exit)
                        return
                    if text := input_filter.feed(
                        decode(data)
                    ):  # the parser would take "" for the end of input
                        for message in parser.feed(text):
                            self.process_message(message)
                for message in parser.tick():
                    self.process_message(message)
