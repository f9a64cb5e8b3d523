"""What servers do not take: fields, the order of turns, a list of models that is asked for."""

from __future__ import annotations

import time

import pytest

from glmtui.chat import Message, SamplingParams
from glmtui.engine.model_info import ServerSpec
from glmtui.engine.remote import ServerModel, model_list
from glmtui.errors import ServerError
from support.fake_server import serving

HI = (Message("user", "hi"),)
ALL = SamplingParams(
    temperature=0.5, top_k=5, top_p=0.9, seed=7, max_new_tokens=50, repetition_penalty=1.1
)


def refusing(*rules, status=400, whole=False):
    """A server with rules: the words with which it refuses a body that the rule is true of."""

    def answer(exchange):
        for broken, words in rules:
            if broken(exchange.body):
                return exchange.json({"error": {"message": words}}, status)
        if whole:
            return exchange.json({"choices": [{"message": {"content": "ok"}}]})
        return exchange.reply("ok")

    return answer


def asked_twice(answer, params=ALL, messages=HI):
    """The bodies of two questions to one model, the second of which was taken at once."""
    with serving(answer) as server:
        chat = ServerModel(ServerSpec(server.url, "m"))
        assert "".join(chat.stream(messages, params)) == "ok"
        before = len(server.questions)
        assert "".join(chat.stream(messages, params)) == "ok"
        assert len(server.questions) == before + 1
    return server.questions


def has(name, value=None):
    return lambda body: name in body and (value is None or body[name] == value)


# ---- fields


@pytest.mark.parametrize("status", [400, 422, 500])
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("top_k", "Unrecognized request argument supplied: top_k"),
        ("top_k", "Extra inputs are not permitted: body.top_k"),
        ("top_k", "chat() got an unexpected keyword argument 'top_k'"),
        ("seed", "property 'seed' is unsupported"),
        ("seed", "`seed` is not supported by this model"),
        ("seed", "json: unknown field \"seed\""),
        ("temperature", "Unsupported value: 'temperature' does not support 0.5 with this model. "
         "Only the default (1) value is supported."),
        ("top_p", "top_p is deprecated for this model"),
        ("stream_options", "stream_options is not a valid parameter"),
        ("repetition_penalty", "参数 repetition_penalty 不支持"),
        ("max_tokens", "max_tokens: extra fields not permitted"),
    ],
)  # fmt: skip
def test_a_field_is_left_out_and_that_is_remembered(name, words, status):
    first, second, *_, last = asked_twice(refusing((has(name), words), status=status))
    assert name in first
    assert name not in second
    assert name not in last
    others = first.keys() - {name}
    assert others <= last.keys()


def test_the_newer_name_of_the_limit():
    words = (
        "Unsupported parameter: 'max_tokens' is not supported with this model. Use "
        "'max_completion_tokens' instead."
    )
    first, second, last = asked_twice(refusing((has("max_tokens"), words)))
    assert first["max_tokens"] == second["max_completion_tokens"] == 50
    assert "max_tokens" not in last


def test_a_server_that_knows_neither_name():
    words = "unknown field: "
    rules = [(has(n), words + n) for n in ("max_tokens", "max_completion_tokens")]
    bodies = asked_twice(refusing(*rules))
    assert len(bodies) == 4
    assert not {"max_tokens", "max_completion_tokens"} & bodies[-1].keys()


def test_two_that_do_not_go_together():
    def both(body):
        return "temperature" in body and "top_p" in body

    words = "`temperature` and `top_p` cannot both be specified for this model."
    last = asked_twice(refusing((both, words)))[-1]
    assert last["temperature"] == 0.5
    assert "top_p" not in last


def test_a_server_that_does_not_stream():
    words = "Unsupported value: 'stream' does not support true with this model."
    last = asked_twice(refusing((has("stream", True), words), whole=True))[-1]
    assert last["stream"] is False
    assert "stream_options" not in last


def test_a_top_k_of_all_is_as_good_as_none():
    rule = (has("top_k", -1), "top_k must be at least 1")
    assert "top_k" not in asked_twice(refusing(rule), SamplingParams(top_k=0))[-1]


