"""The chat completions format: what is sent and what comes back, as plain data.

Knows the JSON of OpenAI's API and what vLLM, SGLang, llama-server and Ollama add to it. Knows no
sockets and no errors for users. A server may send anything, so nothing is taken for granted.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from glmtui.chat import FinishReason, Message, SamplingParams
from glmtui.engine.api import PrefillProgress

_SURROGATES = re.compile("[\ud800-\udfff]")

# Everything else a server says at the end of a reply means that the model was done.
_FINISH: dict[str, FinishReason] = {
    "length": "length",
    "max_tokens": "length",
    "content_filter": "error",
    "abort": "error",
    "error": "error",
}

_CONTEXT_KEYS = ("max_model_len", "context_length", "max_context_length", "context_window")


# ---- sent


def request_body(model: str, messages: Sequence[Message], params: SamplingParams) -> dict[str, Any]:
    """The part of a request that every server understands.

    A last message of the assistant's is continued: vLLM and SGLang need to be told, llama-server
    and Ollama do so by themselves. `max_length` is left out: no server counts that way.
    """
    body: dict[str, Any] = {
        "model": model,
        "messages": [{"role": _role(m), "content": m.content} for m in messages],
        "stream": True,
    }
    wanted = {
        "temperature": 0 if params.greedy else params.temperature,
        "top_p": params.top_p,
        "max_tokens": params.max_new_tokens,
        "seed": params.seed,
    }
    body |= {name: value for name, value in wanted.items() if value is not None}
    if continues(messages):
        body |= {"continue_final_message": True, "add_generation_prompt": False}
    return body


def extra_fields(params: SamplingParams) -> dict[str, Any]:
    """What only some servers understand; others ignore it or refuse the whole request.

    The repetition penalty has one name in vLLM and SGLang and another in llama-server. Ollama
    reads neither of them nor top_k in this format.
    """
    extra: dict[str, Any] = {"stream_options": {"include_usage": True}}
    if params.top_k is not None:
        extra["top_k"] = params.top_k or -1
    if params.repetition_penalty is not None:
        extra["repetition_penalty"] = extra["repeat_penalty"] = params.repetition_penalty
    return extra


def continues(messages: Sequence[Message]) -> bool:
    """Whether the reply asked for goes on from a last message of the assistant's."""
    return bool(messages) and messages[-1].role == "assistant"


