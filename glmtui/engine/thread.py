"""EngineThread: the owner of the one model. Takes Requests, emits Events.

Loads, requests and cache clears go through one queue and are done in order; only a cancel takes
effect at once. Torch is imported when a model is opened, so that the thread starts quickly.

The thread survives any exception of a job, even a `BaseException`, such as pyo3 raises for a panic
in a Rust library. Every load and every request ends in an event of its own. If an abandoned load
does not return, because a disk or server does not answer, another thread takes over the queue.
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

# Seconds that an abandoned load has to return. A thread that waits is then given up. One that still
# works, and so holds memory that the next model needs, may go on until the second limit.
GRACE_SECONDS = 2.0
MAX_GRACE_SECONDS = 20.0
WAITING_SHARE = 0.2  # a thread that uses at most this share of one core counts as waiting

EMPTY_REPLY = Reply("", (), "cancelled", GenerationStats())


@dataclass(frozen=True, slots=True)
class _Load:
    target: Target
    options: LoadOptions
    abandoned: threading.Event


class _ClearCache:
    pass


class EngineThread(threading.Thread):
    """An `api.Engine` in a daemon thread.

    Args:
        emit: called with every event, on this thread; must be quick and must not raise.
    """

    def __init__(self, emit: Callable[[Event], None]) -> None:
        super().__init__(name="engine", daemon=True)
        self._emit = emit
        self._queue: queue.SimpleQueue[_Load | Request | _ClearCache | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._cancelled: set[int] = set()
        self._requested_load: _Load | None = None
        self._current_load: _Load | None = None  # which the worker is doing
        self._worker: threading.Thread = self
        self._given_up: list[threading.Thread] = []  # earlier workers, whose load did not return
        self._closing = threading.Event()
        self._model: ChatModel | None = None
        self._load_error: GlmtuiError | None = None

    # ---- called from any thread

    def load(self, target: Target, options: LoadOptions) -> None:
        load = _Load(target, options, threading.Event())
        with self._lock:
            earlier, self._requested_load = self._requested_load, load
            if earlier is not None:
                earlier.abandoned.set()
        self._queue.put(load)
        if earlier is not None:
            threading.Thread(
                target=self._watch_abandoned, args=(earlier,), name="engine-watch", daemon=True
            ).start()

    def submit(self, request: Request) -> None:
        self._queue.put(request)

    def cancel(self, request_id: int) -> None:
        with self._lock:
            self._cancelled.add(request_id)

    def clear_cache(self) -> None:
        self._queue.put(_ClearCache())

    def close(self, timeout: float) -> bool:
        self._closing.set()
        with self._lock:
            if self._requested_load is not None:
                self._requested_load.abandoned.set()
        self._queue.put(None)
        deadline = time.monotonic() + timeout
        threads = [self._worker, *self._given_up]
        for thread in threads:
            thread.join(max(deadline - time.monotonic(), 0.0))
        return not any(thread.is_alive() for thread in threads)

    # ---- on a thread that watches an abandoned load

    def _watch_abandoned(self, load: _Load) -> None:
        """Replaces the worker if it does not return from `load`."""
        deadline = time.monotonic() + MAX_GRACE_SECONDS
        while True:
            busy_before = _busy_seconds(self._worker)
            if self._closing.wait(GRACE_SECONDS):
                return
            with self._lock:
                if self._current_load is not load:
                    return
                busy = _busy_seconds(self._worker) - busy_before
                if busy > WAITING_SHARE * GRACE_SECONDS and time.monotonic() < deadline:
                    continue
                logger.warning("an abandoned load does not return; another thread takes over")
                self._current_load = None
                self._given_up.append(self._worker)
                self._worker = threading.Thread(target=self.run, name="engine", daemon=True)
                self._worker.start()
                return

    # ---- on the worker

    def run(self) -> None:
        this_thread = threading.current_thread()
        while (job := self._queue.get()) is not None and not self._closing.is_set():
            try:
                self._do(job)
            except BaseException as error:  # of `emit`, or while an error was handled
                _to_glmtui_error(error)
            if self._worker is not this_thread:  # another thread has taken over
                return
        self._unload()

    def _do(self, job: _Load | Request | _ClearCache) -> None:
        if isinstance(job, _Load):
            self._do_load(job)
        elif isinstance(job, _ClearCache):
            if self._model is not None:
                self._model.clear_cache()
        else:
            self._do_request(job)

    def _do_load(self, load: _Load) -> None:
        if load.abandoned.is_set():
            return
        self._unload()
        name = load.target.url if isinstance(load.target, ServerSpec) else load.target.name
        self._emit(Loading(name, 0.0))

        def on_progress(progress: Progress) -> None:
            if not load.abandoned.is_set():
                self._emit(Loading(name, progress.done / max(progress.total, 1)))

        model: ChatModel | None = None
        failure: GlmtuiError | None = None
        with self._lock:
            self._current_load = load
        try:
            model = open_model.open_model(load.target, load.options, on_progress, load.abandoned)
        except LoadCancelled:
            pass
        except BaseException as error:
            failure = _to_glmtui_error(error)
        with self._lock:
            given_up = self._current_load is not load
            if not given_up:
                self._current_load = None
        if given_up:
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
        partial, pieces = EMPTY_REPLY, list[str]()

        def cancelled() -> bool:  # a set and an event can be read without the lock
            return request.id in self._cancelled or self._closing.is_set()

        try:
            if cancelled():
                self._emit(Finished(request.id, EMPTY_REPLY))
                return
            stream = self._loaded_model().stream(
                request.messages,
                request.params,
                cancelled=cancelled,
                on_prefill=lambda progress: self._emit(Prefilling(request.id, progress)),
            )
            try:
                for text in stream:
                    pieces.append(text)
                    self._emit(Delta(request.id, text))
            finally:
                # should `result` fail, there is still the text
                partial = Reply("".join(pieces), (), "error", EMPTY_REPLY.stats)
                partial = stream.result
                stream.close()
            self._emit(Finished(request.id, partial))
        except BaseException as error:
            self._emit(Failed(request.id, _to_glmtui_error(error), partial))
        finally:
            with self._lock:
                self._cancelled.discard(request.id)

    def _loaded_model(self) -> ChatModel:
        if self._model is None:
            raise self._load_error or EngineError(
                _("No model is loaded."), _("Choose a model first.")
            )
        return self._model


def _close(model: ChatModel | None) -> None:
    try:
        if model is not None:
            model.close()
    except BaseException as error:  # the model is dropped anyway, and the next one can be loaded
        _to_glmtui_error(error)


def _busy_seconds(thread: threading.Thread) -> float:
    """Seconds that a thread has run or waited for a processor; 0 if the system does not tell."""
    try:
        fields = Path(f"/proc/self/task/{thread.native_id}/schedstat").read_text().split()
        # nanoseconds on the CPU and in the run queue; see sched-stats in the kernel's documentation
        return (int(fields[0]) + int(fields[1])) / 1e9
    except (OSError, ValueError, IndexError):
        return 0.0


def _to_glmtui_error(error: BaseException) -> GlmtuiError:
    """The error itself if it is for users; else it is logged, and a general one returned.

    The result has no traceback and no causes: their frames would keep the weights in memory.
    """
    if isinstance(error, GlmtuiError):
        error.__cause__ = error.__context__ = None
        return error.with_traceback(None)
    with suppress(BaseException):  # there may be no memory even to write a log line
        logger.error("unexpected", exc_info=error)
    return EngineError(
        _("An unexpected error occurred: {what}").format(what=_describe(error)),
        _("See the log file for details; glmtui doctor shows where it is."),
    )


def _describe(error: BaseException) -> str:
    """Type and message of an error, or the type alone if the message cannot be made."""
    try:
        return f"{type(error).__name__}: {error}"
    except BaseException:
        return type(error).__name__