def test_several_servers_ask_for_several_changes():
    rules = [
        (has("top_k"), "Unrecognized request argument supplied: top_k"),
        (has("stream_options"), "Unknown parameter: stream_options"),
        (has("max_tokens"), "use max_completion_tokens instead of max_tokens"),
        (has("repeat_penalty"), "repeat_penalty is not allowed"),
    ]
    bodies = asked_twice(refusing(*rules))
    assert len(bodies) == 6


@pytest.mark.parametrize(
    ("words", "setting"),
    [
        ("max_tokens is too large: 50. This model supports at most 4 completion tokens", "max_new"),
        ("temperature must be between 0 and 1", "temperature"),
        ("top_k should be less than 3", "top_k"),
        ("seed: value out of range", "seed"),
        ("repetition_penalty 必须大于 1", "repetition_penalty"),
    ],
)
def test_a_value_out_of_its_range_is_the_users_to_change(words, setting):
    with serving(refusing((lambda body: True, words))) as server:
        chat = ServerModel(ServerSpec(server.url, "m"))
        with pytest.raises(ServerError) as caught:
            list(chat.stream(HI, ALL))
        assert len(server.questions) == 1
    assert words in caught.value.message
    assert setting in caught.value.hint


def test_a_refusal_of_everything_comes_to_its_end():
    words = f"unsupported: {', '.join(('temperature', 'top_k', 'seed', 'stream', 'max_tokens'))}"
    with serving(refusing((lambda body: True, words))) as server:
        with pytest.raises(ServerError):
            list(ServerModel(ServerSpec(server.url, "m")).stream(HI, ALL))
        assert len(server.questions) < 10


def test_a_server_that_refuses_to_stream_and_not_to_is_asked_twice():
    words = "'stream' is not supported"
    with serving(refusing((lambda body: True, words))) as server:
        with pytest.raises(ServerError):
            list(ServerModel(ServerSpec(server.url, "m")).stream(HI, SamplingParams(seed=1)))
        assert [body["stream"] for body in server.questions][:2] == [True, False]
        assert len(server.questions) < 5


# ---- turns


def roles(body):
    return [m["role"] for m in body["messages"]]


