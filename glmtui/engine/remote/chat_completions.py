"""The chat completions format: what is sent and what comes back, as plain data.

Knows the JSON of OpenAI's API and what vLLM, SGLang, llama-server and Ollama add to it. Knows no
sockets and no errors for users. A server may send anything, so nothing is taken for granted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from glmtui.chat import FinishReason, Message, SamplingParams
from glmtui.chat.reasoning import strip_reasoning
from glmtui.chat.turns import merge_turns
from glmtui.engine.api import PrefillProgress
from glmtui.engine.remote.text_pieces import whole_characters

# Everything else a server says at the end of a reply means that the model was done.
_FINISH: dict[str, FinishReason] = {
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
_NO_FINISH = ("", "null", "none", "undefined")

_LIST_KEYS = ("data", "models", "result", "results", "items")
_NAME_KEYS = ("id", "name", "model")
_MESSAGE_KEYS = ("message", "msg", "error_msg", "error_message", "detail")
_NO_MESSAGE = "an error without a message"
_CONTEXT_KEYS = ("max_model_len", "context_length", "max_context_length", "context_window")


# ---- sent


def request_body(model: str, messages: Sequence[Message], params: SamplingParams) -> dict[str, Any]:
    """The part of a request that every server understands.

    A last message of the assistant's is continued: vLLM and SGLang need to be told, llama-server
    and Ollama do so by themselves. `max_length` is left out: no server counts that way.

    Args:
        messages: as `prepared` leaves them.
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


def prepared(messages: Sequence[Message]) -> tuple[Message, ...]:
    """The conversation as a server takes it: no thoughts, and user and assistant take turns."""
    said = (
        replace(m, content=strip_reasoning(m.content)) if m.role == "assistant" else m
        for m in messages
    )
    return merge_turns(tuple(said))


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
    """The models of a ``/models`` answer, in its order. Raises ValueError if it is none.

    Servers put the list under several names, and objects or bare names into it.
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
    """What one event says beside the text; what is missing or odd is left at its default."""
    word = _finish_word(choice) or _finish_word(data)
    usage = _object(data.get("usage"))
    timings = _object(data.get("timings"))
    reused = _count(_object(usage.get("prompt_tokens_details")).get("cached_tokens"))
    return Chunk(
        finish=_FINISH.get(word.lower(), "stop") if word else None,
        finish_word=word,
        prompt_tokens=_count(usage.get("prompt_tokens")),
        reused_tokens=_count(timings.get("cache_n")) if reused is None else reused,
        generated_tokens=_count(usage.get("completion_tokens")),
        prefill_seconds=_seconds(timings.get("prompt_ms")),
        decode_seconds=_seconds(timings.get("predicted_ms")),
        progress=_progress(_object(data.get("prompt_progress"))),
    )


def error_in(data: Any) -> tuple[int, str] | None:
    """What went wrong, if this JSON says that something did: a status (0: none) and words.

    An "error" anywhere is one; "detail", "message" and the like are where there is no choice.
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
    base = _object(data.get("base_resp"))  # of MiniMax, where 0 is success
    if _status(base):
        return 0, _text(base.get("status_msg")) or _NO_MESSAGE
    words = "" if choices else refusal_text(data)
    return (_status(data), words) if words else None


def refusal_text(data: Any) -> str:
    """The same for the body of a refused request, in any of the forms in use; may be empty."""
    data = _first_object(data)
    named = (data.get(key) for key in ("error", "errors"))
    told = (_message(data.get(key)) for key in ("detail", "title"))
    return next(filter(None, (*map(_message, named), _message(data), *told)), "")


def _message(error: Any) -> str:
    if isinstance(error, list):  # FastAPI's list of what is wrong, field by field
        return "; ".join(filter(None, map(_message, error)))
    if isinstance(error, dict):
        message = next(filter(None, (_text(error.get(key)) for key in _MESSAGE_KEYS)), "")
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


def _status(error: Any) -> int:
    told = _object(error)
    codes = (told.get(key) for key in ("code", "status", "status_code", "error_code"))
    numbers = (int(c) if isinstance(c, str) and c.isdecimal() and len(c) < 9 else c for c in codes)
    return next(filter(None, map(_count, numbers)), 0)


def _finish_word(choice: Mapping[str, Any]) -> str:
    for key in ("finish_reason", "stop_reason", "done_reason"):
        told = choice.get(key)
        word = _text(told.get("type") if isinstance(told, dict) else told)
        if word.strip().lower() not in _NO_FINISH:
            return word.strip()
    return ""


def _first_object(value: Any) -> dict[str, Any]:
    # Google puts its errors into a list.
    return _object(value[0] if isinstance(value, list) and value else value)


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _text(value: Any) -> str:
    return whole_characters(value) if isinstance(value, str) else ""


def _count(value: Any) -> int | None:
    whole = isinstance(value, int) and not isinstance(value, bool)
    return value if whole and 0 <= value < 1 << 40 else None


def _seconds(value: Any) -> float | None:
    """Milliseconds in seconds; None for what is no time that a request can take."""
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return None
    return value / 1000 if value == 0 or 1e-3 <= value < 1e12 else None
