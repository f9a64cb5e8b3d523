"""The engine's face: what is asked of it, what it answers. Imports no torch and no textual.

A *Request* goes in, *Events* come out, each with the request's id. Two things can answer: a model
in this process (`engine.generate.LoadedModel`) and an OpenAI-compatible server
(`engine.server.ServerModel`). Both are a `ChatModel`; whoever drives them knows only this file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

from glmtui.chat import FinishReason, GenerationStats, Message, SamplingParams
from glmtui.engine.model_info import LoadedInfo, LoadOptions, Target
from glmtui.errors import GlmtuiError

# ---- one reply


@dataclass(frozen=True, slots=True)
class Request:
    """One reply asked for.

    Attributes:
        id: chosen by the asker; comes back with every event.
        messages: system prompt first if any, the question last. If the last message is the
            assistant's, the reply goes on from where it stops.
    """

    id: int
    messages: tuple[Message, ...]
    params: SamplingParams = field(default_factory=SamplingParams)


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A tool that the model wants called.

    Attributes:
        name: the tool.
        arguments: its arguments by name; None where no tools were declared, as for ChatGLM3's
            interpreter, whose content is a program, or where they cannot be read.
        content: what the model wrote for it, such as a fenced call or program.
        problem: why the arguments cannot be read.
    """

    name: str
    arguments: dict[str, Any] | None
    content: str
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Reply:
    """One reply received, whole or cut short.

    Attributes:
        text: what the reply adds; of a continued reply, the new part alone.
        ids: its token ids; empty where a server does not give them.
        dropped_turns: how many of the oldest messages did not fit into the context.
        messages: of models that call tools, the assistant's messages that the reply is (see
            `Conversation.put_reply`); the last one's content is `text`.
        call: the tool that the last of them wants called.
    """

    text: str
    ids: tuple[int, ...]
    finish_reason: FinishReason
    stats: GenerationStats
    dropped_turns: int = 0
    messages: tuple[Message, ...] = ()
    call: ToolCall | None = None


@dataclass(frozen=True, slots=True)
class PrefillProgress:
    """How far the prompt has been read, in tokens; `total` leaves the reused ones out."""

    done: int
    total: int


class ReplyStream(Protocol):
    """A reply as it is written: iterate for the pieces of text, then read `result`.

    `result` is valid at any time; before the end it holds what there is so far.
    """

    def __iter__(self) -> Iterator[str]: ...

    @property
    def result(self) -> Reply: ...

    def close(self) -> None:
        """Ends the reply where it is; what holds a connection lets go of it."""
        ...


class ChatModel(Protocol):
    """Something that answers: a model in this process or a server elsewhere."""

    @property
    def info(self) -> LoadedInfo: ...

    def stream(
        self,
        messages: Sequence[Message],
        params: SamplingParams | None = None,
        *,
        cancelled: Callable[[], bool] = lambda: False,
        on_prefill: Callable[[PrefillProgress], None] = lambda progress: None,
    ) -> ReplyStream:
        """Starts a reply. `cancelled` is read before every token and every chunk of the prompt."""
        ...

    def forget(self) -> None:
        """Gives back the memory of the KV cache; the next prompt is read from its start."""
        ...

    def close(self) -> None:
        """Gives back memory and connections."""
        ...


# ---- events, from the engine to whoever asked


@dataclass(frozen=True, slots=True)
class Loading:
    """A model is being read; `fraction` is of its bytes."""

    name: str
    fraction: float


@dataclass(frozen=True, slots=True)
class Ready:
    """The model is in memory, or the server has answered."""

    model: LoadedInfo


@dataclass(frozen=True, slots=True)
class LoadFailed:
    """The model could not be loaded; an earlier one, if any, is gone too."""

    name: str
    error: GlmtuiError


@dataclass(frozen=True, slots=True)
class Prefilling:
    """The prompt is being read."""

    request_id: int
    progress: PrefillProgress


@dataclass(frozen=True, slots=True)
class Delta:
    """A piece of the reply's text."""

    request_id: int
    text: str


@dataclass(frozen=True, slots=True)
class Finished:
    """The reply is complete, or was stopped."""

    request_id: int
    reply: Reply


@dataclass(frozen=True, slots=True)
class Failed:
    """The reply could not be finished; `partial` holds what there was of it."""

    request_id: int
    error: GlmtuiError
    partial: Reply


Event: TypeAlias = Loading | Ready | LoadFailed | Prefilling | Delta | Finished | Failed


class Engine(Protocol):
    """What the app holds: the one owner of the one model, working elsewhere.

    Every call returns at once; answers come as events, from another thread.
    """

    def load(self, target: Target, options: LoadOptions) -> None:
        """Loads a model or calls a server, in place of the one there is.

        Requests sent meanwhile wait for it.
        """
        ...

    def submit(self, request: Request) -> None: ...

    def cancel(self, request_id: int) -> None:
        """Stops this reply at the next token; a waiting one finishes empty."""
        ...

    def forget(self) -> None:
        """Gives back the memory of the KV cache, once what was asked before is done."""
        ...

    def close(self, timeout: float) -> bool:
        """Stops everything. False if the thread is still busy after `timeout` seconds."""
        ...
