"""SandboxedProcess: a Python process that handles an untrusted file, seen from its parent.

It gets none of the parent's environment and no standard streams except two pipes, and it ends with
its parent. The module that it runs sets its limits.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import weakref
from contextlib import suppress
from pathlib import Path
from typing import Any

from glmtui.language import N_
from glmtui.system.programs import SAFE_FOLDER, absolute_import_path

PROGRAM = """
import sys
sys.path[:] = {path!r}
from glmtui.engine.tokenization.sandbox import {module}
{module}.main()
"""
INHERITED = ("LANG", "LC_ALL", "LC_TIME", "TZ")  # a template may print the date
MAX_HEADER_BYTES = 8 << 20  # of a frame's JSON; 20,000 special tokens take less
MAX_PAYLOAD_BYTES = 128 << 20  # of a frame's bytes; a vocabulary of 262,144 tokens has 3 MB
LIMIT_EXCEEDED = N_("it needs too much time or memory")  # the usual reason for ProcessEnded


class ProcessEnded(Exception):
    """The process ended instead of answering.

    Attributes:
        code: its exit code; negative for a signal.
    """

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


class SandboxedProcess:
    """Sends requests and receives replies; both are frames (see `write_frame`).

    Args:
        module: a module of this package; its `main` reads frames from stdin and writes one to
            stdout for each.
        environment: the process gets these variables, and those in `INHERITED`.
    """

    def __init__(self, module: str, **environment: str) -> None:
        path = [
            *absolute_import_path(),
            str(Path(__file__).absolute().parents[4]),
        ]  # the parent of glmtui
        inherited = {name: os.environ[name] for name in INHERITED if name in os.environ}
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", PROGRAM.format(path=path, module=module)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**inherited, **environment},
            cwd=SAFE_FOLDER,
            start_new_session=True,  # so that Ctrl+C does not reach it
        )
        self._finalizer = weakref.finalize(self, _kill, self._process)

    @property
    def pid(self) -> int:
        return self._process.pid

    def send(self, request: dict[str, Any], payload: bytes = b"") -> None:
        """Raises ProcessEnded."""
        assert self._process.stdin is not None
        try:
            write_frame(self._process.stdin, request, payload)
        except OSError:
            raise self._ended() from None

    def receive(self) -> tuple[dict[str, Any], bytes]:
        """The next reply, in the order of the requests. Raises ProcessEnded."""
        assert self._process.stdout is not None
        frame = read_frame(self._process.stdout)
        if frame is None:
            raise self._ended()
        return frame

    def kill(self) -> int:
        """Kills the process if it still runs; returns its exit code."""
        self._finalizer.detach()
        return _kill(self._process)

    def _ended(self) -> ProcessEnded:
        with suppress(subprocess.TimeoutExpired):  # pipes close shortly before the process ends
            self._process.wait(1)
        return ProcessEnded(self.kill())


def _kill(process: subprocess.Popen[bytes]) -> int:
    process.kill()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with suppress(OSError):  # of buffered bytes that were not written
                pipe.close()
    return process.wait()


def write_frame(stream: Any, header: dict[str, Any], payload: bytes = b"") -> None:
    """Writes a line of JSON with the size of the payload, and then the payload."""
    stream.write(json.dumps({**header, "size": len(payload)}).encode() + b"\n" + payload)
    stream.flush()


def read_frame(stream: Any) -> tuple[dict[str, Any], bytes] | None:
    """Reads what `write_frame` wrote; None at the end, or if the frame exceeds a limit."""
    line = stream.readline(MAX_HEADER_BYTES)
    if not line.endswith(b"\n"):
        return None
    header: dict[str, Any] = json.loads(line)
    if header["size"] > MAX_PAYLOAD_BYTES:
        return None
    payload = stream.read(header["size"])
    return (header, payload) if len(payload) == header["size"] else None