def alternates(body):
    turns = [role for role in roles(body) if role != "system"]
    return turns == ["user", "assistant"] * (len(turns) // 2) + ["user"] * (len(turns) % 2)


STRICT = (lambda body: not alternates(body), "Conversation roles must alternate user/assistant/...")
EMPTY = (lambda body: not all(m["content"] for m in body["messages"]), "content must not be empty")
SYSTEM = (lambda body: "system" in roles(body)[1:], "System message must be at the beginning.")


@pytest.mark.parametrize(
    "turns",
    [
        ["u1", "u2"],
        ["u1", "a", "u2"],
        ["u1", "aA", "aB", "u2"],
        ["sS", "u1", "sT", "u2"],
        ["u1", "aA", "o42", "u2"],
    ],
)
def test_strict_servers_take_what_was_said(turns):
    names = {"s": "system", "u": "user", "a": "assistant", "o": "observation"}
    messages = [Message(names[turn[0]], turn[1:]) for turn in turns]
    last = asked_twice(refusing(STRICT, EMPTY, SYSTEM), messages=messages)
    assert len(last) == 2  # taken at once
    sent = " ".join(m["content"] for m in last[-1]["messages"])
    assert all(turn[1:] in sent for turn in turns)


def test_a_server_without_a_system_role_and_with_a_question_first():
    rule = (lambda body: roles(body)[0] != "user", "System role not supported")
    messages = [Message("system", "Be brief."), Message("assistant", "Hello!"), *HI]
    with serving(refusing(rule)) as server:
        assert "".join(ServerModel(ServerSpec(server.url, "m")).stream(messages)) == "ok"
    assert server.questions[-1]["messages"] == [{"role": "user", "content": "Be brief.\n\nhi"}]


def test_a_question_that_was_too_long_does_not_stay_in_the_way():
    def answer(exchange):
        if len(exchange.body["messages"][0]["content"]) > 100:
            return exchange.json({"error": {"message": "context length exceeded"}}, 400)
        return exchange.reply("ok")

    messages = [Message("user", "x" * 1000), Message("user", "short")]
    with serving(answer) as server:
        stream = ServerModel(ServerSpec(server.url, "m")).stream(messages)
        assert "".join(stream) == "ok"
    assert stream.result.dropped_turns == 1


def test_thoughts_are_never_sent_back():
    replies = ["<think>\nSECRET\n</think>\n\nFour.", "SECRET</think>\n\nFive.", "<think>\nSECRET"]
    messages = [m for reply in replies for m in (Message("user", "q"), Message("assistant", reply))]
    with serving(lambda exchange: exchange.reply("ok")) as server:
        list(ServerModel(ServerSpec(server.url, "m")).stream([*messages, *HI]))
    sent = server.questions[0]["messages"]
    assert "SECRET" not in str(sent)
    assert [m["content"] for m in sent] == ["q", "Four.", "q", "Five.", "q\nhi"]


def test_a_reply_is_continued_without_its_thoughts_and_not_within_them():
    with serving(lambda exchange: exchange.reply("ok")) as server:
        chat = ServerModel(ServerSpec(server.url, "m"))
        list(chat.stream([*HI, Message("assistant", "<think>\nHm.\n</think>\n\nFou")]))
        assert server.questions[0]["messages"][-1] == {"role": "assistant", "content": "Fou"}
        with pytest.raises(ServerError, match="during its reasoning"):
            list(chat.stream([*HI, Message("assistant", "<think>\nHm.")]))
        assert len(server.questions) == 1


# ---- the list of models


def listing(status, body, **headers):
    def answer(exchange):
        if exchange.command == "POST":
            return exchange.reply("ok")
        if isinstance(body, bytes):
            return exchange.send(body, status, **headers)
        return exchange.json(body, status, **headers)

    return answer


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (403, {"error": {"message": "Missing scopes: api.model.read"}}),
        (400, {"error": {"message": "unsupported path"}}),
        (500, {"error": {"message": "not implemented"}}),
        (501, {}),
        (503, b""),
        (429, {"error": "slow down"}),
        (301, b""),
        (200, {"success": True, "result": [{"name": "m"}]}),
        (200, {"models": [{"name": "m"}]}),
        (200, {"data": None}),
        (200, {"data": "x"}),
        (200, b"<html><title>Welcome</title></html>"),
        (200, b""),
        (200, b"[" * 100_000),
        (200, b"x" * (5 << 20)),
    ],
)
def test_a_model_that_is_named_needs_no_list(status, body):
    with serving(listing(status, body)) as server:
        chat = ServerModel.connect(ServerSpec(server.url, "mine"))
        assert chat.info.name == "mine"
        assert "".join(chat.stream(HI)) == "ok"
    assert server.questions[0]["model"] == "mine"


def test_a_list_that_breaks_off_or_is_compressed_does_not_matter_either():
    def die(exchange):
        exchange.send_response(200)
        exchange.send_header("Content-Length", "100")
        exchange.end_headers()
        exchange.reset_connection()

    for answer in (die, listing(200, b"x" * 40, Content_Encoding="gzip")):
        with serving(answer) as server:
            assert ServerModel.connect(ServerSpec(server.url, "mine")).info.name == "mine"


def test_a_list_that_drips_is_not_waited_for_where_a_model_is_named(monkeypatch):
    monkeypatch.setattr(model_list, "NAMED_LIST_SECONDS", 0.2)
    monkeypatch.setattr(model_list, "LIST_SECONDS", 0.2)

    def drip(exchange):
        exchange.send_response(200)
        exchange.send_header("Content-Length", "100000")
        exchange.end_headers()
        while True:
            exchange.wfile.write(b" ")
            time.sleep(0.02)

    with serving(drip) as server:
        assert ServerModel.connect(ServerSpec(server.url, "mine")).info.name == "mine"
        with pytest.raises(ServerError, match="did not complete its answer"):
            ServerModel.connect(ServerSpec(server.url))


def test_a_key_that_is_refused_is_said_at_once():
    with (
        serving(listing(401, {"error": "no"})) as server,
        pytest.raises(ServerError, match="API key"),
    ):
        ServerModel.connect(ServerSpec(server.url, "mine"))


@pytest.mark.parametrize(
    "body",
    [
        {"models": [{"name": "first"}, {"name": "second"}]},
        {"result": [{"name": "first"}]},
        {"data": {"models": ["first", "second"]}},
        {"data": ["first"]},
        ["first"],
        [{"model": "first"}],
    ],
)
def test_lists_of_other_shapes(body):
    with serving(listing(200, body)) as server:
        assert ServerModel.connect(ServerSpec(server.url)).info.name == "first"
