"""Runs a tool: no shell, a time limit, bounded output, and nothing of it left behind."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass

from glmtui.errors import ToolError
from glmtui.language import _
from glmtui.sanitize import visible
from glmtui.tools.declared import Invocation

MAX_OUTPUT_BYTES = 16_384  # a model's context holds no more than a few thousand tokens of it
CHECK_SECONDS = 0.05  # how often is looked whether it ended or is wanted no more


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a tool.

    Attributes:
        text: what the model is told, as the content of an observation: its output, and how it
            ended if that was not well. Safe to show.
        ok: whether all of it was heard, and its exit code is 0.
    """

    text: str
    ok: bool
    seconds: float


def run(invocation: Invocation, cancelled: Callable[[], bool] = lambda: False) -> Outcome:
    """Runs a tool to its end; takes up to its timeout, so not on the thread of a screen.

    Args:
        cancelled: looked at often; once it is true, the tool is killed with all it started.

    Raises:
        ToolError: there is no such program, or it may not be run.
    """
    started = time.monotonic()
    with tempfile.TemporaryFile() as stdin:
        stdin.write(invocation.stdin.encode("utf-8", "replace"))
        stdin.seek(0)
        try:
            process = subprocess.Popen(
                invocation.argv,
                stdin=stdin,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else str(error)
            raise ToolError(
                _("{program} cannot be run: {why}.").format(program=invocation.argv[0], why=why),
                _("Its command is in tools.toml; a whole path is safest."),
            ) from error
    try:
        output, end = _read(process, started + invocation.timeout, cancelled)
    finally:
        # before the process is waited for, while its number is still its own
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        code = process.wait()
        assert process.stdout is not None
        process.stdout.close()
    if not end and code:
        end = f"exit code {code}" if code > 0 else f"killed by signal {-code}"
    text = visible(output[:MAX_OUTPUT_BYTES].decode("utf-8", "replace")).rstrip()
    note = f"({end})" if end else "" if text else "(no output)"
    text = "\n".join(filter(None, (text, note)))
    return Outcome(text, not end, time.monotonic() - started)


def _read(
    process: subprocess.Popen[bytes], deadline: float, cancelled: Callable[[], bool]
) -> tuple[bytes, str]:
    """What the process writes until it ends, and why it was not waited for, if so."""
    assert process.stdout is not None
    pipe = process.stdout.fileno()
    os.set_blocking(pipe, False)
    output = b""
    while len(output) <= MAX_OUTPUT_BYTES:
        if cancelled():
            return output, "stopped by the user"
        if time.monotonic() > deadline:
            return output, "stopped: it took too long"
        ended = _has_ended(process.pid)  # asked first: what it wrote before is read below
        ready, _, _ = select.select([pipe], [], [], 0 if ended else CHECK_SECONDS)
        chunk = os.read(pipe, MAX_OUTPUT_BYTES + 1) if ready else b""
        output += chunk
        if ended and not chunk:
            return output, ""
        if ready and not chunk:  # it has closed its output and goes on
            time.sleep(CHECK_SECONDS)
    return output, f"the rest of the output, after {MAX_OUTPUT_BYTES:,} bytes, was cut"


def _has_ended(pid: int) -> bool:
    """Whether a child has ended; it stays to be waited for."""
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
