"""Replies from a server: streamed, counted, stopped, continued, shortened."""

from __future__ import annotations

import subprocess
import sys
import threading
import time

import pytest

from glmtui.chat import Message, SamplingParams
from glmtui.engine.api import PrefillProgress
from glmtui.engine.model_info import ServerSpec
from glmtui.engine.remote import ServerModel, server_reply
from glmtui.errors import ServerError
from support.fake_server import MODELS, delta, serving

HI = (Message("user", "hi"),)


def model(server, **spec):
    return ServerModel(ServerSpec(server.url, **{"model": "fake-glm", **spec}))


def reply(server, messages=HI, params=None, **spec):
    stream = model(server, **spec).stream(messages, params)
    text = "".join(stream)
    assert stream.result.text == text
    return stream.result


# ---- connecting


def test_connect_takes_the_first_model_and_what_the_server_says_of_it():
    listed = {"data": [{"id": "glm-4", "max_model_len": 8192}, {"id": "other"}]}
    with serving(lambda exchange: exchange.json(listed)) as server:
        info = ServerModel.connect(ServerSpec(server.url)).info
    assert (info.name, info.device, info.context_length) == ("glm-4", server.url, 8192)
    assert info.backend == "server"
    assert info.load_seconds > 0


def test_connect_keeps_to_the_model_that_was_named():
    listed = {"data": [{"id": "a"}, {"id": "b", "max_model_len": 100}]}
    with serving(lambda exchange: exchange.json(listed)) as server:
        assert ServerModel.connect(ServerSpec(server.url, "b")).info.context_length == 100
        assert ServerModel.connect(ServerSpec(server.url, "c")).info.name == "c"


def test_a_server_without_a_list_needs_a_name():
    with serving(lambda exchange: exchange.json({"detail": "Not Found"}, 404)) as server:
        assert ServerModel.connect(ServerSpec(server.url, "mine")).info.name == "mine"
        with pytest.raises(ServerError, match="no chat server at"):
            ServerModel.connect(ServerSpec(server.url))
    with serving(lambda exchange: exchange.json({"data": []})) as server:
        with pytest.raises(ServerError, match="does not list its models") as caught:
            ServerModel.connect(ServerSpec(server.url))
        assert "[servers.NAME]" in caught.value.hint


def test_an_address_with_the_path_of_the_chat_is_understood():
    with serving(lambda exchange: exchange.json(MODELS)) as server:
        ServerModel.connect(ServerSpec(f" {server.url}/chat/completions/ "))
        ServerModel.connect(ServerSpec(f"{server.url}/?version=3"))
    assert [e.path for e in server.exchanges] == ["/v1/models", "/v1/models?version=3"]


def test_the_key_and_a_login_are_sent():
    with serving(lambda exchange: exchange.reply("ok")) as server:
        reply(server, api_key="s3cret\n")
        login = server.url.replace("://", "://ann:p%40ss@")
        text = "".join(ServerModel(ServerSpec(login, "m")).stream(HI))
    assert text == "ok"
    sent = [exchange.headers["Authorization"] for exchange in server.exchanges]
    assert sent == ["Bearer s3cret", "Basic YW5uOnBAc3M="]


def test_a_proxy_is_used_but_not_for_this_machine(monkeypatch):
    for name in ("NO_PROXY", "no_proxy", "http_proxy"):
        monkeypatch.delenv(name, raising=False)
    with serving(lambda exchange: exchange.reply("ok")) as server:
        monkeypatch.setenv("ALL_PROXY", "socks5://127.0.0.1:1")
        monkeypatch.setenv("HTTP_PROXY", server.url.removesuffix("/v1"))
        assert reply(server).text == "ok"
        monkeypatch.delenv("ALL_PROXY")
        far = ServerModel(ServerSpec("http://gpu.example/v1", "m"))
        assert "".join(far.stream(HI)) == "ok"
    assert [e.path for e in server.exchanges] == [
        "/v1/chat/completions",
        "http://gpu.example/v1/chat/completions",
    ]


def test_importing_the_backend_does_not_import_httpx():
    code = "import sys, glmtui.engine.remote; print({'httpx', 'torch'} & sys.modules.keys())"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout == "set()\n"


# ---- a reply


def test_a_streamed_reply_and_the_servers_counts():
    details = {"cached_tokens": 5}
    usage = {"prompt_tokens": 9, "completion_tokens": 4, "prompt_tokens_details": details}
    with serving(lambda exchange: exchange.reply("Hel", "lo ", "你好", usage=usage)) as server:
        stream = model(server).stream(HI, SamplingParams(temperature=0.5))
        assert list(stream) == ["Hel", "lo ", "你好"]
        assert list(stream) == []
    result = stream.result
    assert (result.text, result.finish_reason, result.ids) == ("Hello 你好", "stop", ())
    stats = result.stats
    assert (stats.prompt_tokens, stats.reused_tokens, stats.generated_tokens) == (9, 5, 4)
    assert stats.first_token_seconds > 0
    assert stats.prefill_rate is None
    asked = server.questions[0]
    assert asked["stream_options"] == {"include_usage": True}
    assert (asked["model"], asked["temperature"]) == ("fake-glm", 0.5)


