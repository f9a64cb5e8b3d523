"""What goes wrong on a server or on the way to it, and what the user reads of it."""

from __future__ import annotations

import logging
import socket

import pytest

from glmtui.chat import Message
from glmtui.engine.model_info import ServerSpec
from glmtui.engine.remote import ServerModel, server_call, server_reply, sse
from glmtui.errors import ServerError
from support.fake_server import delta, serving

HI = (Message("user", "hi"),)
KEY = "sk-very-secret-0123456789"


def failure(server, key=KEY, model="fake-glm", connect=False):
    """The error of one reply, and what there was of the reply."""
    spec = ServerSpec(server.url, "" if connect else model, key)
    chat = ServerModel.connect(spec) if connect else ServerModel(spec)
    stream = chat.stream(HI)
    with pytest.raises(ServerError) as caught:
        list(stream)
    assert stream.result.finish_reason == "error"
    return caught.value, stream.result


REFUSALS = [
    (400, {"error": {"message": "bad temperature"}}, "refused the request (400): bad temperature"),
    (400, {"error": {"message": "exceeds the available context size"}}, "too long for fake-glm"),
    (401, {"error": {"message": f"Incorrect API key: {KEY}"}}, "rejected the API key (401)"),
    (403, {"detail": f"not for {KEY}"}, "denied access (403)"),
    (404, {"detail": "Not Found"}, "no chat server at"),
    (404, {"error": {"message": "The model `fake-glm` does not exist."}}, "has no model fake-glm"),
    (413, b"<html><title>413 Entity Too Large</title>", "413 Entity Too Large"),
    (422, {"detail": [{"loc": ["body", "seed"], "msg": "too big"}]}, "too big (body.seed)"),
    (
        429,
        {"error": {"message": "slow down"}},
        "quota is used up (429): slow down",
    ),
    (500, b"Internal Server Error", "failed (500): Internal Server Error"),
    (502, b"<!doctype html><html><head><title>502 Bad Gateway</title>", "502 Bad Gateway"),
    (503, {"error": {"message": "Loading model"}}, "is not ready (503): Loading model"),
    (418, b"", "refused the request (418)."),
]


@pytest.mark.parametrize(("status", "body", "words"), REFUSALS)
def test_a_refusal_says_what_and_what_to_do(status, body, words):
    def answer(exchange):
        if isinstance(body, bytes):
            exchange.send(body, status, kind="text/html")
        else:
            exchange.json(body, status)

    with serving(answer) as server:
        error, partial = failure(server)
    assert words in error.message
    assert "127.0.0.1" in error.message
    assert error.hint
    assert partial.text == ""


@pytest.mark.parametrize("status", [200, 302, 400, 401, 403, 404, 429, 500])
def test_a_server_may_repeat_the_key_but_nobody_sees_it(status, caplog):
    caplog.set_level(logging.DEBUG)

    def answer(exchange):
        key = exchange.headers["Authorization"]
        exchange.json({"error": {"message": f"bad {key}: " + "x" * 200 + KEY}, "m": key}, status)

    with serving(answer) as server:
        error, _ = failure(server)
    spec = ServerSpec(server.url, "m", KEY)
    chat = ServerModel(spec)
    shown = [str(error), repr(error), repr(spec), repr(chat), repr(chat.info), caplog.text]
    assert "very-secret" not in "".join(shown)


def test_a_login_in_the_address_is_not_shown():
    with serving(lambda exchange: exchange.json({}, 500)) as server:
        address = server.url.replace("://", "://ann:pa55word@") + "?token=t0ken"
        chat = ServerModel(ServerSpec(address, "m"))
        with pytest.raises(ServerError) as caught:
            list(chat.stream(HI))
    assert chat.info.device == server.url
    assert "pa55word" not in str(caught.value)
    assert "t0ken" not in str(caught.value)


def test_without_a_key_the_hint_says_where_it_goes():
    with serving(lambda exchange: exchange.json({"error": "no"}, 401)) as server:
        error, _ = failure(server, key="")
    assert "requires an API key" in error.message
    assert "key_env" in error.hint


def test_a_key_that_cannot_be_sent_is_not_shown():
    with pytest.raises(ServerError, match="contains invalid characters") as caught:
        ServerModel(ServerSpec("http://localhost/v1", "m", "sk-one\nsk-two"))
    assert "sk-" not in str(caught.value)


def test_the_models_there_are_are_named():
    def answer(exchange):
        if exchange.command == "GET":
            exchange.json({"data": [{"id": "glm-4-9b"}, {"id": "chatglm3"}]})
        else:
            exchange.json({"error": {"message": "The model does not exist"}}, 404)

    with serving(answer) as server:
        error, _ = failure(server, connect=True)
    assert error.hint == "Available models: glm-4-9b, chatglm3"


@pytest.mark.parametrize(("header", "hint"), [("7", "in 7 s"), ("Friday", "after Friday")])
def test_how_long_to_wait_is_passed_on(header, hint):
    with serving(lambda exchange: exchange.json({}, 429, Retry_After=header)) as server:
        error, _ = failure(server)
    assert hint in error.hint


