"""The engine's interface: a Request goes in, Events come out, each with the request's id.

Two classes answer as a `ChatModel`: a model in this process
(`runtime.model_runner.LoadedModel`) and an OpenAI-compatible server (`remote.ServerModel`).
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
    """A request for one reply.

    Attributes:
        id: chosen by the caller; every event of the reply has it.
        messages: the system prompt first, if there is one; the question last. If the last message
            is the assistant's, the reply continues it.
    """

    id: int
    messages: tuple[Message, ...]
    params: SamplingParams = field(default_factory=SamplingParams)


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A tool call that the model asks for.

    Attributes:
        arguments: by name; None if they cannot be parsed, or if no tools were declared, as for
            ChatGLM3's interpreter, whose content is a program.
        content: what the model wrote for the call, such as a code block.
        problem: why the arguments cannot be parsed.
    """

    name: str
    arguments: dict[str, Any] | None
    content: str
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Reply:
    """A reply, complete or partial.

    Attributes:
        text: what the reply adds; of a continued message only the new part.
        ids: token ids; empty if a server does not report them.
        dropped_turns: how many of the oldest messages did not fit into the context.
        messages: for models that call tools, the assistant's messages in this reply (see
            `Conversation.put_reply`); the content of the last is `text`.
        call: the tool call in the last message.
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
    """How much of the prompt has been read, in tokens; cached tokens are in neither number."""

    done: int
    total: int


class ReplyStream(Protocol):
    """A reply that is being generated: iterate for pieces of text, then read `result`.

    `result` can be read at any time; before the end it holds the partial reply.
    """

    def __iter__(self) -> Iterator[str]: ...

    @property
    def result(self) -> Reply: ...

    def close(self) -> None:
        """Ends the reply, and closes its connection if it has one."""
        ...


class ChatModel(Protocol):
    """A model that replies: in this process or on a server."""

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
        """Starts a reply. `cancelled` is called before each token and each chunk of the prompt."""
        ...

    def clear_cache(self) -> None:
        """Frees the memory of the KV cache; the next prompt is read from its start."""
        ...

    def close(self) -> None:
        """Frees memory and closes connections."""
        ...


# ---- events


@dataclass(frozen=True, slots=True)
class Loading:
    """A model is loading; `fraction` of its bytes have been read."""

    name: str
    fraction: float


@dataclass(frozen=True, slots=True)
class Ready:
    """The model is in memory, or the server has answered."""

    model: LoadedInfo


@dataclass(frozen=True, slots=True)
class LoadFailed:
    """The model could not be loaded. The model before it is no longer loaded either."""

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
    """The reply is complete, or was cancelled."""

    request_id: int
    reply: Reply


@dataclass(frozen=True, slots=True)
class Failed:
    """The reply failed; `partial` is what was generated before."""

    request_id: int
    error: GlmtuiError
    partial: Reply


Event: TypeAlias = Loading | Ready | LoadFailed | Prefilling | Delta | Finished | Failed


class Engine(Protocol):
    """The owner of the one model, on another thread or in another process.

    Every call returns at once. Results arrive as events, on another thread.
    """

    def load(self, target: Target, options: LoadOptions) -> None:
        """Loads a model or connects to a server, replacing the current one.

        Requests submitted meanwhile wait for it.
        """
        ...

    def submit(self, request: Request) -> None: ...

    def cancel(self, request_id: int) -> None:
        """Stops this reply at the next token. A reply that has not begun finishes empty."""
        ...

    def clear_cache(self) -> None:
        """Frees the memory of the KV cache, after the requests submitted before."""
        ...

    def close(self, timeout: float) -> bool:
        """Stops everything. False if the thread is still busy after `timeout` seconds."""
        ...
