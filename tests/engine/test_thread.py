"""EngineThread: one model, one request at a time, events that carry the request's id."""

from __future__ import annotations

import json
import queue
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

from glmtui.chat import Message
from glmtui.engine import open_model
from glmtui.engine.api import (
    Delta,
    Event,
    Failed,
    Finished,
    LoadFailed,
    Loading,
    Prefilling,
    Ready,
    Request,
)
from glmtui.engine.model_info import LoadedInfo, LoadOptions, ModelInfo
from glmtui.engine.progress import LoadCancelled, Progress
from glmtui.engine.thread import EngineThread
from glmtui.errors import BadCheckpoint, EngineError
from support.scripted_model import ScriptedModel

INFO = ModelInfo("toy", Path("/nowhere"), "llama", 64, 0, "float32")
PATIENCE = 10.0  # seconds


class EngineHarness:
    """An EngineThread whose events are collected, and which loads scripted models."""

    def __init__(self) -> None:
        self.events: queue.Queue[Event] = queue.Queue()
        self.engine = EngineThread(self.events.put)
        self.opened: list[str] = []
        self.open: Callable[[threading.Event], Any] = lambda cancelled: ScriptedModel(["a", "b"])
        self.engine.start()

    def open_model(
        self, target: ModelInfo, options: LoadOptions, on_progress: Any, cancelled: threading.Event
    ) -> Any:
        self.opened.append(target.name)
        on_progress(Progress("loading", 1, 2))
        return self.open(cancelled)

    def load(self) -> None:
        self.engine.load(INFO, LoadOptions())

    def ask(self, request_id: int) -> None:
        self.engine.submit(Request(request_id, (Message("user", "hi"),)))

    def until(self, kind: type[Event]) -> list[Event]:
        """The events up to the first of this kind."""
        seen = [self.events.get(timeout=PATIENCE)]
        while not isinstance(seen[-1], kind):
            seen.append(self.events.get(timeout=PATIENCE))
        return seen


@pytest.fixture
def harness(monkeypatch: pytest.MonkeyPatch) -> Iterator[EngineHarness]:
    harness = EngineHarness()
    monkeypatch.setattr(open_model, "open_model", harness.open_model)
    yield harness
    assert harness.engine.close(PATIENCE)


def test_a_model_loads_and_answers(harness: EngineHarness) -> None:
    harness.load()
    harness.ask(7)
    events = harness.until(Finished)
    assert [type(e) for e in events] == [
        Loading,
        Loading,
        Ready,
        Prefilling,
        Delta,
        Delta,
        Finished,
    ]
    assert events[1] == Loading("toy", 0.5)
    assert [e.text for e in events if isinstance(e, Delta)] == ["a", "b"]
    finished = events[-1]
    assert isinstance(finished, Finished)
    assert (finished.request_id, finished.reply.text) == (7, "ab")


def test_a_request_submitted_before_the_model_is_ready_waits_for_it(harness: EngineHarness) -> None:
    gate = threading.Event()

    def slow(cancelled: threading.Event) -> ScriptedModel:
        assert gate.wait(PATIENCE)
        return ScriptedModel(["late"])

    harness.open = slow
    harness.load()
    harness.ask(1)
    gate.set()
    assert [e.text for e in harness.until(Finished) if isinstance(e, Delta)] == ["late"]


def test_cancelling_stops_only_that_reply(harness: EngineHarness) -> None:
    hold = threading.Event()
    pieces = ["one", lambda cancelled: hold.wait(PATIENCE), "two"]
    harness.open = lambda cancelled: ScriptedModel(pieces)
    harness.load()
    harness.ask(1)
    harness.ask(2)
    harness.until(Delta)
    harness.engine.cancel(2)  # still in the queue: it finishes empty
    hold.set()
    first, second = harness.until(Finished)[-1], harness.until(Finished)[-1]
    assert isinstance(first, Finished)
    assert isinstance(second, Finished)
    assert (first.request_id, first.reply.text) == (1, "onetwo")
    assert (second.request_id, second.reply.text) == (2, "")
    assert second.reply.finish_reason == "cancelled"


def test_a_failure_keeps_the_partial_and_the_thread(harness: EngineHarness) -> None:
    harness.open = lambda cancelled: ScriptedModel(["half", EngineError("it broke", "try again")])
    harness.load()
    harness.ask(1)
    failed = harness.until(Failed)[-1]
    assert isinstance(failed, Failed)
    assert (failed.error.message, failed.partial.text) == ("it broke", "half")
    harness.ask(2)
    assert isinstance(harness.until(Failed)[-1], Failed)


