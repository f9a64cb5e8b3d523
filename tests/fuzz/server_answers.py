"""What a server may send, for the fuzzer: whole answers, streamed or not, and refusals."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress

from glmtui.chat import SamplingParams
from glmtui.engine.model_info import ServerSpec
from glmtui.engine.remote.chat_completions import extra_fields, parse_models, request_body
from glmtui.engine.remote.endpoint import Endpoint
from glmtui.engine.remote.field_adjustments import FieldAdjustments
from glmtui.engine.remote.json_text import parse_json
from glmtui.engine.remote.server_call import ServerCall
from glmtui.engine.remote.server_errors import ErrorContext, status_error
from glmtui.engine.remote.server_reply import _ReplyProgress
from glmtui.engine.remote.surrogates import decode_utf8
from glmtui.errors import GlmtuiError, ServerError

FULL = SamplingParams(temperature=1.0, top_k=0, top_p=0.5, seed=1, max_new_tokens=5)


def take_stream(data: bytes) -> None:
    """An answer is the same however it is cut; the first byte says how. Its text can be saved."""
    size, answer = (data[0] % 64 + 1 if data else 1), data[1:]
    pieces = [answer[at : at + size] for at in range(0, len(answer), size)]
    whole, cut = (how_it_went(how) for how in ([answer], pieces))
    assert whole == cut
    text, _finish, error = whole
    text.encode()
    if error:
        raise ServerError(error)


def how_it_went(pieces: Sequence[bytes]) -> tuple[str, str, str]:
    """The text of an answer, why it ended, and the error it ended with."""
    endpoint = Endpoint(ServerSpec("http://localhost/v1", "m"))
    call = ServerCall(
        endpoint, ErrorContext("localhost"), (), SamplingParams(), {}, FieldAdjustments()
    )
    reply, error = _ReplyProgress(), ""
    try:
        for chunk in call._reader.chunks(iter(pieces)):
            reply.add(1.0, chunk)
        reply.end()
        found = call.reply_error(reply.finish, reply.finish_word, empty=not reply.text)
        error = str(found or "")
    except GlmtuiError as failure:
        error = str(failure)
    stats = reply.stats()
    assert stats.prompt_tokens >= 0
    error.encode()
    return reply.text, reply.finish or "", error


def streams() -> dict[str, bytes]:
    def stream(*events: object) -> bytes:
        lines = (json.dumps(event, ensure_ascii=n % 2 == 0) for n, event in enumerate(events))
        text = "".join(f"data: {line}\n\n" for line in lines)
        return b"\x06" + text.encode("utf-8", "surrogatepass") + b"data: [DONE]\n\n"

    def says(**delta: object) -> dict[str, object]:
        return {"choices": [{"index": 0, "delta": delta, "finish_reason": None}]}

    thought = {"type": "thinking", "thinking": [{"type": "text", "text": "Hm."}]}
    usage = {"usage": {"prompt_tokens": 9, "completion_tokens": 4}, "timings": {"prompt_ms": 0.5}}
    ended = {"choices": [{"delta": {}, "message": {"content": "你好"}, "finish_reason": "stop"}]}
    return {
        "plain": stream(says(content="你"), says(content="好"), ended, usage),
        "parts": stream(says(content=[thought]), says(content=[{"type": "text", "text": "4"}])),
        "halves": stream(says(content="a\ud83d"), says(content=""), says(content="\ude00")),
        "bytes": b'\x01data: {"choices":[{"text":"\xe4\xbd"}]}\n\n'
        b'data: {"choices":[{"text":"\xa0"}]}\n\n',
        "error": b"\x09: hi\r\nevent: error\r\ndata: no\r\n\r\n",
        "raw": b'\x02data: {"choices":[{"delta":{"content":"a"}}]}\n\n{"detail":\n"no"}\n',
        "whole": b"\x0f" + json.dumps(ended).encode(),
        "lines": b'\x0a{"message":{"content":"a"}}\n{"done_reason":"stop"}\n',
        "tool": stream(says(tool_calls=[{"index": 0, "function": {"name": "f"}}]), ended),
    }


def take_refusal(data: bytes) -> None:
    """What a server says when it refuses, and of its models; the first byte is the status."""
    status, body = (data[0] + 300 if data else 500), data[1:]
    refusal = status_error(ErrorContext("localhost", "m", "key"), status, {}, body)
    str(refusal).encode()
    fields, tries = FieldAdjustments(), 0
    sent = extra_fields(FULL) | request_body("m", (), FULL)
    while fields.adjust(fields.apply(sent), refusal.words):
        tries += 1
        assert tries < 20
    fields.apply(sent)
    with suppress(ValueError):
        for model in parse_models(parse_json(decode_utf8(body))):
            model.id.encode()
    if 300 <= status < 400:  # a server that is sound may answer so; the others are errors
        return
    raise refusal


def refusals() -> dict[str, bytes]:
    words = "'max_tokens' is not supported. Use 'max_completion_tokens' and temperature instead."
    return {
        "field": b"\x64" + json.dumps({"error": {"message": words, "code": "x"}}).encode(),
        "fastapi": b'\x7a{"detail": [{"loc": ["body", "top_k"], "msg": "extra fields"}]}',
        "page": b"\xc8<html><title>502 Bad Gateway</title>",
        "models": b'\x00{"data": [{"id": "a", "meta": {"n_ctx": 9}}], "models": ["b"]}',
    }
