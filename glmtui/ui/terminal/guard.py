"""TerminalGuard: sees to it that the terminal is put right however the app ends.

A small process waits beside the app, and does what the app's end could not: see
`terminal_guard_process`. The app stays what the shell started: signals, job control and the exit
code are its own.
"""

from __future__ import annotations

import faulthandler
import os
import subprocess
import sys
import termios
from contextlib import suppress
from pathlib import Path

from glmtui.language import _
from glmtui.sanitize import sanitize
from glmtui.ui.terminal.guard_process import GIVEN_BACK, TAKEN, attributes

PROGRAM = Path(__file__).with_name("guard_process.py")


class TerminalGuard:
    """A guard of the terminal at descriptor `terminal`; without one, if none can be started.

    Args:
        terminal: must have the attributes that are to be restored.
        log: where a crash is written in full.
        path: of that log, to be named.
    """

    def __init__(self, terminal: int, log: int, path: Path) -> None:
        self._terminal = terminal
        self._pipe = -1
        self._process: subprocess.Popen[bytes] | None = None
        self._names_crashes = False
        try:
            told = attributes(terminal), *_lines(path)
        except termios.error:  # it is no terminal, or has gone
            return
        ends, self._pipe = os.pipe()
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", str(PROGRAM), *told],
                stdin=ends,
                stdout=terminal,
                stderr=log,
                cwd="/",
                start_new_session=True,  # what ends the app's process group must not end it
            )
        except OSError:
            os.close(self._pipe)
            self._pipe = -1
        else:
            if not faulthandler.is_enabled():
                faulthandler.enable(self._pipe)
                self._names_crashes = True
        finally:
            os.close(ends)

    def taken(self) -> None:
        """Says that the terminal is the app's now, with the attributes that it has."""
        with suppress(termios.error):
            self._say(TAKEN + attributes(self._terminal))

    def given_back(self) -> None:
        """Says that the terminal is as it was before."""
        self._say(GIVEN_BACK)

    def close(self) -> None:
        """Ends the guard; it does its work if the terminal was not given back."""
        if self._process is None:
            return
        if self._names_crashes:
            faulthandler.disable()
        os.close(self._pipe)
        self._pipe = -1
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(1)

    def _say(self, line: str) -> None:
        if self._pipe < 0:
            return
        with suppress(OSError):  # somebody ended it
            os.write(self._pipe, line.encode() + b"\n")


def _lines(log: Path) -> tuple[str, str]:
    """What to say when the app was killed, and when it crashed, with ``{what}`` for how."""
    saved = _("What was said is saved, up to the last second. To go on: glmtui --continue")
    crashed = _("glmtui crashed ({what}); {log} has the details.").format(
        what="{what}", log=sanitize(str(log))
    )
    killed = _("glmtui was killed.")
    return f"{killed} {saved}", f"{crashed} {saved}"
