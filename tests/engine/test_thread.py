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


class Desk:
    """An EngineThread with a mailbox for its events, and a say in what it loads."""

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
def desk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    made = Desk()
    monkeypatch.setattr(open_model, "open_model", made.open_model)
    yield made
    assert made.engine.close(PATIENCE)


def test_a_model_loads_and_answers(desk: Desk) -> None:
    desk.load()
    desk.ask(7)
    events = desk.until(Finished)
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


def test_a_question_sent_before_the_model_waits_for_it(desk: Desk) -> None:
    gate = threading.Event()

    def slow(cancelled: threading.Event) -> ScriptedModel:
        assert gate.wait(PATIENCE)
        return ScriptedModel(["late"])

    desk.open = slow
    desk.load()
    desk.ask(1)
    gate.set()
    assert [e.text for e in desk.until(Finished) if isinstance(e, Delta)] == ["late"]


def test_cancelling_stops_that_reply_alone(desk: Desk) -> None:
    hold = threading.Event()
    pieces = ["one", lambda cancelled: hold.wait(PATIENCE), "two"]
    desk.open = lambda cancelled: ScriptedModel(pieces)
    desk.load()
    desk.ask(1)
    desk.ask(2)
    desk.until(Delta)
    desk.engine.cancel(2)  # still in the queue: it finishes empty
    hold.set()
    first, second = desk.until(Finished)[-1], desk.until(Finished)[-1]
    assert isinstance(first, Finished)
    assert isinstance(second, Finished)
    assert (first.request_id, first.reply.text) == (1, "onetwo")
    assert (second.request_id, second.reply.text) == (2, "")
    assert second.reply.finish_reason == "cancelled"


def test_a_failure_keeps_the_partial_and_the_thread(desk: Desk) -> None:
    desk.open = lambda cancelled: ScriptedModel(["half", EngineError("it broke", "try again")])
    desk.load()
    desk.ask(1)
    failed = desk.until(Failed)[-1]
    assert isinstance(failed, Failed)
    assert (failed.error.message, failed.partial.text) == ("it broke", "half")
    desk.ask(2)
    assert isinstance(desk.until(Failed)[-1], Failed)


def test_the_unforeseen_is_explained_without_a_traceback(desk: Desk) -> None:
    desk.open = lambda cancelled: ScriptedModel([ZeroDivisionError("by zero")])
    desk.load()
    desk.ask(1)
    failed = desk.until(Failed)[-1]
    assert isinstance(failed, Failed)
    assert "ZeroDivisionError: by zero" in failed.error.message


def test_a_failed_load_is_told_and_answers_for_it(desk: Desk) -> None:
    def broken(cancelled: threading.Event) -> ScriptedModel:
        raise BadCheckpoint("no weights", "pull again")

    desk.open = broken
    desk.load()
    desk.ask(1)
    events = desk.until(Failed)
    load_failed = next(e for e in events if isinstance(e, LoadFailed))
    failed = events[-1]
    assert isinstance(failed, Failed)
    assert load_failed.error is failed.error
    desk.open = lambda cancelled: ScriptedModel(["better"])
    desk.load()
    desk.ask(2)
    assert isinstance(desk.until(Finished)[-1], Finished)


def test_without_a_model_a_request_fails(desk: Desk) -> None:
    desk.ask(1)
    failed = desk.until(Failed)[-1]
    assert isinstance(failed, Failed)
    assert failed.error.message == "No model is loaded."


@pytest.mark.parametrize("end", [LoadCancelled(), EngineError("too late"), OSError("gone")])
def test_a_newer_load_abandons_the_one_under_way(desk: Desk, end: Exception) -> None:
    begun = threading.Event()

    def endless(cancelled: threading.Event) -> ScriptedModel:
        begun.set()
        assert cancelled.wait(PATIENCE)
        raise end

    desk.open = endless
    desk.load()
    assert begun.wait(PATIENCE)
    desk.open = lambda cancelled: ScriptedModel([])
    desk.load()
    events = desk.until(Ready)
    assert not any(isinstance(e, LoadFailed) for e in events)
    assert isinstance(events[-1], Ready)
    assert isinstance(events[-1].model, LoadedInfo)


def test_a_new_model_closes_the_old_one(desk: Desk) -> None:
    models = [ScriptedModel(["1"]), ScriptedModel(["2"])]
    waiting = iter(models)
    desk.open = lambda cancelled: next(waiting)
    desk.load()
    desk.until(Ready)
    desk.load()
    desk.until(Ready)
    assert [m.closed for m in models] == [True, False]


def test_closing_in_mid_load_abandons_it(monkeypatch: pytest.MonkeyPatch) -> None:
    desk = Desk()
    monkeypatch.setattr(open_model, "open_model", desk.open_model)
    begun = threading.Event()

    def endless(cancelled: threading.Event) -> ScriptedModel:
        begun.set()
        assert cancelled.wait(PATIENCE)
        raise LoadCancelled

    desk.open = endless
    desk.load()
    assert begun.wait(PATIENCE)
    assert desk.engine.close(PATIENCE)


