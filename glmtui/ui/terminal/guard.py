"""TerminalGuard: a process beside the app that restores the terminal if the app cannot.

See `guard_process`. The app itself remains the process that the shell started, so that signals,
job control and the exit code work as usual.
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
from glmtui.ui.terminal.guard_process import ACQUIRED, RELEASED, attributes

PROGRAM = Path(__file__).with_name("guard_process.py")


class TerminalGuard:
    """Starts the guard process. Does nothing if it cannot be started or this is no terminal.

    Args:
        terminal: descriptor of the terminal, whose present attributes the guard restores.
        log: descriptor of the file to which a crash is written in full.
        path: of that file, for the message to the user.
    """

    def __init__(self, terminal: int, log: int, path: Path) -> None:
        self._terminal = terminal
        self._pipe = -1
        self._process: subprocess.Popen[bytes] | None = None
        self._reports_crashes = False
        try:
            arguments = attributes(terminal), *_messages(path)
        except termios.error:  # not a terminal, or gone
            return
        read_end, self._pipe = os.pipe()
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", str(PROGRAM), *arguments],
                stdin=read_end,
                stdout=terminal,
                stderr=log,
                cwd="/",
                start_new_session=True,  # signals to the app's process group must not reach it
            )
        except OSError:
            os.close(self._pipe)
            self._pipe = -1
        else:
            if not faulthandler.is_enabled():
                faulthandler.enable(self._pipe)
                self._reports_crashes = True
        finally:
            os.close(read_end)

    def notify_acquired(self) -> None:
        """The app has changed the attributes of the terminal; they are to be restored."""
        with suppress(termios.error):
            self._send(ACQUIRED + attributes(self._terminal))

    def notify_released(self) -> None:
        """The app has restored the terminal itself."""
        self._send(RELEASED)

    def close(self) -> None:
        """Ends the guard process, which restores the terminal if it was not released."""
        if self._process is None:
            return
        if self._reports_crashes:
            faulthandler.disable()
        os.close(self._pipe)
        self._pipe = -1
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(1)

    def _send(self, line: str) -> None:
        if self._pipe < 0:
            return
        with suppress(OSError):  # the guard process was killed
            os.write(self._pipe, line.encode() + b"\n")


def _messages(log: Path) -> tuple[str, str]:
    """The messages after a kill and after a crash; the guard fills ``{what}`` in the second."""
    saved = _("The conversation is saved except for the last second. Continue: glmtui --continue")
    crashed = _("glmtui crashed ({what}); details are in {log}.").format(
        what="{what}", log=sanitize(str(log))
    )
    killed = _("glmtui was killed.")
    return f"{killed} {saved}", f"{crashed} {saved}"
