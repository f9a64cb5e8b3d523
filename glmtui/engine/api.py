"""The engine's face: what is asked of it, what it answers. Imports no torch and no textual.

A *Request* goes in, *Events* come out, each with the request's id. Two things can answer: a model
in this process (`engine.generate.LoadedModel`) and an OpenAI-compatible server
(`engine.server.ServerModel`). Both are a `ChatModel`; whoever drives them knows only this file.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias, runtime_checkable

from glmtui.chat import FinishReason, GenerationStats, Message, SamplingParams
from glmtui.errors import GlmtuiError

# ---- models: found, asked for, in memory


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """A model found on this machine.

    Attributes:
        name: what a person types to get it: a known name, a hub id, or a folder.
        path: the folder that holds config.json and the weights.
        family: a key of `catalog.FAMILIES`.
        context_length: longest prompt and reply together, in tokens.
        nbytes: size of the weight files.
        stored: how the weights are kept there, such as "float16" or "int4 g32".
        code: Python files that its config asks to be run (auto_map); they never are.
    """

    name: str
    path: Path
    family: str
    context_length: int
    nbytes: int
    stored: str
    title: str = ""
    parameters: int | None = None
    code: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ServerSpec:
    """An OpenAI-compatible server: `url` ends before ``/chat/completions``.

    Attributes:
        model: the model to ask for there; empty takes the first the server lists.
        api_key: sent as a bearer token; never shown, logged or saved.
    """

    url: str
    model: str = ""
    api_key: str = field(default="", repr=False)


Target: TypeAlias = ModelInfo | ServerSpec


Speculation: TypeAlias = Literal["auto", "on", "off"]
"""Guesses at the next tokens: while faster (on one GPU never), always, never. Replies are alike."""


class LoadCancelled(Exception):
    """Loading was given up because nobody wants the model any more; no error for a user."""


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """How a model should be held in memory.

    Attributes:
        device: "auto", "cpu", "cuda", "cuda:N" or "balanced".
        dtype: "auto", "float32", "bfloat16" or "float16"; of activations and unquantised weights.
        quant: "auto" keeps the weights as they are stored; None unpacks them to `dtype`; else a
            key of `catalog.QUANTS`.
        context_length: room in the KV cache, in tokens; None takes the model's own.
        family: a key of `catalog.FAMILIES` that overrides what the folder looks like.
        slim: leave the image tokens of an original ChatGLM-6B out; their logits become the least.
        kernel: one of `known.KERNELS`, for packed weights on a GPU.
        cache_gb: memory for the KV caches of several conversations, in GB; None takes a share of
            what is free once the model is loaded.
        speculation: whether to guess the next tokens from the conversation; see `Speculation`.
    """

    device: str = "auto"
    dtype: str = "auto"
    quant: str | None = "auto"
    context_length: int | None = None
    family: str | None = None
    slim: bool = True
    kernel: str = "auto"
    cache_gb: float | None = None
    speculation: Speculation = "auto"


@dataclass(frozen=True, slots=True)
class LoadedInfo:
    """A model that is ready to answer.

    Attributes:
        device: where it runs: "cpu", "cuda:0", "cuda:0 + cuda:1", or a server's address.
        dtype: of its activations; empty for a server.
        quant: how its weights are held, such as "int4 g32"; empty where they are not quantised.
        kernel: what multiplies with them on a GPU, such as "triton"; empty elsewhere.
        context_length: None where a server does not say.
        weight_bytes, kv_bytes_per_token: memory, the latter of the KV cache; None for a server.
        saved_bytes: memory that leaving out unused rows of the checkpoint saved.
        defaults: the model's own sampling parameters.
        backend: "native" is our engine, "compatibility" is transformers, "server" is elsewhere.
        why_compatible: the field for which transformers runs a model of a family of ours.
        calls_tools: whether tools can be declared to it (`chat.with_tools`).
    """

    name: str
    device: str
    dtype: str = ""
    quant: str = ""
    kernel: str = ""
    context_length: int | None = None
    weight_bytes: int | None = None
    kv_bytes_per_token: int | None = None
    saved_bytes: int = 0
    load_seconds: float = 0.0
    defaults: SamplingParams = field(default_factory=SamplingParams)
    backend: Literal["native", "compatibility", "server"] = "native"
    why_compatible: str = ""
    calls_tools: bool = False


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
            `Conversation.replace_reply`); the last one's content is `text`.
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


class Tokenizer(Protocol):
    """Text to ids and back. Text is only text: nothing in it becomes a special token."""

    @property
    def strips_leading_space(self) -> bool:
        """Whether a text's first token brings a space that `decode` drops."""
        ...

    def encode(self, text: str) -> list[int]: ...

    def decode(self, ids: Sequence[int]) -> str: ...

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes this id adds in the middle of a text; empty for special tokens."""
        ...


class ChatFormat(Protocol):
    """Messages to prompt ids, as the model was trained to see them."""

    stop_ids: frozenset[int]

    def encode(self, messages: Sequence[Message]) -> list[int]:
        """The ids of the conversation, ready for the reply (or in the middle of a last one)."""
        ...

    def postprocess(self, text: str) -> str:
        """A finished reply as it is shown and kept."""
        ...


@runtime_checkable
class ToolChatFormat(ChatFormat, Protocol):
    """The chat format of a model that calls tools: its replies begin with a line of metadata."""

    def messages(self, text: str) -> tuple[Message, ...]:
        """The assistant's messages in a reply, at least one, each with its metadata."""
        ...

    def tool_call(self, message: Message, *, declared: bool) -> ToolCall | None:
        """The tool call that a message is; None for plain talk.

        Args:
            declared: whether the prompt declared tools; only then can there be arguments.
        """
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


# ---- progress of long work that is not a reply (pulling, converting)


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a long job is.

    Attributes:
        what: a few words, such as "downloading model.safetensors".
        done, total: bytes; `total` is 0 while unknown.
    """

    what: str
    done: int = 0
    total: int = 0


ProgressHook: TypeAlias = Callable[[Progress], None]
CancelFlag: TypeAlias = threading.Event
