"""The chat completions format: request and response bodies as plain data.

Covers the JSON of OpenAI's API and the extensions of vLLM, SGLang, llama-server and Ollama. Servers
may send anything, so every type is checked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from glmtui.chat import FinishReason, Message, SamplingParams
from glmtui.chat.turns import joined_turns, without_thoughts
from glmtui.engine.api import PrefillProgress
from glmtui.engine.remote.surrogates import repair_surrogates

# Any other finish reason of a server means "stop".
_FINISH_REASONS: dict[str, FinishReason] = {
    "length": "length",
    "max_tokens": "length",
    "max_output_tokens": "length",
    "model_length": "length",
    "content_filter": "error",
    "sensitive": "error",
    "safety": "error",
    "abort": "error",
    "error": "error",
    "network_error": "error",
    "insufficient_system_resource": "error",
}
_UNFINISHED = ("", "null", "none", "undefined")

_LIST_KEYS = ("data", "models", "result", "results", "items")
_NAME_KEYS = ("id", "name", "model")
_MESSAGE_KEYS = ("message", "msg", "error_msg", "error_message", "detail")
_NO_MESSAGE = "an error without a message"
_CONTEXT_KEYS = ("max_model_len", "context_length", "max_context_length", "context_window")


# ---- request


def request_body(model: str, messages: Sequence[Message], params: SamplingParams) -> dict[str, Any]:
    """The fields of a request that every server understands.

    A last message of the assistant is to be continued: vLLM and SGLang need fields for that,
    llama-server and Ollama do it by default. `max_length` is left out: no server has such a limit.

    Args:
        messages: result of `prepare_messages`.
    """
    body: dict[str, Any] = {
        "model": model,
        "messages": [{"role": _role(m), "content": m.content} for m in messages],
        "stream": True,
    }
    fields = {
        "temperature": 0 if params.greedy else params.temperature,
        "top_p": params.top_p,
        "max_tokens": params.max_new_tokens,
        "seed": params.seed,
    }
    body |= {name: value for name, value in fields.items() if value is not None}
    if is_continuation(messages):
        body |= {"continue_final_message": True, "add_generation_prompt": False}
    return body


def extra_fields(params: SamplingParams) -> dict[str, Any]:
    """The fields of a request that only some servers understand; others ignore or refuse them.

    The repetition penalty has one name in vLLM and SGLang and another in llama-server. Ollama
    ignores both, and top_k, in this format.
    """
    extra: dict[str, Any] = {"stream_options": {"include_usage": True}}
    if params.top_k is not None:
        extra["top_k"] = params.top_k or -1
    if params.repetition_penalty is not None:
        extra["repetition_penalty"] = extra["repeat_penalty"] = params.repetition_penalty
    return extra


def prepare_messages(messages: Sequence[Message]) -> tuple[Message, ...]:
    """The conversation without reasoning, and with user and assistant alternating."""
    without_reasoning = (
        replace(m, content=without_thoughts(m.content)) if m.role == "assistant" else m
        for m in messages
    )
    return joined_turns(tuple(without_reasoning))


def is_continuation(messages: Sequence[Message]) -> bool:
    """Whether the request is to continue a last message of the assistant."""
    return bool(messages) and messages[-1].role == "assistant"


def drop_older_half(messages: Sequence[Message]) -> tuple[Message, ...] | None:
    """Drop about the older half of the exchanges; None if only the last question is left.

    The system prompt stays, and the message after it is a question again.
    """
    start = 1 if messages and messages[0].role == "system" else 0
    questions = [i for i in range(start + 1, len(messages)) if messages[i].role == "user"]
    if not questions:
        return None
    return (*messages[:start], *messages[questions[(len(questions) - 1) // 2] :])


def _role(message: Message) -> str:
    # "tool" is valid only after an assistant's tool_calls, which our conversations do not store.
    return "user" if message.role == "observation" else message.role


# ---- response


@dataclass(frozen=True, slots=True)
class ListedModel:
    """An entry of a server's list of models; `owner` identifies the kind of server."""

    id: str
    context_length: int | None = None
    owner: str = ""


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of a streamed answer, or a whole answer.

    Attributes:
        text, reasoning: the answer and the reasoning, if the server separates them.
        finish: the finish reason; None while the reply goes on.
        finish_word: the server's name for it.
        prompt_tokens, reused_tokens, generated_tokens: counted by the server; None in most chunks.
        prefill_seconds, decode_seconds: measured by the server; only llama-server sends them.
        progress: progress of the prefill; only llama-server sends it.
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
    """The models of a ``/models`` answer, in its order. Raises ValueError for anything else.

    The list has different names in different servers, and its entries are objects or names.
    """
    for _depth in range(3):
        if not isinstance(data, dict):
            break
        data = next((data[key] for key in _LIST_KEYS if data.get(key) is not None), None)
    if not isinstance(data, list):
        raise ValueError("no list of models")
    listed = [entry for entry in map(_object, data) if _text(entry.get("id"))]
    named = listed or [entry if isinstance(entry, dict) else {"name": entry} for entry in data]
    return tuple(
        ListedModel(name, _context_length(entry), _text(entry.get("owned_by")))
        for entry in named
        if (name := next(filter(None, (_text(entry.get(key)) for key in _NAME_KEYS)), ""))
    )


