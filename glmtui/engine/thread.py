"""EngineThread: the one owner of the one model. Takes Requests, emits Events.

Torch is imported when a model is opened, so that starting the thread costs nothing. Everything
that is asked goes through one queue and is done in order; only cancelling overtakes.

The thread outlives whatever a job raises, `BaseException` included: a panic in a Rust library, as
pyo3 raises it, is no `Exception`. Every load and every request ends in an event of its own.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from glmtui.chat import GenerationStats
from glmtui.engine import opening
from glmtui.engine.api import (
    ChatModel,
    Delta,
    Event,
    Failed,
    Finished,
    LoadCancelled,
    LoadFailed,
    Loading,
    LoadOptions,
    Prefilling,
    Progress,
    Ready,
    Reply,
    Request,
    ServerSpec,
    Target,
)
from glmtui.errors import EngineError, GlmtuiError
from glmtui.language import _

logger = logging.getLogger(__name__)

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
        self._closing = threading.Event()
        self._model: ChatModel | None = None
        self._load_error: GlmtuiError | None = None

    # ---- called from any thread

    def load(self, target: Target, options: LoadOptions) -> None:
        load = _Load(target, options, threading.Event())
        with self._lock:
            if self._loading is not None:
                self._loading.abandoned.set()
            self._loading = load
        self._queue.put(load)

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
        self.join(timeout)
        return not self.is_alive()

    # ---- this thread

    def run(self) -> None:
        while (job := self._queue.get()) is not None and not self._closing.is_set():
            try:
                self._do(job)
            except BaseException as error:  # of `emit`, or of telling what went wrong
                _explained(error)
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
            self._emit(Loading(name, progress.done / max(progress.total, 1)))

        try:
            self._model = opening.open_model(load.target, load.options, report, load.abandoned)
        except LoadCancelled:
            return
        except BaseException as error:
            self._load_error = _explained(error)
            self._emit(LoadFailed(name, self._load_error))
        else:
            self._emit(Ready(self._model.info))

    def _unload(self) -> None:
        self._load_error = None
        model, self._model = self._model, None
        try:
            if model is not None:
                model.close()
        except BaseException as error:  # it goes all the same, and the next one is loaded
            _explained(error)

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