def shortened(messages: Sequence[Message]) -> tuple[Message, ...] | None:
    """Without about the older half of the exchanges; None if only the last question is left.

    The system prompt stays, and what follows it is a question again.
    """
    kept = 1 if messages and messages[0].role == "system" else 0
    questions = [i for i in range(kept + 1, len(messages)) if messages[i].role == "user"]
    if not questions:
        return None
    return (*messages[:kept], *messages[questions[(len(questions) - 1) // 2] :])


def _role(message: Message) -> str:
    # "tool" is only valid after an assistant's tool_calls, which our conversations do not hold.
    return "user" if message.role == "observation" else message.role


# ---- received


@dataclass(frozen=True, slots=True)
class ListedModel:
    """A model a server says it has; `owner` tells what kind of server it is."""

    id: str
    context_length: int | None = None
    owner: str = ""


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of a streamed answer, or the whole of one that came at once.

    Attributes:
        text, reasoning: what the model says and what it thinks, where a server tells them apart.
        finish: why the reply ended; None while it goes on.
        finish_word: the server's own word for that.
        prompt_tokens, reused_tokens, generated_tokens: the server's count; None in most chunks.
        prefill_seconds, decode_seconds: the server's clock; llama-server alone sends it.
        progress: how far the prompt has been read; llama-server alone sends it.
    """

    text: str = ""
    reasoning: str = ""
    finish: FinishReason | None = None
    finish_word: str = ""
    prompt_tokens: int | None = None
    reused_tokens: int | None = None
    generated_tokens: int | None = None
    prefill_seconds: float | None = None
    decode_seconds: float | None = None
    progress: PrefillProgress | None = None


def parse_models(data: Any) -> tuple[ListedModel, ...]:
    """The models of a ``/models`` answer, in its order. Raises ValueError if it is none."""
    listed = _object(data).get("data") if isinstance(data, dict) else data
    if not isinstance(listed, list):
        raise ValueError("no list of models")
    return tuple(
        ListedModel(entry["id"], _context_length(entry), _text(entry.get("owned_by")))
        for entry in map(_object, listed)
        if _text(entry.get("id"))
    )


def parse_chunk(data: dict[str, Any]) -> Chunk:
    """One event's data, or a plain answer's; what is missing or odd is left at its default."""
    choices = data.get("choices")
    choice = _object(choices[0]) if isinstance(choices, list) and choices else {}
    said = _object(choice.get("delta")) or _object(choice.get("message"))
    word = _text(choice.get("finish_reason"))
    usage = _object(data.get("usage"))
    timings = _object(data.get("timings"))
    reused = _count(_object(usage.get("prompt_tokens_details")).get("cached_tokens"))
    return Chunk(
        text=_text(said.get("content")),
        reasoning=_text(said.get("reasoning_content")) or _text(said.get("reasoning")),
        finish=_FINISH.get(word, "stop") if word else None,
        finish_word=word,
        prompt_tokens=_count(usage.get("prompt_tokens")),
        reused_tokens=_count(timings.get("cache_n")) if reused is None else reused,
        generated_tokens=_count(usage.get("completion_tokens")),
        prefill_seconds=_seconds(timings.get("prompt_ms")),
        decode_seconds=_seconds(timings.get("predicted_ms")),
        progress=_progress(_object(data.get("prompt_progress"))),
    )


def error_in(data: Any) -> tuple[int, str] | None:
    """What went wrong, if this JSON says that something did: a status (0: none) and words."""
    data = _object(data)
    error = data.get("error") or (data if data.get("object") == "error" else None)
    if not error:
        return None
    return _count(_object(error).get("code")) or 0, _message(error) or "an error without a message"


def refusal_text(data: Any) -> str:
    """The same for the body of a refused request, in any of the forms in use; may be empty."""
    data = _object(data)
    return _message(data.get("error")) or _message(data) or _message(data.get("detail"))


def _message(error: Any) -> str:
    if isinstance(error, list):  # FastAPI's list of what is wrong, field by field
        return "; ".join(filter(None, map(_message, error)))
    if isinstance(error, dict):
        message = _text(error.get("message")) or _text(error.get("msg"))
        where = error.get("loc")
        field = ".".join(map(str, where)) if isinstance(where, list) else _text(error.get("code"))
        return f"{message} ({field})" if message and field else message
    return _text(error)


def _context_length(entry: dict[str, Any]) -> int | None:
    # llama-server: n_ctx is what it runs with; older ones only tell what the model could.
    meta = _object(entry.get("meta"))
    told = [entry.get(k) for k in _CONTEXT_KEYS] + [meta.get("n_ctx"), meta.get("n_ctx_train")]
    return next(filter(None, map(_count, told)), None)


def _progress(told: dict[str, Any]) -> PrefillProgress | None:
    done, total = _count(told.get("processed")), _count(told.get("total"))
    if done is None or total is None:
        return None
    reused = _count(told.get("cache")) or 0
    return PrefillProgress(max(done - reused, 0), max(total - reused, 0))


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _text(value: Any) -> str:
    # A lone surrogate is valid in JSON and cannot be written to any file.
    return _SURROGATES.sub("\ufffd", value) if isinstance(value, str) else ""


def _count(value: Any) -> int | None:
    whole = isinstance(value, int) and not isinstance(value, bool)
    return value if whole and 0 <= value < 1 << 40 else None


def _seconds(value: Any) -> float | None:
    """Milliseconds in seconds; None for what is no time that a request can take."""
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return None
    return value / 1000 if value == 0 or 1e-3 <= value < 1e12 else None


# ---- thinking


class Thinking:
    """Makes one text of thinking and answer; the thinking is in ``<think>`` tags, as models do."""

    def __init__(self) -> None:
        self._open = False

    def join(self, chunk: Chunk) -> str:
        """What this chunk adds to the text."""
        text = ""
        if chunk.reasoning:
            text = chunk.reasoning if self._open else f"<think>\n{chunk.reasoning}"
            self._open = True
        if chunk.text and self._open:
            self._open = False
            return f"{text}\n</think>\n\n" + chunk.text.lstrip("\n")
        return text + chunk.text

    def end(self) -> str:
        """The closing tag of a reply that was all thinking, once the model is done with it."""
        was_open, self._open = self._open, False
        return "\n</think>\n" if was_open else ""