def test_the_cache_is_given_back_once_what_was_asked_before_is_done(desk: Desk) -> None:
    model = ScriptedModel(["a"])
    asked_first: list[int] = []

    def note(cancelled: Any) -> None:
        asked_first.append(model.cache_clears)

    model.pieces = ["a", note]
    desk.open = lambda cancelled: model
    desk.engine.clear_cache()  # with no model there is nothing to give back
    desk.load()
    desk.ask(1)
    desk.engine.clear_cache()
    desk.ask(2)
    desk.until(Finished)
    desk.until(Finished)
    assert asked_first == [0, 1]
    assert model.cache_clears == 1


# ---- what is no Exception

# a merge of a piece shorter than the prefix: the library takes a slice that ends before it begins
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
    """Raises what pyo3 makes of a panic in Rust."""
    Tokenizer.from_buffer(PANICS)


class Wordless(BaseException):
    def __str__(self) -> str:
        raise self


def raising(error: BaseException) -> Callable[[threading.Event], Any]:
    def opened(cancelled: threading.Event) -> Any:
        raise error

    return opened


def answers(desk: Desk, request_id: int) -> None:
    """A sound model loads and answers."""
    desk.open = lambda cancelled: ScriptedModel(["sound"])
    desk.load()
    desk.ask(request_id)
    seen = desk.until(Finished)
    assert any(isinstance(event, Ready) for event in seen)
    assert isinstance(seen[-1], Finished)
    assert seen[-1].reply.text == "sound"


def test_a_panic_is_no_exception() -> None:
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
        raising(Wordless()),
    ],
    ids=["panic", "MemoryError", "KeyboardInterrupt", "SystemExit", "GeneratorExit", "Wordless"],
)
def test_whatever_a_load_raises_is_told_and_the_next_one_works(
    desk: Desk, opened: Callable[[threading.Event], Any]
) -> None:
    desk.open = opened
    desk.load()
    desk.ask(1)
    told = desk.until(LoadFailed)[-1]
    failed = desk.until(Failed)[-1]
    assert isinstance(told, LoadFailed)
    assert isinstance(failed, Failed)
    assert "An unexpected error occurred" in told.error.message
    answers(desk, 2)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3), Wordless()])
def test_whatever_a_reply_raises_keeps_the_partial(desk: Desk, error: BaseException) -> None:
    desk.open = lambda cancelled: ScriptedModel(["half", error])
    desk.load()
    desk.ask(1)
    failed = desk.until(Failed)[-1]
    assert isinstance(failed, Failed)
    assert failed.partial.text == "half"
    desk.open = lambda cancelled: ScriptedModel(["half", panic])
    desk.load()
    desk.ask(2)
    failed = desk.until(Failed)[-1]
    assert isinstance(failed, Failed)
    assert failed.partial.text == "half"
    assert "PanicException" in failed.error.message
    answers(desk, 3)


def test_a_reply_whose_end_cannot_be_told_keeps_its_text(desk: Desk) -> None:
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

    desk.open = lambda cancelled: Endless(["all ", "of it"])
    desk.load()
    desk.ask(1)
    failed = desk.until(Failed)[-1]
    assert isinstance(failed, Failed)
    assert failed.partial.text == "all of it"
    answers(desk, 2)


@pytest.mark.parametrize("error", [RuntimeError("no"), MemoryError(), SystemExit(1), None])
def test_a_model_that_cannot_close_or_forget_ends_nothing(
    desk: Desk, error: BaseException | None
) -> None:
    class Stuck(ScriptedModel):
        def close(self) -> None:
            self.clear_cache()

        def clear_cache(self) -> None:
            if error is None:
                panic()
            else:
                raise error

    desk.open = lambda cancelled: Stuck(["first"])
    desk.load()
    desk.engine.clear_cache()
    desk.ask(1)
    assert isinstance(desk.until(Finished)[-1], Finished)
    answers(desk, 2)
    desk.open = lambda cancelled: Stuck(["last"])  # the thread's own end comes past it too
    desk.load()
    desk.until(Ready)


def test_an_event_that_nobody_takes_ends_nothing(desk: Desk) -> None:
    taken = desk.engine._emit

    def refuse(event: Event) -> None:
        if not isinstance(event, Loading) and getattr(event, "request_id", 0) != 3:
            raise SystemExit(1)
        taken(event)

    desk.engine._emit = refuse
    desk.ask(1)  # no model: Failed
    desk.load()  # Ready
    desk.ask(2)  # Prefilling, Delta, Finished
    desk.ask(3)
    assert isinstance(desk.until(Finished)[-1], Finished)