def test_without_counts_the_pieces_are_counted():
    with serving(lambda exchange: exchange.reply("a", "", "b", "c")) as server:
        stats = reply(server).stats
    assert (stats.generated_tokens, stats.prompt_tokens) == (3, 0)
    assert stats.decode_rate is not None


def test_nothing_is_sent_before_the_first_step():
    with serving(lambda exchange: exchange.reply("a")) as server:
        stream = model(server).stream(HI)
        stream.close()
        assert list(stream) == []
    assert server.exchanges == []
    assert stream.result.finish_reason == "cancelled"


def test_a_stream_of_single_bytes_with_comments_and_cr_lf():
    lines = ['data: {"choices": [{"delta": {"content": "你好👍"}}]}', "", ": ping", ""]
    lines += ['data: {"choices": [{"delta": {}, "finish_reason": "length"}]}', "", "data: [DONE]"]

    def drip(exchange):
        exchange.start()
        for byte in "\r\n".join(lines).encode():
            exchange.write(bytes([byte]))
        exchange.end()

    with serving(drip) as server:
        result = reply(server)
    assert (result.text, result.finish_reason) == ("你好👍", "length")


def test_a_server_that_answers_201():
    def answer(exchange):
        data = {"choices": [{"message": {"content": "Made."}, "finish_reason": "stop"}]}
        exchange.json(MODELS if exchange.command == "GET" else data, 201)

    with serving(answer) as server:
        assert reply(server).text == "Made."


@pytest.mark.parametrize("alive", ["data: : keepalive", "data:: OPENROUTER PROCESSING", ": ping"])
def test_what_keeps_a_connection_alive_is_no_answer(alive):
    def answer(exchange):
        exchange.start()
        exchange.write(f"id: 1\n{alive}\n\n".encode())
        exchange.event(delta("Hel"))
        exchange.write(f"{alive}\n\nid: 2\n\n".encode())
        exchange.event(delta("lo: ok", finish="stop"))
        exchange.end()

    with serving(answer) as server:
        result = reply(server)
    assert (result.text, result.finish_reason) == ("Hello: ok", "stop")


def test_thinking_comes_in_tags():
    def think(exchange):
        exchange.start()
        exchange.event(delta(reasoning_content="hm"))
        exchange.event(delta("Yes."))
        exchange.event(delta(finish="stop"))
        exchange.end()

    with serving(think) as server:
        assert reply(server).text == "<think>\nhm\n</think>\n\nYes."


def test_a_server_that_does_not_stream_is_understood():
    whole = {"choices": [{"message": {"content": "all at once"}, "finish_reason": "stop"}]}
    with serving(lambda exchange: exchange.json(whole)) as server:
        result = reply(server)
    assert (result.text, result.finish_reason) == ("all at once", "stop")
    assert (result.stats.generated_tokens, result.stats.decode_rate) == (0, None)


def test_llama_server_tells_how_far_the_prompt_is_read():
    listed = {"data": [{"id": "m", "owned_by": "llamacpp", "meta": {"n_ctx": 4096}}]}

    def answer(exchange):
        if exchange.command == "GET":
            return exchange.json(listed)
        exchange.start()
        for done in (512, 900):
            progress = {"total": 900, "cache": 0, "processed": done, "time_ms": 1}
            exchange.event({**delta(), "prompt_progress": progress})
        exchange.event(delta("a"))
        timings = {"prompt_ms": 2000, "predicted_ms": 500, "cache_n": 7}
        exchange.event({**delta(finish="stop"), "timings": timings})
        return exchange.end()

    seen = []
    with serving(answer) as server:
        connected = ServerModel.connect(ServerSpec(server.url))
        stream = connected.stream(HI, on_prefill=seen.append)
        assert list(stream) == ["a"]
    assert seen == [PrefillProgress(512, 900), PrefillProgress(900, 900)]
    stats = stream.result.stats
    assert (stats.prefill_seconds, stats.decode_seconds, stats.reused_tokens) == (2.0, 0.5, 7)
    assert server.questions[0]["return_progress"] is True


# ---- stopping


@pytest.mark.parametrize("headers_first", [True, False])
def test_a_silent_server_is_left_at_once(headers_first):
    silent, left = threading.Event(), threading.Event()

    def hush(exchange):
        if headers_first:
            exchange.start()
            exchange.event(delta("Well,"))
        silent.set()
        if exchange.wait_for_disconnect():
            left.set()

    with serving(hush) as server:
        stream = model(server).stream(HI, cancelled=silent.is_set)
        list(stream)
        stopped = time.monotonic()
        assert left.wait(60), "the server still writes for nobody"
    assert stream.result.finish_reason == "cancelled"
    assert stream.result.text in ("", "Well,")
    assert time.monotonic() - stopped < 30


