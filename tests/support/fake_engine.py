"""FakeEngine: an `api.Engine` that answers with a set text at a set rate, from its own thread."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable

from glmtui.chat import FinishReason, GenerationStats, Message, SamplingParams
from glmtui.engine.api import (
    Delta,
    Event,
    Failed,
    Finished,
    LoadFailed,
    Loading,
    Prefilling,
    PrefillProgress,
    Ready,
    Reply,
    Request,
    ToolCall,
)
from glmtui.engine.model_info import LoadedInfo, LoadOptions, Target
from glmtui.errors import GlmtuiError

DEFAULTS = SamplingParams(temperature=0.8, top_k=50, top_p=0.95, do_sample=True)


class FakeEngine:
    """Set its attributes before it is asked.

    Attributes:
        pieces: the reply.
        rate: pieces per second; 0 sends them all at once.
        hold: set it to let the reply go on after the first `held_after` pieces.
        load_gate: set it to let a load end.
        model: what is loaded.
        said, call: how the reply is taken apart, as by a model that calls tools.
        stats: what a reply is said to cost; None for the numbers of a fake.
        fail, fail_load: errors to end with.
    """

    def __init__(self, emit: Callable[[Event], None]) -> None:
        self.emit = emit
        self.pieces: list[str] = ["Hello", " there", "."]
        self.rate = 0.0
        self.held_after: int | None = None
        self.hold = threading.Event()
        self.load_gate = threading.Event()
        self.load_gate.set()
        self.fail: GlmtuiError | None = None
        self.fail_load: GlmtuiError | None = None
        self.dropped_turns = 0
        self.model = LoadedInfo("fake", "cpu", context_length=2048, defaults=DEFAULTS)
        self.stats: GenerationStats | None = None
        self.said: tuple[Message, ...] = ()
        self.call: ToolCall | None = None
        self.requests: list[Request] = []
        self.loads: list[tuple[Target, LoadOptions]] = []
        self.cancelled: set[int] = set()
        self.closed = False
        self.cache_clears = 0
        self._pause = threading.Event()  # never set: a sleep that is not one
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def load(self, target: Target, options: LoadOptions) -> None:
        self.loads.append((target, options))
        self._jobs.put(lambda: self._load(target))

    def submit(self, request: Request) -> None:
        self.requests.append(request)
        self._jobs.put(lambda: self._answer(request))

    def cancel(self, request_id: int) -> None:
        self.cancelled.add(request_id)
        self.hold.set()

    def clear_cache(self) -> None:
        self.cache_clears += 1

    def close(self, timeout: float) -> bool:
        self.closed = True
        self.hold.set()
        self.load_gate.set()
        self._jobs.put(None)
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()

    def _load(self, target: Target) -> None:
        name = getattr(target, "name", None) or target.url
        self.emit(Loading(name, 0.43))
        self.load_gate.wait(60)
        if self.fail_load is not None:
            self.emit(LoadFailed(name, self.fail_load))
        else:
            self.emit(Ready(self.model))

    def _answer(self, request: Request) -> None:
        said: list[str] = []
        reason: FinishReason = "stop"
        self.emit(Prefilling(request.id, PrefillProgress(0, 12)))
        for n, piece in enumerate(self.pieces):
            if n == self.held_after:
                self.hold.wait(60)
            if self.closed or request.id in self.cancelled:
                reason = "cancelled"
                break
            said.append(piece)
            self.emit(Delta(request.id, piece))
            if self.rate:
                self._pause.wait(1 / self.rate)
        stats = self.stats or GenerationStats(
            prompt_tokens=12, generated_tokens=len(said), prefill_seconds=0.1, decode_seconds=0.1
        )
        text = self.said[-1].content if self.said else "".join(said)
        reply = Reply(text, (), reason, stats, self.dropped_turns, self.said, self.call)
        if self.fail is not None:
            self.emit(Failed(request.id, self.fail, reply))
        else:
            self.emit(Finished(request.id, reply))
