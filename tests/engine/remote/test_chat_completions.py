"""The chat completions format and server-sent events, without any server."""

from __future__ import annotations

import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glmtui.chat import Message, SamplingParams
from glmtui.engine.api import PrefillProgress
from glmtui.engine.remote import sse
from glmtui.engine.remote.chat_completions import (
    Chunk,
    ListedModel,
    drop_older_half,
    error_text,
    extra_fields,
    find_error,
    parse_models,
    request_body,
)
from glmtui.engine.remote.reply_parser import ReplyParser
from glmtui.engine.remote.think_tags import ThinkTagWriter


def parse_chunk(data):
    return ReplyParser().feed(data)


# ---- events

STREAM = (
    "\ufeff: hello\r\ndata: {\r\ndata:  你好}\r\nid: 7\r\n\r\n:\n\ndata\ndata: 👍\n\nerror: no\r\r"
)
EVENTS = [("data", "{\n 你好}"), ("data", "\n👍"), ("error", "no")]


def test_events_of_a_stream_in_one_piece():
    assert list(sse.parse_events([STREAM.encode()])) == EVENTS


@given(st.lists(st.integers(0, len(STREAM.encode())), max_size=12))
def test_events_are_the_same_wherever_the_bytes_are_cut(cuts):
    raw = STREAM.encode()
    edges = [0, *sorted(cuts), len(raw)]
    pieces = [raw[a:b] for a, b in itertools.pairwise(edges)]
    assert list(sse.parse_events(pieces)) == EVENTS


def test_an_event_without_its_empty_line_counts():
    assert list(sse.parse_events([b"data: a\n\nda", b"ta: [DONE]"])) == [
        ("data", "a"),
        ("data", "[DONE]"),
    ]


def test_an_endless_line_is_given_up(monkeypatch):
    monkeypatch.setattr(sse, "MAX_LINE_BYTES", 100)
    with pytest.raises(ValueError, match="without an end"):
        list(sse.parse_events(b"data: " + b"x" * 60 for _ in range(3)))


# ---- sent

QUESTION = Message("user", "hi")


def test_a_request_holds_only_what_was_asked_for():
    body = request_body("m", [QUESTION], SamplingParams())
    assert body == {"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": True}
    assert extra_fields(SamplingParams()) == {"stream_options": {"include_usage": True}}


def test_sampling_parameters_get_the_servers_names():
    params = SamplingParams(
        temperature=0.7, top_k=40, top_p=0.9, repetition_penalty=1.1, seed=3, max_new_tokens=50
    )
    body = request_body("m", [QUESTION], params)
    assert (body["temperature"], body["top_p"], body["seed"], body["max_tokens"]) == (
        0.7,
        0.9,
        3,
        50,
    )
    extra = extra_fields(params)
    assert (extra["top_k"], extra["repetition_penalty"], extra["repeat_penalty"]) == (40, 1.1, 1.1)


@pytest.mark.parametrize("params", [{"do_sample": False, "temperature": 0.9}, {"temperature": 0.0}])
def test_greedy_is_temperature_0(params):
    assert request_body("m", [QUESTION], SamplingParams(**params))["temperature"] == 0


def test_top_k_0_means_all_tokens():
    assert extra_fields(SamplingParams(top_k=0))["top_k"] == -1


def test_an_observation_is_sent_as_the_users():
    body = request_body("m", [QUESTION, Message("observation", "42")], SamplingParams())
    assert [m["role"] for m in body["messages"]] == ["user", "user"]


def test_a_last_message_of_the_assistants_is_to_be_continued():
    body = request_body("m", [QUESTION, Message("assistant", "He")], SamplingParams())
    assert body["continue_final_message"] is True
    assert body["add_generation_prompt"] is False


def talk(*roles):
    return [Message(role, f"{role} {i}") for i, role in enumerate(roles)]


def test_shortened_keeps_the_system_prompt_and_the_last_question():
    messages = talk("system", *["user", "assistant"] * 4, "user")
    while (fewer := drop_older_half(messages)) is not None:
        assert fewer[0] == messages[0]
        assert fewer[1].role == "user"
        assert fewer[-1] == messages[-1]
        assert len(fewer) < len(messages)
        messages = fewer
    assert [m.role for m in messages] == ["system", "user"]


def test_shortened_does_not_part_a_reply_to_be_continued_from_its_question():
    messages = talk("user", "assistant", "user", "assistant")
    assert drop_older_half(messages) == tuple(messages[2:])
    assert drop_older_half(messages[2:]) is None
    assert drop_older_half([]) is None


# ---- received


