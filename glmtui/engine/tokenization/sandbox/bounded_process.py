"""BoundedProcess: a Python process that works for an untrusted file, with limits of its own.

It has none of our environment, no standard streams but the two pipes, and ends with us. What it
does, and its limits, are in the module that it runs (`tokenizer_process`, `template_process`).
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

from glmtui.system.programs import SAFE_FOLDER, absolute_import_path

PROGRAM = """
import sys
sys.path[:] = {path!r}
from glmtui.engine.tokenization.sandbox import {module}
{module}.main()
"""
KEPT = ("LANG", "LC_ALL", "LC_TIME", "TZ")  # what a date depends on
MOST_HEADER_BYTES = 8 << 20  # of an answer's JSON; 20,000 special tokens take less
MOST_PAYLOAD_BYTES = 128 << 20  # of an answer's bytes; a vocabulary of 262,144 tokens has 3 MB


class ProcessEnded(Exception):
    """The process ended instead of answering.

    Attributes:
        code: its exit code; negative for a signal.
    """

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


def start(module: str, **environment: str) -> subprocess.Popen[bytes]:
    """Starts ``glmtui.engine.models.MODULE.main()`` in a Python that finds what this one does."""
    path = [
        *absolute_import_path(),
        str(Path(__file__).absolute().parents[4]),
    ]  # glmtui, wherever it lies
    kept = {name: os.environ[name] for name in KEPT if name in os.environ}
    return subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", PROGRAM.format(path=path, module=module)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**kept, **environment},
        cwd=SAFE_FOLDER,
        start_new_session=True,  # Ctrl+C is not meant for it
    )


def end(process: subprocess.Popen[bytes]) -> int:
    """Kills it if it still runs; returns its exit code."""
    process.kill()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with suppress(OSError):  # what was not written yet
                pipe.close()
    return process.wait()


class BoundedProcess:
    """Sends questions, each a JSON object with bytes behind it, and reads answers of that form.

    Args:
        module: of ``glmtui.engine.models``; reads its questions with `read_frame`.
    """

    def __init__(self, module: str, **environment: str) -> None:
        self._process = start(module, **environment)
        self._finalizer = weakref.finalize(self, end, self._process)

    @property
    def pid(self) -> int:
        return self._process.pid

    def send(self, question: dict[str, Any], payload: bytes = b"") -> None:
        """Raises ProcessEnded."""
        assert self._process.stdin is not None
        try:
            write_frame(self._process.stdin, question, payload)
        except OSError:
            raise self._ended() from None

    def receive(self) -> tuple[dict[str, Any], bytes]:
        """The next answer, in the order of the questions. Raises ProcessEnded."""
        assert self._process.stdout is not None
        frame = read_frame(self._process.stdout)
        if frame is None:
            raise self._ended()
        return frame

    def end(self) -> int:
        """Ends it; returns its exit code."""
        self._finalizer.detach()
        return end(self._process)

    def _ended(self) -> ProcessEnded:
        with suppress(subprocess.TimeoutExpired):  # its pipes closed a moment before it ends
            self._process.wait(1)
        return ProcessEnded(self.end())


def write_frame(stream: Any, header: dict[str, Any], payload: bytes = b"") -> None:
    """Writes a JSON object in a line, and the bytes behind it."""
    stream.write(json.dumps({**header, "size": len(payload)}).encode() + b"\n" + payload)
    stream.flush()


def read_frame(stream: Any) -> tuple[dict[str, Any], bytes] | None:
    """Reads what `write_frame` wrote; None at the end, or for more than the limits allow."""
    line = stream.readline(MOST_HEADER_BYTES)
    if not line.endswith(b"\n"):
        return None
    header: dict[str, Any] = json.loads(line)
    if header["size"] > MOST_PAYLOAD_BYTES:
        return None
    payload = stream.read(header["size"])
    return (header, payload) if len(payload) == header["size"] else None
