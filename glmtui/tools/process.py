"""Runs a tool: no shell, a time limit, bounded output, and nothing of it left behind.

Between glmtui and the tool stands a small parent. On Linux it is the subreaper of all that the tool
starts (prctl(2)): what leaves the tool's session, or loses its own parent, becomes a child of it,
and is found and killed with it. Elsewhere such a process is found by a variable of its environment.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass

import psutil

from glmtui.errors import ToolError
from glmtui.language import _
from glmtui.sanitize import sanitize
from glmtui.tools.declaration import Invocation

MAX_OUTPUT_BYTES = 16_384  # a model's context holds no more than a few thousand tokens of it
CHECK_SECONDS = 0.05  # how often is looked whether it is wanted no more
KILL_SECONDS = 3.0  # for killing all that a tool has started, which may start more meanwhile
RUN_ID_VARIABLE = "_GLMTUI_TOOL_RUN"  # the variable in the environment of all that a tool starts

# Runs alone, without this package. Its arguments: where to write how the tool ended ("exit CODE",
# or "error ERRNO" where it could not be run), and the tool's command.
_PARENT = """
import os, signal, sys
status, argv = int(sys.argv[1]), sys.argv[2:]
os.set_inheritable(status, False)
if sys.platform.startswith("linux"):
    import ctypes
    ctypes.CDLL(None, use_errno=True).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER
tool = os.fork()
if not tool:
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
    try:
        os.execvp(argv[0], argv)
    except OSError as error:
        os.write(status, f"error {error.errno}".encode())
    finally:
        os._exit(127)
for stream in (0, 1, 2):
    os.close(stream)
while True:
    try:
        ended, how = os.wait()
    except ChildProcessError:
        signal.pause()
    if ended == tool:
        os.write(status, f" exit {os.waitstatus_to_exitcode(how)}".encode())
"""


@dataclass(frozen=True, slots=True)
class ToolResult:
    """What came of a tool.

    Attributes:
        text: what the model is told, as the content of an observation: its output, and how it
            ended if that was not well. Safe to show.
        ok: whether all of it was heard, and its exit code is 0.
    """

    text: str
    ok: bool
    seconds: float


def run_tool(invocation: Invocation, cancelled: Callable[[], bool] = lambda: False) -> ToolResult:
    """Runs a tool to its end; takes up to its timeout, so not on the thread of a screen.

    Args:
        cancelled: looked at often; once it is true, the tool is killed with all it started.

    Raises:
        ToolError: there is no such program, or it may not be run.
    """
    started = time.monotonic()
    mark = secrets.token_hex(8)
    with contextlib.ExitStack() as files:
        stdin = files.enter_context(tempfile.TemporaryFile())
        stdin.write(invocation.stdin.encode("utf-8", "replace"))
        stdin.seek(0)
        heard, told = os.pipe()
        status = files.enter_context(os.fdopen(heard, "rb"))
        try:
            process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", _PARENT, str(told), *invocation.argv],
                stdin=stdin,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                pass_fds=(told,),
                env={**os.environ, RUN_ID_VARIABLE: mark},
            )
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else str(error)
            raise _cannot_be_run(invocation, why or "") from error
        finally:
            os.close(told)
        try:
            output, end = _read(process, heard, started + invocation.timeout, cancelled)
        finally:
            _kill(process, mark)
            process.wait()
            assert process.stdout is not None
            process.stdout.close()
        kind, code = _ended(status.read())
    if kind == "error":
        raise _cannot_be_run(invocation, os.strerror(code))
    if not end and code:
        end = f"exit code {code}" if code > 0 else f"killed by signal {-code}"
    text = sanitize(output[:MAX_OUTPUT_BYTES].decode("utf-8", "replace")).rstrip()
    note = f"({end})" if end else "" if text else "(no output)"
    text = "\n".join(filter(None, (text, note)))
    return ToolResult(text, not end, time.monotonic() - started)


def _cannot_be_run(invocation: Invocation, why: str) -> ToolError:
    return ToolError(
        _("{program} cannot be run: {why}.").format(program=invocation.argv[0], why=why),
        _("Its command is in tools.toml; a whole path is safest."),
    )


def _ended(status: bytes) -> tuple[str, int]:
    """What the parent said of the tool's end; killed, if it said nothing."""
    kind, code, *_ = [*status.decode().split(), "exit", str(-signal.SIGKILL)]
    return kind, int(code)


def _read(
    process: subprocess.Popen[bytes], status: int, deadline: float, cancelled: Callable[[], bool]
) -> tuple[bytes, str]:
    """What the tool writes until it ends, and why it was not waited for, if so."""
    assert process.stdout is not None
    pipe = process.stdout.fileno()
    os.set_blocking(pipe, False)
    output = b""
    while len(output) <= MAX_OUTPUT_BYTES:
        if cancelled():
            return output, "stopped by the user"
        if time.monotonic() > deadline:
            return output, "stopped: it took too long"
        # asked first: what it wrote before is read below
        ended = bool(select.select([status], [], [], 0)[0])
        ready, _, _ = select.select([pipe], [], [], 0 if ended else CHECK_SECONDS)
        chunk = os.read(pipe, MAX_OUTPUT_BYTES + 1) if ready else b""
        output += chunk
        if ended and not chunk:
            return output, ""
        if ready and not chunk:  # it has closed its output and goes on
            select.select([status], [], [], CHECK_SECONDS)
    return output, f"the rest of the output, after {MAX_OUTPUT_BYTES:,} bytes, was cut"


def _kill(process: subprocess.Popen[bytes], mark: str) -> None:
    """Kills the tool, all that it started, and last the parent, to which they are handed on."""
    until = time.monotonic() + KILL_SECONDS
    while (alive := _descendants(process.pid, mark)) and time.monotonic() < until:
        for one in alive:
            with contextlib.suppress(psutil.Error):
                one.kill()  # which first looks whether the number is still its own
        time.sleep(0.005)
    # before the parent is waited for, while its number is still its own
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def _descendants(parent: int, mark: str) -> list[psutil.Process]:
    """What has come of a tool and is alive."""
    found: list[psutil.Process] = []
    with contextlib.suppress(psutil.Error):
        found = psutil.Process(parent).children(recursive=True)
    if not sys.platform.startswith("linux"):
        found += [one for one in psutil.process_iter() if _has_mark(one, mark)]
    return [one for one in found if one.pid != parent and not _is_dead(one)]


def _has_mark(process: psutil.Process, mark: str) -> bool:
    try:
        return bool(process.environ().get(RUN_ID_VARIABLE) == mark)
    except (psutil.Error, OSError):
        return False


def _is_dead(process: psutil.Process) -> bool:
    try:
        return bool(process.status() == psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return True
