"""EngineProcess: an engine in a process of its own, which shares neither memory nor threads.

The engines, and with them torch, are imported in that process only, so that Ctrl+C in this one
ends the benchmark at once.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any

from glmtui.engine.bench.bench_engine import BenchEngine, BenchTarget, EngineStart, TimedReply
from glmtui.errors import EngineError, GlmtuiError
from glmtui.language import _
from glmtui.system.programs import chdir_to_safe_folder

LOG_TAIL_BYTES = 4096  # read of the output of a process that died; its last line is shown


class EngineProcess:
    """A process with one engine, which handles one call at a time.

    A context manager: the process is started on entry and killed on exit, whatever it is doing.

    Args:
        create: creates the engine in the process; None for the engine that the target names.

    Raises:
        GlmtuiError: from every method, if the engine failed or the process died.
    """

    def __init__(
        self, target: BenchTarget, create: Callable[[BenchTarget], Any] | None = None
    ) -> None:
        self._target = target
        spawning = multiprocessing.get_context("spawn")
        self._connection, self._child_connection = spawning.Pipe()
        descriptor, name = tempfile.mkstemp(prefix="glmtui-bench-", suffix=".log")
        os.close(descriptor)
        self._log = Path(name)
        self._process = spawning.Process(
            target=serve_requests,
            args=(self._child_connection, target, name, create or _create_engine),
            daemon=True,
        )

    def __enter__(self) -> EngineProcess:
        try:
            with chdir_to_safe_folder(), _blocked_interrupts():
                self._process.start()
        except BaseException:  # including Ctrl+C, which was blocked until here
            self.close()
            raise
        self._child_connection.close()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Kills the process."""
        self._connection.close()
        if self._process.pid is not None:
            self._process.kill()
            self._process.join()
        self._log.unlink(missing_ok=True)

    def load(self) -> EngineStart:
        """Waits until the model is in memory."""
        start: EngineStart = self._receive()
        return start

    def generate(self, prompt: Sequence[int], tokens: int) -> TimedReply:
        """See `BenchEngine`."""
        reply: TimedReply = self._call("generate", list(prompt), tokens)
        return reply

    def copy_bandwidth(self) -> float:
        """See `bandwidth.CopyBandwidth`; only for a `copy_process`."""
        bandwidth: float = self._call("copy_bandwidth")
        return bandwidth

    def peak_memory(self) -> int | None:
        """See `BenchEngine`."""
        nbytes: int | None = self._call("peak_memory")
        return nbytes

    def _call(self, method: str, *args: object) -> Any:
        try:
            self._connection.send((method, args))
        except OSError as error:
            raise self._death_error() from error
        return self._receive()

    def _receive(self) -> Any:
        try:
            answer = self._connection.recv()
        except (EOFError, OSError) as error:
            raise self._death_error() from error
        if isinstance(answer, GlmtuiError):
            raise answer
        return answer

    def _death_error(self) -> EngineError:
        self._process.join(timeout=5)
        code = self._process.exitcode
        output = self._log.read_bytes()[-LOG_TAIL_BYTES:].decode(errors="replace").strip()
        last_line = output.splitlines()[-1] if output else ""
        if code == -signal.SIGKILL:
            killed = _("It was killed, probably because the machine ran out of memory.")
            last_line = f"{killed} {last_line}"
        return EngineError(
            _("{engine} ended unexpectedly (exit code {code}).").format(
                engine=self._target.engine, code=code
            ),
            last_line,
        )


@contextlib.contextmanager
def _blocked_interrupts() -> Iterator[None]:
    """Delays Ctrl+C until the end of the block; processes started in it ignore Ctrl+C.

    A terminal sends SIGINT to the whole process group, but only the parent must act on it.
    """
    resource_tracker.ensure_running()  # if it started later, it would unblock the signal
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def copy_process(target: BenchTarget, start: EngineStart) -> EngineProcess:
    """A process for `copy_bandwidth`, whose buffers would otherwise count as an engine's memory.

    Args:
        target: our engine.
        start: what it reported; if it uses several devices, the first is measured.
    """
    device = start.device.partition(" + ")[0]
    return EngineProcess(
        replace(target, options=replace(target.options, device=device)), _create_copier
    )


def serve_requests(
    connection: Connection, target: BenchTarget, log: str, create: Callable[[BenchTarget], Any]
) -> None:
    """Runs in the process: creates the engine, and handles calls until the parent is gone."""
    with open(log, "ab", buffering=0) as file:  # noqa: PTH123
        # libraries print to both, which would disturb the terminal and the JSON output
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    with contextlib.suppress(EOFError, OSError):  # the parent is gone
        try:
            engine = create(target)
            connection.send(engine.start)
            while True:
                method, args = connection.recv()
                connection.send(getattr(engine, method)(*args))
        except GlmtuiError as error:
            connection.send(error)


def _create_copier(target: BenchTarget) -> Any:
    from glmtui.engine.bench.bandwidth import CopyBandwidth

    return CopyBandwidth(target)


def _create_engine(target: BenchTarget) -> BenchEngine:
    if target.engine == "glmtui":
        from glmtui.engine.bench.own_engine import OwnEngine

        return OwnEngine(target)
    if target.engine == "transformers":
        from glmtui.engine.bench.transformers_peer import TransformersPeer

        return TransformersPeer(target)
    from glmtui.engine.bench.llama_cpp_peer import LlamaCppPeer

    return LlamaCppPeer(target)
