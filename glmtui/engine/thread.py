"""EngineThread: the one owner of the one model. Takes Requests, emits Events.

Torch is imported when a model is opened, so that starting the thread costs nothing. Everything
that is asked goes through one queue and is done in order; only cancelling overtakes.

The thread outlives whatever a job raises, `BaseException` included: a panic in a Rust library, as
pyo3 raises it, is no `Exception`. Every load and every request ends in an event of its own.

A load that is abandoned and does not come back, because a disk or a server does not answer, is left
to its thread, and another thread takes over.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from glmtui.chat import GenerationStats
from glmtui.engine import open_model
from glmtui.engine.api import (
    ChatModel,
    Delta,
    Event,
    Failed,
    Finished,
    LoadFailed,
    Loading,
    Prefilling,
    Ready,
    Reply,
    Request,
)
from glmtui.engine.model_info import LoadOptions, ServerSpec, Target
from glmtui.engine.progress import LoadCancelled, Progress
from glmtui.errors import EngineError, GlmtuiError
from glmtui.language import _

logger = logging.getLogger(__name__)

# A load that is abandoned has this long to end by itself. Then it is left if it waits for
# something; while it works, and so holds memory that the next one needs, it is given longer.
GRACE_SECONDS = 2.0
MAX_GRACE_SECONDS = 20.0
WAITING_SHARE = 0.2  # of a core, at most, is used by a thread that waits

NOTHING = Reply("", (), "cancelled", GenerationStats())


@dataclass(frozen=True, slots=True)
class _Load:
    target: Target
    options: LoadOptions
    abandoned: threading.Event


class _Forget:
    """Asks for the KV cache's memory back."""


