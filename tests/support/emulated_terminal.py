"""Terminal: a pty with a program in it, for tests of what a person would see and a disk keep."""

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
"""What a fixture gives that starts a program in one."""


class Terminal:
    """A pty with a program in it, its output, and the screen it makes.

    Args:
        folder: every folder of glmtui's lies below it.
        argv: what Python runs.
        before: called in the new process.
        environ: on top of the test's own, which names no colours.
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
        kept = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "COLORTERM")}
        self.modes = termios.tcgetattr(slave)
        self.process = subprocess.Popen(
            [sys.executable, *argv],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env={**kept, "TERM": "xterm-256color", **folders, **environ},
            start_new_session=True,
            preexec_fn=lambda: (fcntl.ioctl(0, termios.TIOCSCTTY, 0), before()),
        )
        self.slave = slave  # kept open, so that what is left behind can be looked at
        self.output = b""
        self.page = pyte.Screen(80, 24)
        self._stream = pyte.ByteStream(self.page)

    def read(self, seconds: float = 0.05) -> bytes:
        """What comes within so long."""
        if not select.select([self.master], [], [], seconds)[0]:
            return b""
        try:
            data = os.read(self.master, 65536)
        except OSError:
            return b""
        self.output += data
        self._stream.feed(data)
        return data

    def until(self, condition: Callable[[], bool]) -> None:
        """Reads until something is so."""
        end = time.monotonic() + 60
        while not condition():
            assert time.monotonic() < end, "\n".join(self.page.display)
            self.read()

    def shows(self, text: str) -> None:
        """Reads until a text is to be seen."""
        self.until(lambda: text in "\n".join(self.page.display))

    def press(self, keys: bytes) -> None:
        """Types."""
        os.write(self.master, keys)

    def ends(self) -> int:
        """Reads to the end, and returns the exit code."""
        self.until(lambda: self.process.poll() is not None)
        while self.read():
            pass
        return self.process.returncode

    def saved(self) -> list[str]:
        """The messages of the one conversation on disk."""
        return [
            message.content
            for message in Store(self.folder / "data/conversations").load("last").path
        ]

    def close(self) -> None:
        """Ends the program, if it still runs, and the terminal."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self.slave)
        os.close(self.master)