@pytest.mark.parametrize("whose", ["reply", "model"])
def test_close_from_another_thread_ends_the_reply_and_keeps_what_there_is(whose):
    left = threading.Event()

    def hush(exchange):
        exchange.start()
        exchange.event(delta("Well,"))
        if exchange.wait_for_disconnect():
            left.set()

    with serving(hush) as server:
        chat = model(server)
        stream = chat.stream(HI)
        pieces = []
        for piece in stream:
            pieces.append(piece)
            close = stream.close if whose == "reply" else chat.close
            threading.Thread(target=close).start()
        assert left.wait(60)
    assert pieces == ["Well,"]
    assert (stream.result.text, stream.result.finish_reason) == ("Well,", "cancelled")


def test_breaking_off_hangs_up():
    left = threading.Event()

    def hush(exchange):
        exchange.start()
        exchange.event(delta("Well,"))
        if exchange.wait_for_disconnect():
            left.set()

    with serving(hush) as server:
        stream = model(server).stream(HI)
        assert next(iter(stream)) == "Well,"
        stream.close()
        assert left.wait(60)


def test_a_complete_reply_does_not_wait_long_for_counts(monkeypatch):
    monkeypatch.setattr(server_reply, "LINGER_SECONDS", 0.05)

    def linger(exchange):
        exchange.start()
        exchange.event(delta("Done"))
        exchange.event(delta(".", finish="stop"))
        exchange.wait_for_disconnect()

    with serving(linger) as server:
        assert reply(server).finish_reason == "stop"


def test_what_goes_wrong_after_a_complete_reply_harms_nobody():
    def answer(exchange):
        exchange.start()
        exchange.event(delta("Done.", finish="stop"))
        exchange.reset_connection()

    with serving(answer) as server:
        assert reply(server).text == "Done."


# ---- giving way


def test_the_older_half_of_a_long_conversation_is_left_out_until_it_fits():
    def answer(exchange):
        if len(exchange.body["messages"]) > 4:
            words = "This model's maximum context length is 64 tokens. However, ..."
            return exchange.json({"error": {"message": words, "code": 400}}, 400)
        return exchange.reply("ok")

    talk = [Message("system", "Be brief."), *[Message("user", "q"), Message("assistant", "a")] * 6]
    with serving(answer) as server:
        result = reply(server, [*talk, Message("user", "last")])
    sent = server.questions[-1]["messages"]
    assert [m["role"] for m in sent] == ["system", "user", "assistant", "user"]
    assert sent[-1]["content"] == "last"
    assert (result.text, result.dropped_turns) == ("ok", 10)
    assert len(server.questions) == 3


def test_sglang_says_in_the_stream_that_it_is_too_long():
    def answer(exchange):
        if len(exchange.body["messages"]) == 1:
            return exchange.reply("ok")
        exchange.start()
        words = "The input (99 tokens) is longer than the model's context length (64 tokens)."
        exchange.event({"error": {"message": words, "code": 400}})
        return exchange.end()

    with serving(answer) as server:
        result = reply(server, [Message("user", "q"), Message("assistant", "a"), *HI])
    assert (result.text, result.dropped_turns) == ("ok", 2)


def test_fields_a_server_does_not_know_are_left_out_from_then_on():
    known = {"model", "messages", "stream", "temperature", "stream_options"}

    def answer(exchange):
        unknown = [name for name in exchange.body if name not in known]
        if unknown:
            words = f"Unrecognized request argument supplied: {unknown[0]}"
            return exchange.json({"error": {"message": words}}, 400)
        return exchange.reply("ok")

    params = SamplingParams(temperature=0.5, top_k=5, repetition_penalty=1.1)
    with serving(answer) as server:
        chat = model(server)
        assert ["".join(chat.stream(HI, params)) for _ in range(2)] == ["ok", "ok"]
    assert len(server.questions) == 5  # once for each of the three, then twice well
    assert server.questions[-1].keys() == known


def test_a_request_that_is_bad_for_another_reason_teaches_nothing():
    def answer(exchange):
        if exchange.body["temperature"] > 2:
            return exchange.json({"error": "temperature must be at most 2"}, 400)
        return exchange.reply("ok")

    with serving(answer) as server:
        chat = model(server)
        with pytest.raises(ServerError, match="temperature must be at most 2"):
            list(chat.stream(HI, SamplingParams(temperature=3.0)))
        assert list(chat.stream(HI, SamplingParams(temperature=1.0))) == ["ok"]
    assert "stream_options" in server.questions[-1]


def test_a_reply_is_continued():
    with serving(lambda exchange: exchange.reply("lo!")) as server:
        result = reply(server, [*HI, Message("assistant", "Hel")])
    assert result.text == "lo!"
    assert server.questions[0]["continue_final_message"] is True


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        ("Assistant response prefill is not supported", "cannot continue a reply"),
        ("Unrecognized argument: continue_final_message", "cannot continue a reply"),
        ("temperature must be at most 2", "refused the request (400)"),
    ],
)
def test_a_server_that_cannot_continue_is_told_apart(words, shown):
    with serving(lambda exchange: exchange.json({"error": words}, 400)) as server:
        stream = model(server).stream([*HI, Message("assistant", "Hel")])
        with pytest.raises(ServerError) as caught:
            list(stream)
    assert shown in caught.value.message
    assert words in caught.value.message
