"""How a server ends a reply: finish reasons that come too early or twice, errors in any dress."""

from __future__ import annotations

import time

import pytest

from glmtui.chat import Message
from glmtui.engine.model_info import ServerSpec
from glmtui.engine.remote import ServerModel, answer_reader, server_call, server_reply, sse
from glmtui.errors import ServerError
from support.fake_server import delta, serving

HI = (Message("user", "hi"),)
DONE = b"data: [DONE]\n\n"


def answering(*said, die=False):
    """An answer of events (or of bytes as they are, or of seconds of silence)."""

    def answer(exchange):
        exchange.start()
        for piece in said:
            if isinstance(piece, float):
                time.sleep(piece)
            elif isinstance(piece, bytes):
                exchange.write(piece)
            else:
                exchange.event(piece)
        if die:
            exchange.reset_connection()
        else:
            exchange.end()

    return answer


def stream_of(answer):
    """The stream, read to its end, and the error it ended with."""
    with serving(answer) as server:
        stream = ServerModel(ServerSpec(server.url, "m")).stream(HI)
        try:
            for _piece in stream:
                pass
        except ServerError as error:
            return stream.result, error
    return stream.result, None


def reply_to(*said, die=False):
    result, error = stream_of(answering(*said, die=die))
    assert error is None
    return result.text, result.finish_reason


# ---- finish reasons


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["stop", "stop", "stop"], "stop"),
        (["null", "null", "length"], "length"),
        ([None, "NULL", "stop"], "stop"),
        (["stop", "", "length"], "length"),
        (["tool_calls", None, "length"], "length"),
        (["content_filter", None, "stop"], "stop"),
        (["length", "none", None], "length"),
        ([None, None, "model_length"], "length"),
        ([{"type": "length"}, None, {"type": "stop"}], "stop"),
    ],
)
@pytest.mark.parametrize("end", [DONE, b""])
def test_the_last_reason_counts(words, reason, end):
    events = [delta(text, finish=word) for text, word in zip("abc", words, strict=True)]
    assert reply_to(*events, end) == ("abc", reason)


def test_a_reason_that_no_text_followed_by_then_is_believed_after_a_while(monkeypatch):
    monkeypatch.setattr(server_reply, "LINGER_SECONDS", 0.05)
    early = [
        [delta("Hm", finish="stop"), 0.3, delta("m.", finish="stop")],
        [delta(reasoning_content="Hm"), delta(finish="stop"), 0.3, delta("m.", finish="stop")],
        [delta("a"), delta("b", finish="stop"), delta("c"), 0.3, delta("m."), delta(finish="stop")],
    ]
    for events in early:
        assert reply_to(*events, DONE)[0].endswith("m.")


def test_a_reply_may_stay_open_at_its_end(monkeypatch):
    monkeypatch.setattr(server_reply, "DOUBTFUL_LINGER_SECONDS", 0.05)

    def answer(exchange):
        exchange.start()
        exchange.event(delta("Done.", finish="stop"))
        exchange.wait_for_disconnect()

    result, error = stream_of(answer)
    assert (result.text, result.finish_reason, error) == ("Done.", "stop", None)


def test_a_line_that_breaks_after_more_text_is_an_error():
    events = [delta("a", finish="stop"), delta("b")]
    result, error = stream_of(answering(*events, die=True))
    assert (result.text, result.finish_reason) == ("ab", "error")
    assert "was closed in the middle of the answer" in error.message


def test_a_reason_that_is_an_error_fails_at_the_end():
    for word in ("content_filter", "sensitive", "network_error"):
        result, error = stream_of(answering(delta("a"), delta("b", finish=word), DONE))
        assert (result.text, result.finish_reason) == ("ab", "error")
        assert word in error.message


# ---- errors in the stream

WORDS = "The model crashed"