def test_an_unexpected_error_is_explained_without_a_traceback(harness: EngineHarness) -> None:
    harness.open = lambda cancelled: ScriptedModel([ZeroDivisionError("by zero")])
    harness.load()
    harness.ask(1)
    failed = harness.until(Failed)[-1]
    assert isinstance(failed, Failed)
    assert "ZeroDivisionError: by zero" in failed.error.message


def test_a_failed_load_is_reported_and_later_requests_fail_with_it(harness: EngineHarness) -> None:
    def broken(cancelled: threading.Event) -> ScriptedModel:
        raise BadCheckpoint("no weights", "pull again")

    harness.open = broken
    harness.load()
    harness.ask(1)
    events = harness.until(Failed)
    load_failed = next(e for e in events if isinstance(e, LoadFailed))
    failed = events[-1]
    assert isinstance(failed, Failed)
    assert load_failed.error is failed.error
    harness.open = lambda cancelled: ScriptedModel(["better"])
    harness.load()
    harness.ask(2)
    assert isinstance(harness.until(Finished)[-1], Finished)


def test_without_a_model_a_request_fails(harness: EngineHarness) -> None:
    harness.ask(1)
    failed = harness.until(Failed)[-1]
    assert isinstance(failed, Failed)
    assert failed.error.message == "No model is loaded."


@pytest.mark.parametrize("end", [LoadCancelled(), EngineError("too late"), OSError("gone")])
def test_a_newer_load_abandons_the_current_one(harness: EngineHarness, end: Exception) -> None:
    started = threading.Event()

    def endless(cancelled: threading.Event) -> ScriptedModel:
        started.set()
        assert cancelled.wait(PATIENCE)
        raise end

    harness.open = endless
    harness.load()
    assert started.wait(PATIENCE)
    harness.open = lambda cancelled: ScriptedModel([])
    harness.load()
    events = harness.until(Ready)
    assert not any(isinstance(e, LoadFailed) for e in events)
    assert isinstance(events[-1], Ready)
    assert isinstance(events[-1].model, LoadedInfo)


def test_a_new_model_closes_the_old_one(harness: EngineHarness) -> None:
    models = [ScriptedModel(["1"]), ScriptedModel(["2"])]
    waiting = iter(models)
    harness.open = lambda cancelled: next(waiting)
    harness.load()
    harness.until(Ready)
    harness.load()
    harness.until(Ready)
    assert [m.closed for m in models] == [True, False]


def test_closing_in_mid_load_abandons_it(monkeypatch: pytest.MonkeyPatch) -> None:
    harness = EngineHarness()
    monkeypatch.setattr(open_model, "open_model", harness.open_model)
    started = threading.Event()

    def endless(cancelled: threading.Event) -> ScriptedModel:
        started.set()
        assert cancelled.wait(PATIENCE)
        raise LoadCancelled

    harness.open = endless
    harness.load()
    assert started.wait(PATIENCE)
    assert harness.engine.close(PATIENCE)


def test_the_cache_is_cleared_after_earlier_requests(harness: EngineHarness) -> None:
    model = ScriptedModel(["a"])
    clears_seen: list[int] = []

    def record(cancelled: Any) -> None:
        clears_seen.append(model.cache_clears)

    model.pieces = ["a", record]
    harness.open = lambda cancelled: model
    harness.engine.clear_cache()  # without a model there is no cache
    harness.load()
    harness.ask(1)
    harness.engine.clear_cache()
    harness.ask(2)
    harness.until(Finished)
    harness.until(Finished)
    assert clears_seen == [0, 1]
    assert model.cache_clears == 1


# ---- exceptions that are not an Exception

# A merge of a piece shorter than the prefix: the library takes a slice with end before start.
PANICS = json.dumps(
    {
        "added_tokens": [],
        "model": {
            "type": "BPE",
            "continuing_subword_prefix": "##",
            "vocab": {"a": 0, "b": 1, "ab": 2},
            "merges": [["a", "b"]],
        },
    }
).encode()


def panic(*_: object) -> Any:
    """Raises the exception of pyo3 for a panic in Rust."""
    Tokenizer.from_buffer(PANICS)


class Unprintable(BaseException):
    def __str__(self) -> str:
        raise self


