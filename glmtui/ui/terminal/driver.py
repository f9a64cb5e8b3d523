"""The terminal, kept for the app alone, and its input, made unambiguous.

Libraries that write to file descriptors 1 and 2 would tear the screen: while the app runs both
lead to a log file and Textual writes to a handle of its own. Knows nothing of what is shown.
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


def shows_links(environ: Mapping[str, str]) -> bool:
    """Whether the terminal takes the addresses of links (OSC 8), or at least overlooks them."""
    term = environ.get("TERM", "dumb")
    in_screen = term.startswith("screen") and "TMUX" not in environ
    return not in_screen and not term.startswith(("dumb", "linux", "vt", "eterm"))


class TerminalFile(io.TextIOWrapper):
    """The terminal as a text file that outlives it.

    Attributes:
        blocked: whether a write is waiting for the terminal to drain.
        guard: puts it right when the app ends without doing so.
    """

    def __init__(self, descriptor: int, guard: TerminalGuard | None = None) -> None:
        super().__init__(os.fdopen(descriptor, "wb"), encoding="utf-8", errors="replace")
        self.blocked = False
        self.guard = guard

    def write(self, text: str, /) -> int:
        """Writes `text`; to a terminal that has gone (a dropped SSH link) it goes nowhere."""
        self.blocked = True
        try:
            super().write(text)
            super().flush()
        except OSError:
            pass  # there is nobody left to tell; SIGHUP ends the app
        self.blocked = False
        return len(text)

    def flush(self) -> None:
        """Nothing waits: `write` has flushed."""


@contextmanager
def own_terminal(log: Path) -> Iterator[TerminalFile]:
    """The terminal on descriptor 1 for the caller alone; descriptors 1 and 2 and warnings go to
    `log`.

    Textual takes `sys.__stdout__` and `sys.__stderr__` when an app is made, so make it inside.
    """
    log_fd = _open_log(log)
    kept_out, kept_err = os.dup(1), os.dup(2)
    kept_streams = sys.__stdout__, sys.__stderr__
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
        os.dup2(kept_out, 1)
        os.dup2(kept_err, 2)
        guard.close()
        sys.__stdout__, sys.__stderr__ = kept_streams  # type: ignore[misc]
        for descriptor in (log_fd, kept_out, kept_err):
            os.close(descriptor)


def _open_log(log: Path) -> int:
    """The log file, or where it cannot be written, nowhere: the app goes on without."""
    try:
        return open_log(log)
    except OSError:
        return os.open(os.devnull, os.O_WRONLY)


class InputFilter:
    r"""Input of a terminal with what Textual's parser mistakes put right.

    Alt+Enter as most terminals send it (ESC CR) and Shift+Enter as xterm does would both be taken
    for Enter, and send; they become the kitty protocol's spelling. An ESC inside a bracketed
    paste would end it, and the rest be taken for keys, Enter among them; it becomes ␛.
    """

    def __init__(self) -> None:
        self._pasting = False
        self._waiting = ""

    def feed(self, text: str) -> str:
        """What the parser should see of `text`, the next piece that was read."""
        text, out = self._waiting + text, []
        self._waiting = ""
        while text:
            mark = _PASTE_ENDS if self._pasting else _PASTE_BEGINS
            part, found, text = text.partition(mark)
            if not found:
                # Outside a paste a lone ESC is a key, not to be kept waiting.
                part, self._waiting = _split_partial(part, mark, 1 if self._pasting else 2)
            out += [self._tamed(part), found]
            self._pasting ^= bool(found)
        return "".join(out)

    def _tamed(self, part: str) -> str:
        if self._pasting:
            return part.replace("\x1b", "␛")
        return _MODIFIED_ENTER.sub("\x1b[13;\\1u", part.replace("\x1b\r", "\x1b[13;3u"))


def _split_partial(text: str, mark: str, shortest: int) -> tuple[str, str]:
    """`text` without the beginning of `mark` it ends with, and that beginning."""
    for size in range(len(mark) - 1, shortest - 1, -1):
        if text.endswith(mark[:size]):
            return text[:-size], text[-size:]
    return text, ""


class TerminalDriver(LinuxDriver):
    """Textual's driver with `InputFilter` before its parser, and a calm end when the link drops.

    It keeps the terminal's guard informed.
    """

    def start_application_mode(self) -> None:
        """Takes the terminal, at the start and after a suspension."""
        super().start_application_mode()  # type: ignore[no-untyped-call]
        if isinstance(self._file, TerminalFile) and self._file.guard:
            self._file.guard.taken()

    def close(self) -> None:
        """Ends what is left once the terminal was given back, at the end and for a suspension."""
        super().close()
        if isinstance(self._file, TerminalFile) and self._file.guard:
            self._file.guard.given_back()

    def run_input_thread(self) -> None:
        """Reads and dispatches until the app ends or the terminal has gone."""
        parser, tame = XTermParser(self._debug), InputFilter()
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
                    if text := tame.feed(decode(data)):  # the parser takes "" for the end
                        for message in parser.feed(text):
                            self.process_message(message)
                for message in parser.tick():
                    self.process_message(message)