@pytest.mark.parametrize(
    "told",
    [
        {"error": {"message": WORDS, "code": 500}},
        {"error": WORDS},
        {"errors": [{"message": WORDS}]},
        {"detail": WORDS},
        {"detail": [{"msg": WORDS, "loc": ["body"]}]},
        {"message": WORDS},
        {"message": WORDS, "choices": []},
        {"code": 1301, "msg": WORDS},
        {"error_code": 336003, "error_msg": WORDS},
        {"object": "error", "message": WORDS},
        {"type": "error", "error": {"type": "overloaded_error", "message": WORDS}},
        {"title": WORDS, "status": 500},
        {"base_resp": {"status_code": 1004, "status_msg": WORDS}},
        {"choices": [{"index": 0, "delta": {}, "error": {"message": WORDS}}]},
        {"choices": [{"delta": {"content": ""}, "finish_reason": "error"}], "error": WORDS},
        b'event: error\ndata: {"message": "The model crashed"}\n\n',
        b"event: error\ndata: The model crashed\n\n",
        b'event: error\ndata: {"type": "x", "text": "The model crashed"}\n\n',
        b'event: server_error\ndata: "The model crashed"\n\n',
        b"data: The model crashed\n\n",
        b'data: "The model crashed"\n\n',
        b'data: [{"error": {"message": "The model crashed"}}]\n\n',
        b'{"error": {"message": "The model crashed"}}\n',
        b'\n{"detail":\n "The model crashed"}\n\n',
    ],
)
@pytest.mark.parametrize("end", [DONE, b""])
def test_an_error_in_mid_stream_in_any_dress(told, end):
    result, error = stream_of(answering(delta("Half an "), told, end))
    assert error is not None
    assert WORDS in error.message
    assert (result.text, result.finish_reason) == ("Half an ", "error")


def test_an_error_after_a_reason_to_end_is_told():
    events = [delta("a", finish="stop"), {"error": WORDS}]
    assert WORDS in stream_of(answering(*events))[1].message


def test_an_error_event_without_words():
    assert stream_of(answering(delta("a"), b"event: error\n\n"))[1] is not None


@pytest.mark.parametrize(
    "told",
    [
        {"choices": [{"delta": {"content": "b"}}], "message": "ok", "error": None},
        {"choices": [{"delta": {"content": "b"}}], "error": {"message": "", "code": 0}},
        {"choices": [{"delta": {"content": "b"}}], "base_resp": {"status_code": 0}},
        b'event: message\ndata: {"choices": [{"delta": {"content": "b"}}]}\n\n',
        b'data:\n\ndata: {"choices": [{"delta": {"content": "b"}}]}\n\n',
    ],
)
def test_what_only_looks_like_an_error_is_none(told):
    assert reply_to(delta("a"), told, delta("c", finish="stop")) == ("abc", "stop")


# ---- bounds


def test_blanks_without_end_are_given_up(monkeypatch):
    monkeypatch.setattr(answer_reader, "MAX_BLANK_BYTES", 1000)
    error = stream_of(answering(*[b"\n" * 100] * 100))[1]
    assert "is not a chat server" in error.message


def test_a_few_blanks_are_waited_through():
    assert reply_to(b"\n\n", b"\r\n\n", delta("a", finish="stop")) == ("a", "stop")


def test_an_event_without_end_is_given_up(monkeypatch):
    monkeypatch.setattr(sse, "MAX_LINE_BYTES", 1000)
    result, error = stream_of(answering(delta("a"), *[b"data: " + b"x" * 90 + b"\n"] * 100))
    assert "an event without an end" in error.message
    assert result.text == "a"
    monkeypatch.setattr(sse, "MAX_DATA_LINES", 10)
    assert "an event without an end" in stream_of(answering(b"data:\n" * 100))[1].message


def test_events_that_say_nothing_are_given_up(monkeypatch):
    monkeypatch.setattr(answer_reader, "MAX_IDLE_EVENTS", 50)
    result, error = stream_of(answering(delta("a"), *[delta()] * 100))
    assert "events in a row without text" in error.message
    assert result.text == "a"


def test_an_answer_of_too_many_bytes_is_given_up(monkeypatch):
    monkeypatch.setattr(server_call, "MAX_ANSWER_BYTES", 1 << 20)
    error = stream_of(answering(delta("a"), *[b": " + b"x" * 9998] * 200))[1]
    assert "exceeds 1 MB" in error.message
    monkeypatch.setattr(answer_reader, "MAX_OBJECT_BYTES", 1 << 20)
    monkeypatch.setattr(server_call, "MAX_ANSWER_BYTES", 1 << 22)
    error = stream_of(answering(*[b'{"a": "' + b"x" * 99_000] * 30))[1]
    assert "exceeds" in error.message


def test_an_error_body_that_drips_is_not_waited_for(monkeypatch):
    monkeypatch.setattr(server_call, "ERROR_SECONDS", 0.2)

    def drip(exchange):
        exchange.send_response(500)
        exchange.send_header("Content-Length", "100000")
        exchange.end_headers()
        exchange.wfile.write(b"out of memory")
        exchange.wait_for_disconnect()

    error = stream_of(drip)[1]
    assert "failed (500): out of memory" in error.message


def test_numbers_of_any_size():
    huge = b'data: {"choices": [{"delta": {"content": "a"}}], "usage": {"prompt_tokens": %s}}\n\n'
    text, reason = reply_to(huge % (b"9" * 100_000), delta("b", finish="stop"))
    assert (text, reason) == ("ab", "stop")
