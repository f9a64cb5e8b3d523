"""ScriptedModel: a ChatModel with given replies, for tests of its callers."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeAlias

from glmtui.chat import FinishReason, GenerationStats, Message, SamplingParams
from glmtui.engine.api import PrefillProgress, Reply
from glmtui.engine.model_info import LoadedInfo

Cancelled: TypeAlias = Callable[[], bool]
Piece: TypeAlias = str | BaseException | Callable[[Cancelled], None]


class ScriptedModel:
    """Replies with `pieces`; exceptions among them are raised, and functions are called."""

    def __init__(self, pieces: Iterable[Piece]) -> None:
        self.info = LoadedInfo(name="scripted", device="cpu", context_length=64)
        self.pieces = pieces
        self.requests: list[tuple[list[Message], SamplingParams | None]] = []
        self.closed = False
        self.cache_clears = 0

    def stream(
        self,
        messages: Sequence[Message],
        params: SamplingParams | None = None,
        *,
        cancelled: Cancelled = lambda: False,
        on_prefill: Callable[[PrefillProgress], None] = lambda progress: None,
    ) -> ScriptedStream:
        self.requests.append((list(messages), params))
        on_prefill(PrefillProgress(3, 3))
        return ScriptedStream(self.pieces, cancelled)

    def clear_cache(self) -> None:
        self.cache_clears += 1

    def close(self) -> None:
        self.closed = True


class ScriptedStream:
    def __init__(
        self,
        pieces: Iterable[Piece],
        cancelled: Cancelled,
    ) -> None:
        self._pieces = iter(pieces)
        self._cancelled = cancelled
        self._text: list[str] = []
        self._finish: FinishReason = "cancelled"

    def __iter__(self) -> Iterator[str]:
        for piece in self._pieces:
            if self._cancelled():
                return
            if isinstance(piece, BaseException):
                raise piece
            if callable(piece):
                piece(self._cancelled)
            else:
                self._text.append(piece)
                yield piece
        self._finish = "stop"

    @property
    def result(self) -> Reply:
        stats = GenerationStats(
            prompt_tokens=3,
            generated_tokens=len(self._text),
            prefill_seconds=1.5,
            decode_seconds=2.0,
            first_token_seconds=1.6,
        )
        return Reply("".join(self._text), tuple(range(len(self._text))), self._finish, stats)

    def close(self) -> None:
        self._pieces = iter(())


def interrupt(cancelled: Cancelled) -> None:
    """Sends this process the signal of Ctrl+C."""
    os.kill(os.getpid(), signal.SIGINT)


def wait(cancelled: Cancelled) -> None:
    """Returns when the reply is cancelled."""
    while not cancelled():
        time.sleep(0.01)


def wait_for_ever(cancelled: Cancelled) -> None:
    """Prints "waiting" and never returns."""
    print("waiting", flush=True)
    while True:
        time.sleep(0.01)