class EngineThread(threading.Thread):
    """An `api.Engine` in a daemon thread.

    Args:
        emit: called with every event, on this thread; must be quick and must not raise.
    """

    def __init__(self, emit: Callable[[Event], None]) -> None:
        super().__init__(name="engine", daemon=True)
        self._emit = emit
        self._queue: queue.SimpleQueue[_Load | Request | _Forget | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._cancelled: set[int] = set()
        self._loading: _Load | None = None
        self._opening: _Load | None = None  # what the worker is in the middle of
        self._worker: threading.Thread = self
        self._left: list[threading.Thread] = []  # former workers, in loads that did not come back
        self._closing = threading.Event()
        self._model: ChatModel | None = None
        self._load_error: GlmtuiError | None = None

    # ---- called from any thread

    def load(self, target: Target, options: LoadOptions) -> None:
        load = _Load(target, options, threading.Event())
        with self._lock:
            earlier, self._loading = self._loading, load
            if earlier is not None:
                earlier.abandoned.set()
        self._queue.put(load)
        if earlier is not None:
            threading.Thread(
                target=self._leave, args=(earlier,), name="engine-watch", daemon=True
            ).start()

    def submit(self, request: Request) -> None:
        self._queue.put(request)

    def cancel(self, request_id: int) -> None:
        with self._lock:
            self._cancelled.add(request_id)

    def forget(self) -> None:
        self._queue.put(_Forget())

    def close(self, timeout: float) -> bool:
        self._closing.set()
        with self._lock:
            if self._loading is not None:
                self._loading.abandoned.set()
        self._queue.put(None)
        deadline = time.monotonic() + timeout
        threads = [self._worker, *self._left]
        for thread in threads:
            thread.join(max(deadline - time.monotonic(), 0.0))
        return not any(thread.is_alive() for thread in threads)

    # ---- a thread that waits for an abandoned load

    def _leave(self, load: _Load) -> None:
        """Gives the queue to another thread if the worker does not come back from `load`."""
        deadline = time.monotonic() + MAX_GRACE_SECONDS
        while True:
            used = _busy_seconds(self._worker)
            if self._closing.wait(GRACE_SECONDS):
                return
            with self._lock:
                if self._opening is not load:
                    return
                works = _busy_seconds(self._worker) - used > WAITING_SHARE * GRACE_SECONDS
                if works and time.monotonic() < deadline:
                    continue
                logger.warning(
                    "a load that was abandoned does not come back: another thread goes on"
                )
                self._opening = None
                self._left.append(self._worker)
                self._worker = threading.Thread(target=self.run, name="engine", daemon=True)
                self._worker.start()
                return

    # ---- this thread

    def run(self) -> None:
        me = threading.current_thread()
        while (job := self._queue.get()) is not None and not self._closing.is_set():
            try:
                self._do(job)
            except BaseException as error:  # of `emit`, or of telling what went wrong
                _explained(error)
            if self._worker is not me:  # another one has taken over meanwhile
                return
        self._unload()

    def _do(self, job: _Load | Request | _Forget) -> None:
        if isinstance(job, _Load):
            self._do_load(job)
        elif isinstance(job, _Forget):
            if self._model is not None:
                self._model.forget()
        else:
            self._do_request(job)

    def _do_load(self, load: _Load) -> None:
        if load.abandoned.is_set():
            return
        self._unload()
        name = load.target.url if isinstance(load.target, ServerSpec) else load.target.name
        self._emit(Loading(name, 0.0))

        def report(progress: Progress) -> None:
            if not load.abandoned.is_set():
                self._emit(Loading(name, progress.done / max(progress.total, 1)))

        model: ChatModel | None = None
        failure: GlmtuiError | None = None
        with self._lock:
            self._opening = load
        try:
            model = open_model.open_model(load.target, load.options, report, load.abandoned)
        except LoadCancelled:
            pass
        except BaseException as error:
            failure = _explained(error)
        with self._lock:
            left = self._opening is not load
            self._opening = None if not left else self._opening
        if left:
            _close(model)
        elif model is not None:
            self._model = model
            self._emit(Ready(model.info))
        elif failure is not None and not load.abandoned.is_set():
            self._load_error = failure
            self._emit(LoadFailed(name, failure))

    def _unload(self) -> None:
        self._load_error = None
        model, self._model = self._model, None
        _close(model)

    def _do_request(self, request: Request) -> None:
        stopped = self._stopper(request.id)
        partial, said = NOTHING, list[str]()
        try:
            if stopped():
                self._emit(Finished(request.id, NOTHING))
                return
            stream = self._ready_model().stream(
                request.messages,
                request.params,
                cancelled=stopped,
                on_prefill=lambda progress: self._emit(Prefilling(request.id, progress)),
            )
            try:
                for text in stream:
                    said.append(text)
                    self._emit(Delta(request.id, text))
            finally:
                partial = Reply("".join(said), (), "error", NOTHING.stats)
                partial = stream.result
                stream.close()
            self._emit(Finished(request.id, partial))
        except BaseException as error:
            self._emit(Failed(request.id, _explained(error), partial))
        finally:
            with self._lock:
                self._cancelled.discard(request.id)

    def _stopper(self, request_id: int) -> Callable[[], bool]:
        # reading a set and an event needs no lock
        return lambda: request_id in self._cancelled or self._closing.is_set()

    def _ready_model(self) -> ChatModel:
        if self._model is None:
            raise self._load_error or EngineError(_("No model is loaded."), _("Pick one first."))
        return self._model


def _close(model: ChatModel | None) -> None:
    try:
        if model is not None:
            model.close()
    except BaseException as error:  # it goes all the same, and the next one is loaded
        _explained(error)


def _busy_seconds(thread: threading.Thread) -> float:
    """How long a thread has run, or waited for a processor; 0 where the system does not tell."""
    try:
        told = Path(f"/proc/self/task/{thread.native_id}/schedstat").read_text().split()
        return (int(told[0]) + int(told[1])) / 1e9  # see sched-stats in the kernel's documentation
    except (OSError, ValueError, IndexError):
        return 0.0


def _explained(error: BaseException) -> GlmtuiError:
    """The error itself if it is for users, else one that says where the details are.

    It comes without its traceback and causes: their frames would keep the weights in memory.
    """
    if isinstance(error, GlmtuiError):
        error.__cause__ = error.__context__ = None
        return error.with_traceback(None)
    with suppress(BaseException):  # there may be no memory even for a line in the log
        logger.error("unexpected", exc_info=error)
    return EngineError(
        _("Something unforeseen went wrong: {what}").format(what=_named(error)),
        _("The log file has the details; see glmtui doctor for where it is."),
    )


def _named(error: BaseException) -> str:
    """The kind of an error and what it says, if it can say anything."""
    try:
        return f"{type(error).__name__}: {error}"
    except BaseException:
        return type(error).__name__