def parse_chunk(data: Mapping[str, Any], choice: Mapping[str, Any]) -> Chunk:
    """Everything of an event but its text. Missing or malformed fields keep their defaults."""
    word = _finish_word(choice) or _finish_word(data)
    usage = _object(data.get("usage"))
    timings = _object(data.get("timings"))
    reused = _count(_object(usage.get("prompt_tokens_details")).get("cached_tokens"))
    return Chunk(
        finish=_FINISH_REASONS.get(word.lower(), "stop") if word else None,
        finish_word=word,
        prompt_tokens=_count(usage.get("prompt_tokens")),
        reused_tokens=_count(timings.get("cache_n")) if reused is None else reused,
        generated_tokens=_count(usage.get("completion_tokens")),
        prefill_seconds=_seconds(timings.get("prompt_ms")),
        decode_seconds=_seconds(timings.get("predicted_ms")),
        progress=_progress(_object(data.get("prompt_progress"))),
    )


def find_error(data: Any) -> tuple[int, str] | None:
    """The status (0 if unknown) and text of the error in this JSON; None if there is none.

    "error" is one anywhere; "detail", "message" and the like only if there are no choices.
    """
    data = _first_object(data)
    choices = data.get("choices")
    choice = _object(choices[0]) if isinstance(choices, list) and choices else {}
    for source in (data, choice, _object(choice.get("delta"))):
        error = source.get("error") or source.get("errors")
        if error and not (isinstance(error, dict) and not any(error.values())):
            return _status(error) or _status(data), _message(error) or _NO_MESSAGE
    if data.get("object") == "error" or data.get("type") == "error":
        return _status(data), _message(data) or _NO_MESSAGE
    base = _object(data.get("base_resp"))  # MiniMax; 0 is success
    if _status(base):
        return 0, _text(base.get("status_msg")) or _NO_MESSAGE
    text = "" if choices else error_text(data)
    return (_status(data), text) if text else None


def error_text(data: Any) -> str:
    """The text of the error in the body of a refused request; empty if there is none."""
    data = _first_object(data)
    candidates = (
        data.get("error"),
        data.get("errors"),
        data,
        data.get("detail"),
        data.get("title"),
    )
    return next(filter(None, map(_message, candidates)), "")


def _message(error: Any) -> str:
    if isinstance(error, list):  # FastAPI: one entry for each invalid field
        return "; ".join(filter(None, map(_message, error)))
    if isinstance(error, dict):
        message = next(filter(None, (_text(error.get(key)) for key in _MESSAGE_KEYS)), "")
        where = error.get("loc")
        field = ".".join(map(str, where)) if isinstance(where, list) else _text(error.get("code"))
        return f"{message} ({field})" if message and field else message
    return _text(error)


def _context_length(entry: dict[str, Any]) -> int | None:
    # llama-server: n_ctx is the context in use; older versions send only that of the training.
    meta = _object(entry.get("meta"))
    candidates = [entry.get(k) for k in _CONTEXT_KEYS] + [
        meta.get("n_ctx"),
        meta.get("n_ctx_train"),
    ]
    return next(filter(None, map(_count, candidates)), None)


def _progress(progress: dict[str, Any]) -> PrefillProgress | None:
    done, total = _count(progress.get("processed")), _count(progress.get("total"))
    if done is None or total is None:
        return None
    reused = _count(progress.get("cache")) or 0
    return PrefillProgress(max(done - reused, 0), max(total - reused, 0))


def _status(error: Any) -> int:
    fields = _object(error)
    codes = (fields.get(key) for key in ("code", "status", "status_code", "error_code"))
    numbers = (int(c) if isinstance(c, str) and c.isdecimal() and len(c) < 9 else c for c in codes)
    return next(filter(None, map(_count, numbers)), 0)


def _finish_word(choice: Mapping[str, Any]) -> str:
    for key in ("finish_reason", "stop_reason", "done_reason"):
        reason = choice.get(key)
        word = _text(reason.get("type") if isinstance(reason, dict) else reason)
        if word.strip().lower() not in _UNFINISHED:
            return word.strip()
    return ""


def _first_object(value: Any) -> dict[str, Any]:
    # Google wraps errors in a list.
    return _object(value[0] if isinstance(value, list) and value else value)


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _text(value: Any) -> str:
    return repair_surrogates(value) if isinstance(value, str) else ""


def _count(value: Any) -> int | None:
    is_integer = isinstance(value, int) and not isinstance(value, bool)
    return value if is_integer and 0 <= value < 1 << 40 else None


def _seconds(value: Any) -> float | None:
    """Milliseconds in seconds; None for an impossible duration."""
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return None
    return value / 1000 if value == 0 or 1e-3 <= value < 1e12 else None