def test_a_redirect_is_not_followed():
    def answer(exchange):
        exchange.send(b"", 307, Location="https://elsewhere.example/v1")

    with serving(answer) as server:
        error, _ = failure(server)
        assert len(server.exchanges) == 1
    assert "https://elsewhere.example/v1 (307)" in error.message


@pytest.mark.parametrize(
    "body", [b"<html><title>Sign in</title></html>", b"{not json", b'{"ok": true}', b"", b"[1]"]
)
def test_an_answer_that_is_no_reply(body):
    with serving(lambda exchange: exchange.send(body)) as server:
        error, _ = failure(server)
        assert server.url in error.message
        if b"title" in body:
            assert "a web page, “Sign in”" in error.message
            assert "/v1" in error.hint


def test_a_web_page_in_place_of_the_list_of_models():
    with (
        serving(lambda exchange: exchange.send(b"<html>", kind="text/html")) as server,
        pytest.raises(ServerError, match=r"is not a chat server.*web page"),
    ):
        ServerModel.connect(ServerSpec(server.url))


def test_a_servers_words_cannot_act_on_the_terminal():
    words = {"error": "\x1b]0;x\x07\nbad\u202e"}
    with serving(lambda exchange: exchange.json(words, 500)) as server:
        error, _ = failure(server)
    assert "␛]0;x␇ bad�" in error.message


# ---- in the middle of an answer


def half(exchange, chunked=True):
    exchange.start(chunked=chunked)
    exchange.event(delta("Half an "))


def die(exchange):
    half(exchange)
    exchange.reset_connection()


def end_early(exchange):
    half(exchange)
    exchange.end()


def close_early(exchange):
    half(exchange, chunked=False)
    exchange.write(b'data: {"choi')
    exchange.end()


def fail_inside(exchange):
    half(exchange)
    exchange.event({"error": {"message": "CUDA out of memory", "code": 500}})
    exchange.end()


def fail_as_old_llama_servers_do(exchange):
    half(exchange)
    exchange.write(b'error: {"code": 500, "message": "CUDA out of memory"}\n\n')
    exchange.end()


def filter_it(exchange):
    half(exchange)
    exchange.event(delta(finish="content_filter"))
    exchange.end()


def babble(exchange):
    half(exchange)
    exchange.write(b"data: " + b"x" * 5000)
    exchange.end()


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (die, "was closed in the middle of the answer"),
        (end_early, "was closed in the middle of the answer"),
        (close_early, "was closed in the middle of the answer"),
        (fail_inside, "CUDA out of memory"),
        (fail_as_old_llama_servers_do, "CUDA out of memory"),
        (filter_it, "content_filter"),
        (babble, "a line without an end"),
    ],
)
def test_the_partial_reply_is_kept(answer, words, monkeypatch):
    monkeypatch.setattr(sse, "MAX_LINE_BYTES", 1000)
    with serving(answer) as server:
        error, partial = failure(server)
    assert words in error.message
    assert partial.text == "Half an "


def test_a_reply_without_end_is_ended(monkeypatch):
    monkeypatch.setattr(server_reply, "MAX_REPLY_CHARS", 1 << 20)

    def flood(exchange):
        exchange.start()
        while True:
            exchange.event(delta("x" * 100_000))

    with serving(flood) as server:
        error, partial = failure(server)
    assert "exceeds" in error.message
    assert len(partial.text) < 2 << 20


def test_a_server_that_falls_silent_for_too_long(monkeypatch):
    monkeypatch.setattr(server_call, "READ_TIMEOUT_SECONDS", 0.1)

    def hush(exchange):
        half(exchange)
        exchange.wait_for_disconnect()

    with serving(hush) as server:
        error, partial = failure(server)
    assert "has sent nothing for" in error.message
    assert partial.text == "Half an "


# ---- on the way


def test_nobody_answers():
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    with pytest.raises(ServerError, match="connection refused") as caught:
        ServerModel.connect(ServerSpec(f"http://127.0.0.1:{port}/v1"))
    assert "Start the server" in caught.value.hint


def test_a_name_that_cannot_be_found(monkeypatch):
    def unknown(*args, **options):
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(ServerError, match="Could not resolve"):
        ServerModel.connect(ServerSpec("http://no-such-host.example/v1"))


def test_https_to_a_server_that_speaks_http():
    with serving(lambda exchange: None) as server, pytest.raises(ServerError) as caught:
        ServerModel.connect(ServerSpec(server.url.replace("http:", "https:")))
    assert "No secure connection" in caught.value.message
    assert "http://" in caught.value.hint


def test_a_proxy_that_cannot_be_used(monkeypatch):
    monkeypatch.setenv("ALL_PROXY", "gopher://user:pa55@proxy")
    with pytest.raises(ServerError, match="proxy set in the environment") as caught:
        ServerModel.connect(ServerSpec("http://gpu.example/v1"))
    assert "pa55" not in str(caught.value)


@pytest.mark.parametrize(
    "url", ["", "gpu1:8000/v1", "ftp://gpu1/v1", "http://", "http://h:99999/v1"]
)
def test_an_address_that_is_none(url):
    with pytest.raises(ServerError, match="Invalid server address") as caught:
        ServerModel(ServerSpec(url, "m"))
    assert "http://localhost:8000/v1" in caught.value.hint
