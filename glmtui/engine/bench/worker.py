"""Worker: an engine in a process of its own, so that none shares memory or threads with another.

`copy_process` is one for the bandwidth of a copy, whose buffers would count as the engine's memory.

Knows processes and pipes. The engines themselves are imported in their process alone; here there
is no torch, so Ctrl+C ends everything at once.
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

from glmtui.engine.bench.plan import BenchEngine, BenchTarget, EngineStart, TimedReply
from glmtui.errors import EngineError, GlmtuiError
from glmtui.language import _
from glmtui.system.programs import chdir_to_safe_folder

SAID_BYTES = 4096  # of what a process that died has printed


class EngineProcess:
    """A process that holds one engine and does what it is asked, one thing at a time.

    A context manager: the process starts with it and ends with it, whatever it is doing.

    Args:
        make: makes the engine, in the process; left out, the one that the target names.

    Raises:
        GlmtuiError: every call does, if the engine failed or its process died.
    """

    def __init__(
        self, target: BenchTarget, make: Callable[[BenchTarget], Any] | None = None
    ) -> None:
        self._target = target
        spawning = multiprocessing.get_context("spawn")
        self._connection, self._theirs = spawning.Pipe()
        descriptor, name = tempfile.mkstemp(prefix="glmtui-bench-", suffix=".log")
        os.close(descriptor)
        self._log = Path(name)
        self._process = spawning.Process(
            target=serve_requests, args=(self._theirs, target, name, make or _made), daemon=True
        )

    def __enter__(self) -> EngineProcess:
        try:
            with chdir_to_safe_folder(), _held_interrupts():
                self._process.start()
        except BaseException:  # Ctrl+C, held until here, among them
            self.close()
            raise
        self._theirs.close()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends the process, whatever it is doing."""
        self._connection.close()
        if self._process.pid is not None:
            self._process.kill()
            self._process.join()
        self._log.unlink(missing_ok=True)

    def load(self) -> EngineStart:
        """Waits until the model is in memory."""
        ready: EngineStart = self._answer()
        return ready

    def generate(self, prompt: Sequence[int], tokens: int) -> TimedReply:
        """See `plan.Engine`."""
        timed: TimedReply = self._ask("generate", list(prompt), tokens)
        return timed

    def copy_bandwidth(self) -> float:
        """See `bandwidth.Copier`, which a `copy_process` holds."""
        bandwidth: float = self._ask("copy_bandwidth")
        return bandwidth

    def peak_memory(self) -> int | None:
        """See `plan.Engine`."""
        nbytes: int | None = self._ask("peak_memory")
        return nbytes

    def _ask(self, what: str, *args: object) -> Any:
        try:
            self._connection.send((what, args))
        except OSError as error:
            raise self._death() from error
        return self._answer()

    def _answer(self) -> Any:
        try:
            answer = self._connection.recv()
        except (EOFError, OSError) as error:
            raise self._death() from error
        if isinstance(answer, GlmtuiError):
            raise answer
        return answer

    def _death(self) -> EngineError:
        self._process.join(timeout=5)
        code = self._process.exitcode
        said = self._log.read_bytes()[-SAID_BYTES:].decode(errors="replace").strip()
        last = said.splitlines()[-1] if said else ""
        if code == -signal.SIGKILL:
            last = _("It was killed, as a machine does that has no memory left.") + " " + last
        return EngineError(
            _("{engine} ended in the middle (exit code {code}).").format(
                engine=self._target.engine, code=code
            ),
            last,
        )


@contextlib.contextmanager
def _held_interrupts() -> Iterator[None]:
    """Ctrl+C waits until the end of this, and what is started meanwhile never hears it.

    A terminal sends it to all of us; the asker alone is to act on it.
    """
    resource_tracker.ensure_running()  # starting it later would let the signal through
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def copy_process(target: BenchTarget, ready: EngineStart) -> EngineProcess:
    """A process that measures copies.

    Args:
        target: our engine.
        ready: what it said when it was loaded; of several devices the first is measured.
    """
    device = ready.device.partition(" + ")[0]
    return EngineProcess(replace(target, options=replace(target.options, device=device)), _copier)


def serve_requests(
    connection: Connection, target: BenchTarget, log: str, make: Callable[[BenchTarget], Any]
) -> None:
    """The other side: loads the engine, answers until nobody asks any more."""
    with open(log, "ab", buffering=0) as file:  # noqa: PTH123
        os.dup2(file.fileno(), 1)  # libraries speak on both, a terminal and JSON are not for them
        os.dup2(file.fileno(), 2)
    with contextlib.suppress(EOFError, OSError):  # the asker has gone
        try:
            engine = make(target)
            connection.send(engine.start)
            while True:
                what, args = connection.recv()
                connection.send(getattr(engine, what)(*args))
        except GlmtuiError as error:
            connection.send(error)


def _copier(target: BenchTarget) -> Any:
    from glmtui.engine.bench.bandwidth import CopyBandwidth

    return CopyBandwidth(target)


def _made(target: BenchTarget) -> BenchEngine:
    if target.engine == "glmtui":
        from glmtui.engine.bench.own_engine import OwnEngine

        return OwnEngine(target)
    if target.engine == "transformers":
        from glmtui.engine.bench.transformers_peer import TransformersPeer

        return TransformersPeer(target)
    from glmtui.engine.bench.llama_cpp_peer import LlamaCppPeer

    return LlamaCppPeer(target)
