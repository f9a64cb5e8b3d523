"""A ChatModel that says what it is told to: for tests of whoever talks to one."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence

from glmtui.chat import GenerationStats, Message, SamplingParams
from glmtui.engine.api import LoadedInfo, PrefillProgress, Reply


class ScriptedModel:
    """Says `pieces`; an exception among them is raised, and a callable called, in its turn."""

    def __init__(self, pieces: Iterable[str | BaseException | Callable[[], None]]) -> None:
        self.info = LoadedInfo(name="scripted", device="cpu", context_length=64)
        self.pieces = pieces
        self.asked: list[tuple[list[Message], SamplingParams | None]] = []
        self.closed = False

    def stream(
        self,
        messages: Sequence[Message],
        params: SamplingParams | None = None,
        *,
        cancelled: Callable[[], bool] = lambda: False,
        on_prefill: Callable[[PrefillProgress], None] = lambda progress: None,
    ) -> ScriptedStream:
        self.asked.append((list(messages), params))
        on_prefill(PrefillProgress(3, 3))
        return ScriptedStream(self.pieces)

    def close(self) -> None:
        self.closed = True


class ScriptedStream:
    def __init__(self, pieces: Iterable[str | BaseException | Callable[[], None]]) -> None:
        self._pieces = iter(pieces)
        self._said: list[str] = []

    def __iter__(self) -> Iterator[str]:
        for piece in self._pieces:
            if isinstance(piece, BaseException):
                raise piece
            if callable(piece):
                piece()
            else:
                self._said.append(piece)
                yield piece

    @property
    def result(self) -> Reply:
        stats = GenerationStats(
            prompt_tokens=3,
            generated_tokens=len(self._said),
            prefill_seconds=1.5,
            decode_seconds=2.0,
            first_token_seconds=1.6,
        )
        return Reply("".join(self._said), tuple(range(len(self._said))), "stop", stats)

    def close(self) -> None:
        self._pieces = iter(())


def interrupt() -> None:
    """What Ctrl+C does to this process."""
    os.kill(os.getpid(), signal.SIGINT)


def hang() -> None:
    """Never returns."""
    threading.Event().wait()
