"""FakeEngine: an `api.Engine` that replies with a given text, from its own thread."""

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
    """Set its attributes before a question is asked.

    Attributes:
        pieces: the texts of the reply's deltas.
        rate: deltas per second; 0 sends them all at once.
        pause_after: number of deltas after which the reply waits for `resume`.
        load_gate: a load waits until this event is set.
        model: what a load results in.
        messages, call: the parts of the reply, as from a model that calls tools.
        stats: the reply's statistics; None for made-up numbers.
        reply_error, load_error: the errors that replies and loads end with.
        requests, loads, cancelled, cache_clears: what the engine was asked to do.
    """

    def __init__(self, emit: Callable[[Event], None]) -> None:
        self.emit = emit
        self.pieces: list[str] = ["Hello", " there", "."]
        self.rate = 0.0
        self.pause_after: int | None = None
        self.resume = threading.Event()
        self.load_gate = threading.Event()
        self.load_gate.set()
        self.reply_error: GlmtuiError | None = None
        self.load_error: GlmtuiError | None = None
        self.dropped_turns = 0
        self.model = LoadedInfo("fake", "cpu", context_length=2048, defaults=DEFAULTS)
        self.stats: GenerationStats | None = None
        self.messages: tuple[Message, ...] = ()
        self.call: ToolCall | None = None
        self.requests: list[Request] = []
        self.loads: list[tuple[Target, LoadOptions]] = []
        self.cancelled: set[int] = set()
        self.closed = False
        self.cache_clears = 0
        self._never = threading.Event()  # never set: its `wait` is a sleep
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
        self.resume.set()

    def clear_cache(self) -> None:
        self.cache_clears += 1

    def close(self, timeout: float) -> bool:
        self.closed = True
        self.resume.set()
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
        if self.load_error is not None:
            self.emit(LoadFailed(name, self.load_error))
        else:
            self.emit(Ready(self.model))

    def _answer(self, request: Request) -> None:
        texts: list[str] = []
        reason: FinishReason = "stop"
        self.emit(Prefilling(request.id, PrefillProgress(0, 12)))
        for n, piece in enumerate(self.pieces):
            if n == self.pause_after:
                self.resume.wait(60)
            if self.closed or request.id in self.cancelled:
                reason = "cancelled"
                break
            texts.append(piece)
            self.emit(Delta(request.id, piece))
            if self.rate:
                self._never.wait(1 / self.rate)
        stats = self.stats or GenerationStats(
            prompt_tokens=12, generated_tokens=len(texts), prefill_seconds=0.1, decode_seconds=0.1
        )
        text = self.messages[-1].content if self.messages else "".join(texts)
        reply = Reply(text, (), reason, stats, self.dropped_turns, self.messages, self.call)
        if self.reply_error is not None:
            self.emit(Failed(request.id, self.reply_error, reply))
        else:
            self.emit(Finished(request.id, reply))