def test_context_lengths_in_each_servers_words():
    listed = parse_models(
        {
            "data": [
                {"id": "a", "owned_by": "vllm", "max_model_len": 8192},
                {"id": "b", "owned_by": "llamacpp", "meta": {"n_ctx": 4096, "n_ctx_train": 131072}},
                {"id": "c", "meta": {"n_ctx_train": 2048}},
                {"id": "d", "context_length": "lots", "meta": None},
                {"name": "no id"},
                "nonsense",
            ]
        }
    )
    assert listed == (
        ListedModel("a", 8192, "vllm"),
        ListedModel("b", 4096, "llamacpp"),
        ListedModel("c", 2048),
        ListedModel("d"),
    )


def test_a_bare_list_of_models_will_do():
    assert parse_models([{"id": "a"}]) == (ListedModel("a"),)


@pytest.mark.parametrize("data", [{}, {"data": {}}, "x", None, 7])
def test_no_list_of_models(data):
    with pytest.raises(ValueError, match="models"):
        parse_models(data)


@pytest.mark.parametrize(
    ("word", "reason"),
    [("stop", "stop"), ("length", "length"), ("eos_token", "stop"), ("content_filter", "error")],
)
def test_reasons_to_end(word, reason):
    assert parse_chunk({"choices": [{"finish_reason": word}]}).finish == reason


def test_counts_and_clocks_of_the_servers():
    chunk = parse_chunk(
        {
            "choices": [],
            "usage": {
                "prompt_tokens": 20,
                "completion_tokens": 5,
                "prompt_tokens_details": {"cached_tokens": 12},
            },
            "timings": {"prompt_ms": 250.0, "predicted_ms": 1000, "cache_n": 3},
            "prompt_progress": {"total": 100, "cache": 20, "processed": 60, "time_ms": 5},
        }
    )
    assert chunk == Chunk(
        prompt_tokens=20,
        reused_tokens=12,
        generated_tokens=5,
        prefill_seconds=0.25,
        decode_seconds=1.0,
        progress=PrefillProgress(40, 80),
    )


FULL = {
    "choices": [{"delta": {"content": "a", "reasoning": "b"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 1, "prompt_tokens_details": {"cached_tokens": 1}},
    "timings": {"prompt_ms": 1.0, "cache_n": 1},
    "prompt_progress": {"total": 2, "cache": 0, "processed": 1},
    "error": {"message": "no", "code": 400, "loc": ["a"]},
    "detail": [{"msg": "no"}],
}


def with_each_value_replaced(value, odd):
    """Copies of nested `value`, each with one part of it replaced by `odd`."""
    yield odd
    if not isinstance(value, (dict, list)):
        return
    for key, part in list(value.items() if isinstance(value, dict) else enumerate(value)):
        for other in with_each_value_replaced(part, odd):
            copy = value.copy()
            copy[key] = other
            yield copy


@pytest.mark.parametrize("odd", [None, True, -1, 1e400, 10**30, "x", [], {}, [None], {"code": []}])
def test_nothing_a_server_sends_breaks_the_reading(odd):
    for data in with_each_value_replaced(FULL, odd):
        chunk = parse_chunk(data) if isinstance(data, dict) else Chunk()
        assert isinstance(chunk.text, str)
        assert isinstance(error_text(data), str)
        failure = find_error(data)
        assert failure is None or failure[1]


def test_a_lone_surrogate_cannot_enter():
    data = json.loads(r'{"choices":[{"delta":{"content":"a\ud83d"}}]}')
    answer = ReplyParser()
    assert answer.feed(data).text + answer.flush().text == "a\ufffd"


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"error": {"message": "no", "code": 400}}, "no"),
        (
            {"error": {"message": "no", "code": "context_length_exceeded"}},
            "context_length_exceeded",
        ),
        ({"error": "model 'x' not found"}, "model 'x' not found"),
        ({"object": "error", "message": "bad", "code": 400}, "bad"),
        ({"detail": "Not Found"}, "Not Found"),
        ({"detail": [{"loc": ["body", "top_k"], "msg": "extra"}]}, "extra (body.top_k)"),
        ({"other": 1}, ""),
    ],
)
def test_the_words_of_a_refusal_in_every_form(body, words):
    assert words in error_text(body)


# ---- thinking


def test_thinking_is_put_into_tags():
    tags = ThinkTagWriter()
    chunks = [
        parse_chunk({"choices": [{"delta": {"role": "assistant", "content": None}}]}),
        parse_chunk({"choices": [{"delta": {"reasoning_content": "Let me"}}]}),
        parse_chunk({"choices": [{"delta": {"reasoning": " see."}}]}),
        parse_chunk({"choices": [{"delta": {"content": "\n\nHi"}}]}),
        parse_chunk({"choices": [{"delta": {"content": "\n!"}}]}),
    ]
    assert "".join(map(tags.feed, chunks)) == "<think>\nLet me see.\n</think>\n\nHi\n!"
    assert tags.flush() == ""


def test_a_reply_that_is_all_thinking_is_closed_at_its_end():
    tags = ThinkTagWriter()
    assert tags.feed(Chunk(reasoning="hm")) + tags.flush() == "<think>\nhm\n</think>\n"
