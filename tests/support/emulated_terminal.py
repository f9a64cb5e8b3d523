"""Terminal: runs a program in a pty and emulates its screen."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TypeAlias

import pyte

from glmtui.store import Store

Start: TypeAlias = Callable[..., "Terminal"]
"""A fixture that starts a program in a Terminal."""


class Terminal:
    """A program in a pty, its output, and the screen that results.

    Args:
        folder: all of glmtui's folders are below it.
        argv: the arguments of Python.
        before: called in the new process.
        environ: added to the test's environment, from which the variables on colours are removed.
    """

    def __init__(
        self,
        folder: Path,
        argv: Sequence[str],
        before: Callable[[], object] = lambda: None,
        environ: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self.folder = folder
        self.master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        names = ("DATA", "CONFIG", "CACHE", "STATE")
        folders = {f"GLMTUI_{name}_DIR": str(folder / name.lower()) for name in names}
        inherited = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "COLORTERM")}
        self.modes = termios.tcgetattr(slave)
        self.process = subprocess.Popen(
            [sys.executable, *argv],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env={**inherited, "TERM": "xterm-256color", **folders, **environ},
            start_new_session=True,
            preexec_fn=lambda: (fcntl.ioctl(0, termios.TIOCSCTTY, 0), before()),
        )
        self.slave = slave  # stays open, so that a test can read the terminal's final modes
        self.output = b""
        self.screen = pyte.Screen(80, 24)
        self._stream = pyte.ByteStream(self.screen)

    def read(self, seconds: float = 0.05) -> bytes:
        """Reads output that comes within so many seconds."""
        if not select.select([self.master], [], [], seconds)[0]:
            return b""
        try:
            data = os.read(self.master, 65536)
        except OSError:
            return b""
        self.output += data
        self._stream.feed(data)
        return data

    def wait_until(self, condition: Callable[[], bool]) -> None:
        """Reads output until a condition is true."""
        end = time.monotonic() + 60
        while not condition():
            assert time.monotonic() < end, "\n".join(self.screen.display)
            self.read()

    def wait_for_text(self, text: str) -> None:
        """Reads output until the screen contains a text."""
        self.wait_until(lambda: text in "\n".join(self.screen.display))

    def press(self, keys: bytes) -> None:
        os.write(self.master, keys)

    def wait_for_exit(self) -> int:
        """Reads the output to its end. Returns the exit code."""
        self.wait_until(lambda: self.process.poll() is not None)
        while self.read():
            pass
        return self.process.returncode

    def saved_messages(self) -> list[str]:
        """The texts of the last conversation on disk."""
        return [
            message.content
            for message in Store(self.folder / "data/conversations").load("last").path
        ]

    def close(self) -> None:
        """Kills the program if it still runs, and closes the pty."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self.slave)
        os.close(self.master)
