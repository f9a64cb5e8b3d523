"""Running a tool: no shell, a time limit, limited output, and no process left behind.

A small parent process starts the tool. On Linux it is a subreaper (prctl(2)): descendants that
leave the tool's session or lose their parent become its children, and are killed with the tool.
Elsewhere such descendants are found by a variable in their environment.
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
from glmtui.tools.tool import Invocation

MAX_OUTPUT_BYTES = 16_384  # a few thousand tokens, which fit into a model's context
CHECK_SECONDS = 0.05  # interval of checking for cancellation
KILL_SECONDS = 3.0  # limit for killing the tool's descendants, which may start new ones meanwhile
RUN_ID_VARIABLE = "_GLMTUI_TOOL_RUN"  # set in the environment of the tool and its descendants

# The parent process, a program of its own that does not import this package. Its arguments are the
# file descriptor for the status ("exit CODE", or "error ERRNO" if the tool could not be started)
# and the tool's command.
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
    """The result of running a tool.

    Attributes:
        text: the output, followed by the reason if the tool failed or was stopped. It is sent to
            the model as an observation, and is safe to display.
        ok: whether the tool ended by itself with exit code 0 and its output was not cut.
        seconds: how long it ran.
    """

    text: str
    ok: bool
    seconds: float


def run_tool(invocation: Invocation, cancelled: Callable[[], bool] = lambda: False) -> ToolResult:
    """Runs a tool and waits for it, at most for its timeout. Blocks the calling thread.

    Args:
        cancelled: called often; when it returns True, the tool and its descendants are killed.

    Raises:
        ToolError: the program does not exist or cannot be started.
    """
    start = time.monotonic()
    run_id = secrets.token_hex(8)
    with contextlib.ExitStack() as files:
        stdin = files.enter_context(tempfile.TemporaryFile())
        stdin.write(invocation.stdin.encode("utf-8", "replace"))
        stdin.seek(0)
        status_fd, parent_fd = os.pipe()
        status = files.enter_context(os.fdopen(status_fd, "rb"))
        try:
            process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", _PARENT, str(parent_fd), *invocation.argv],
                stdin=stdin,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                pass_fds=(parent_fd,),
                env={**os.environ, RUN_ID_VARIABLE: run_id},
            )
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            raise _start_error(invocation, reason or "") from error
        finally:
            os.close(parent_fd)
        try:
            output, failure = _read_output(
                process, status_fd, start + invocation.timeout, cancelled
            )
        finally:
            _kill(process, run_id)
            process.wait()
            assert process.stdout is not None
            process.stdout.close()
        kind, code = _parse_status(status.read())
    if kind == "error":
        raise _start_error(invocation, os.strerror(code))
    if not failure and code:
        failure = f"exit code {code}" if code > 0 else f"killed by signal {-code}"
    text = sanitize(output[:MAX_OUTPUT_BYTES].decode("utf-8", "replace")).rstrip()
    note = f"({failure})" if failure else "" if text else "(no output)"
    text = "\n".join(filter(None, (text, note)))
    return ToolResult(text, not failure, time.monotonic() - start)


def _start_error(invocation: Invocation, reason: str) -> ToolError:
    return ToolError(
        _("Could not run {program}: {reason}.").format(program=invocation.argv[0], reason=reason),
        _("Check its command in tools.toml; an absolute path is safest."),
    )


def _parse_status(status: bytes) -> tuple[str, int]:
    """The status that the parent wrote: "exit" or "error", and a code.

    If it wrote none, it was killed together with the tool.
    """
    kind, code, *_ = [*status.decode().split(), "exit", str(-signal.SIGKILL)]
    return kind, int(code)


def _read_output(
    process: subprocess.Popen[bytes], status_fd: int, deadline: float, cancelled: Callable[[], bool]
) -> tuple[bytes, str]:
    """The tool's output until it ends, and the reason if its end was not waited for."""
    assert process.stdout is not None
    pipe = process.stdout.fileno()
    os.set_blocking(pipe, False)
    output = b""
    while len(output) <= MAX_OUTPUT_BYTES:
        if cancelled():
            return output, "stopped by the user"
        if time.monotonic() > deadline:
            return output, "stopped: time limit exceeded"
        # Check for the end first, so that all output written before it is read below.
        ended = bool(select.select([status_fd], [], [], 0)[0])
        ready, _, _ = select.select([pipe], [], [], 0 if ended else CHECK_SECONDS)
        chunk = os.read(pipe, MAX_OUTPUT_BYTES + 1) if ready else b""
        output += chunk
        if ended and not chunk:
            return output, ""
        if ready and not chunk:  # the tool closed its output but is still running
            select.select([status_fd], [], [], CHECK_SECONDS)
    return output, f"output cut after {MAX_OUTPUT_BYTES:,} bytes"


def _kill(process: subprocess.Popen[bytes], run_id: str) -> None:
    """Kills the tool and its descendants, and then the parent that inherits orphans."""
    deadline = time.monotonic() + KILL_SECONDS
    while (alive := _descendants(process.pid, run_id)) and time.monotonic() < deadline:
        for descendant in alive:
            with contextlib.suppress(psutil.Error):
                descendant.kill()  # psutil first checks that the pid was not reused
        time.sleep(0.005)
    # The parent was not waited for yet, so its pid cannot have been reused.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def _descendants(parent: int, run_id: str) -> list[psutil.Process]:
    """The living processes that a tool started, directly or indirectly."""
    found: list[psutil.Process] = []
    with contextlib.suppress(psutil.Error):
        found = psutil.Process(parent).children(recursive=True)
    if not sys.platform.startswith("linux"):
        found += [process for process in psutil.process_iter() if _has_run_id(process, run_id)]
    return [process for process in found if process.pid != parent and not _is_dead(process)]


def _has_run_id(process: psutil.Process, run_id: str) -> bool:
    try:
        return bool(process.environ().get(RUN_ID_VARIABLE) == run_id)
    except (psutil.Error, OSError):
        return False


def _is_dead(process: psutil.Process) -> bool:
    try:
        return bool(process.status() == psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return True