def raising(error: BaseException) -> Callable[[threading.Event], Any]:
    def opened(cancelled: threading.Event) -> Any:
        raise error

    return opened


def check_works(harness: EngineHarness, request_id: int) -> None:
    """Loads a working model and gets a reply."""
    harness.open = lambda cancelled: ScriptedModel(["sound"])
    harness.load()
    harness.ask(request_id)
    seen = harness.until(Finished)
    assert any(isinstance(event, Ready) for event in seen)
    assert isinstance(seen[-1], Finished)
    assert seen[-1].reply.text == "sound"


def test_a_panic_is_not_an_exception() -> None:
    with pytest.raises(BaseException, match="slice index") as caught:
        panic()
    assert not isinstance(caught.value, Exception)


@pytest.mark.parametrize(
    "opened",
    [
        panic,
        raising(MemoryError()),
        raising(KeyboardInterrupt()),
        raising(SystemExit(3)),
        raising(GeneratorExit()),
        raising(Unprintable()),
    ],
    ids=["panic", "MemoryError", "KeyboardInterrupt", "SystemExit", "GeneratorExit", "Wordless"],
)
def test_whatever_a_load_raises_is_reported_and_the_next_one_works(
    harness: EngineHarness, opened: Callable[[threading.Event], Any]
) -> None:
    harness.open = opened
    harness.load()
    harness.ask(1)
    load_failed = harness.until(LoadFailed)[-1]
    failed = harness.until(Failed)[-1]
    assert isinstance(load_failed, LoadFailed)
    assert isinstance(failed, Failed)
    assert "An unexpected error occurred" in load_failed.error.message
    check_works(harness, 2)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3), Unprintable()])
def test_whatever_a_reply_raises_keeps_the_partial(
    harness: EngineHarness, error: BaseException
) -> None:
    harness.open = lambda cancelled: ScriptedModel(["half", error])
    harness.load()
    harness.ask(1)
    failed = harness.until(Failed)[-1]
    assert isinstance(failed, Failed)
    assert failed.partial.text == "half"
    harness.open = lambda cancelled: ScriptedModel(["half", panic])
    harness.load()
    harness.ask(2)
    failed = harness.until(Failed)[-1]
    assert isinstance(failed, Failed)
    assert failed.partial.text == "half"
    assert "PanicException" in failed.error.message
    check_works(harness, 3)


def test_a_reply_without_a_result_keeps_its_text(harness: EngineHarness) -> None:
    class Endless(ScriptedModel):
        def stream(self, *args: Any, **kwargs: Any) -> Any:
            return broken(super().stream(*args, **kwargs))

    def broken(stream: Any) -> Any:
        class Broken:
            result = property(panic)
            close = stream.close

            def __iter__(self) -> Iterator[str]:
                return iter(stream)

        return Broken()

    harness.open = lambda cancelled: Endless(["all ", "of it"])
    harness.load()
    harness.ask(1)
    failed = harness.until(Failed)[-1]
    assert isinstance(failed, Failed)
    assert failed.partial.text == "all of it"
    check_works(harness, 2)


@pytest.mark.parametrize("error", [RuntimeError("no"), MemoryError(), SystemExit(1), None])
def test_errors_of_close_and_clear_cache_do_not_end_the_thread(
    harness: EngineHarness, error: BaseException | None
) -> None:
    class Stuck(ScriptedModel):
        def close(self) -> None:
            self.clear_cache()

        def clear_cache(self) -> None:
            if error is None:
                panic()
            else:
                raise error

    harness.open = lambda cancelled: Stuck(["first"])
    harness.load()
    harness.engine.clear_cache()
    harness.ask(1)
    assert isinstance(harness.until(Finished)[-1], Finished)
    check_works(harness, 2)
    harness.open = lambda cancelled: Stuck(["last"])  # closed when the thread ends
    harness.load()
    harness.until(Ready)


def test_errors_of_the_event_handler_do_not_end_the_thread(harness: EngineHarness) -> None:
    emit = harness.engine._emit

    def refuse(event: Event) -> None:
        if not isinstance(event, Loading) and getattr(event, "request_id", 0) != 3:
            raise SystemExit(1)
        emit(event)

    harness.engine._emit = refuse
    harness.ask(1)  # no model: Failed
    harness.load()  # Ready
    harness.ask(2)  # Prefilling, Delta, Finished
    harness.ask(3)
    assert isinstance(harness.until(Finished)[-1], Finished)
