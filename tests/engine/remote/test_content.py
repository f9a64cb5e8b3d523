"""What servers say outside a plain string of content: parts, refusals, halves, repetitions."""

from __future__ import annotations

import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glmtui.chat import Message
from glmtui.engine.api import Reply
from glmtui.engine.model_info import ServerSpec
from glmtui.engine.remote import ServerModel
from glmtui.engine.remote.surrogates import SurrogateRepairer, decode_utf8
from glmtui.errors import ServerError
from support.fake_server import serving

HI = (Message("user", "hi"),)


def reply_to(*events, whole=None, raw=None, messages=HI) -> Reply:
    """The reply made of these deltas (or choices, or events) and an end; or of a whole answer."""

    def answer(exchange):
        if whole is not None:
            return exchange.json(whole)
        exchange.start()
        for event in events:
            exchange.write(b"data: " + json.dumps(event).encode() + b"\n\n")
        if raw is not None:
            exchange.write(raw)
        exchange.write(b"data: [DONE]\n\n")
        return exchange.end()

    with serving(answer) as server:
        stream = ServerModel(ServerSpec(server.url, "m")).stream(messages)
        assert "".join(stream) == stream.result.text
    assert stream.result.finish_reason != "error"
    return stream.result


def failure_of(*events, whole=None) -> ServerError:
    with pytest.raises(ServerError) as caught:
        reply_to(*events, whole=whole)
    return caught.value


def says(delta, **choice):
    return {"choices": [{"index": 0, "delta": delta, **choice}]}


def thought(text):
    return {"type": "thinking", "thinking": [{"type": "text", "text": text}]}


MISTRAL = [
    says({"role": "assistant", "content": ""}),
    says({"content": [thought("Let me see.")]}),
    says({"content": [thought(" Easy.")]}),
    says({"content": [{"type": "text", "text": "The answer is"}]}),
    says({"content": " 4."}),
    says({"content": ""}, finish_reason="stop"),
]
THOUGHT = "<think>\n{}\n</think>\n\n{}"


def test_thoughts_and_text_in_parts():
    assert reply_to(*MISTRAL).text == THOUGHT.format("Let me see. Easy.", "The answer is 4.")


@pytest.mark.parametrize(
    ("message", "text"),
    [
        ({"content": [{"type": "text", "text": "4"}]}, "4"),
        ({"content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}, "ab"),
        ({"content": ["a", "b"]}, "ab"),
        ({"content": {"type": "text", "text": "4"}}, "4"),
        ({"content": [{"type": "text", "text": {"value": "4", "annotations": []}}]}, "4"),
        ({"content": [{"type": "output_text", "text": "4"}]}, "4"),
        ({"content": [thought("Hm."), {"type": "text", "text": "4"}]}, THOUGHT.format("Hm.", "4")),
        (
            {"content": [{"type": "reasoning", "text": "Hm."}, {"text": "4"}]},
            THOUGHT.format("Hm.", "4"),
        ),
        ({"content": "4", "reasoning_details": [{"type": "reasoning.text", "text": "Hm."}]}, None),
        ({"content": "4", "reasoning": "Hm.", "reasoning_content": "Hm."}, None),
        ({"content": "4", "thinking": "Hm."}, None),
        ({"content": None, "refusal": "I can't help with that."}, "I can't help with that."),
        ({"content": [{"type": "refusal", "refusal": "No."}]}, "No."),
        ({"content": None, "audio": {"id": "a", "data": "AA==", "transcript": "Four."}}, "Four."),
        ({"content": [{"type": "image_url", "image_url": {}}, {"type": "text", "text": "4"}]}, "4"),
    ],
)
def test_content_in_every_form_streamed_and_whole(message, text):
    text = text or THOUGHT.format("Hm.", "4")
    assert reply_to(says(message, finish_reason="stop")).text == text
    whole = {"choices": [{"message": message, "finish_reason": "stop"}]}
    assert reply_to(whole=whole).text == text


def test_a_legacy_completion_and_ollamas_own_form():
    assert reply_to({"choices": [{"text": "a"}]}, {"choices": [{"text": "b"}]}).text == "ab"
    native = [{"message": {"content": "a"}}, {"message": {"content": "a"}}, {"done_reason": "stop"}]
    assert reply_to(*native).text == "aa"
    lines = b"\n".join(json.dumps(event).encode() for event in native)

    def answer(exchange):
        exchange.send(lines + b"\n", kind="application/x-ndjson")

    with serving(answer) as server:
        assert "".join(ServerModel(ServerSpec(server.url, "m")).stream(HI)) == "aa"


def test_of_several_choices_one_is_followed():
    both = {"choices": [{"index": 1, "delta": {"content": "B"}}, {"delta": {"content": "A"}}]}
    assert reply_to({"choices": [{"index": 1, "delta": {"content": "b"}}]}, both).text == "bB"
    other = {"choices": [{"index": 1, "delta": {"content": "no"}}]}
    assert reply_to(says({"content": "a"}), other, says({"content": "c"})).text == "ac"


# ---- nothing to show


@pytest.mark.parametrize(
    ("message", "words"),
    [
        ({"content": ""}, "an empty reply"),
        ({"content": None}, "an empty reply"),
        ({"content": " \n"}, "an empty reply"),
        ({"content": [{"type": "image_url", "image_url": {"url": "x"}}]}, "image_url"),
        ({"content": None, "images": [{"type": "image_url"}]}, "image"),
        (
            {"tool_calls": [{"index": 0, "function": {"name": "look", "arguments": '{"a":1}'}}]},
            'look({"a":1})',
        ),
        ({"function_call": {"name": "look", "arguments": "{}"}}, "look({})"),
    ],
)
def test_a_reply_with_nothing_to_show_is_no_success(message, words):
    assert words in failure_of(says(message, finish_reason="stop")).message
    whole = {"choices": [{"message": message, "finish_reason": "stop"}]}
    assert words in failure_of(whole=whole).message


def test_a_reply_that_ended_in_hidden_thoughts_names_the_setting():
    assert "max_new_tokens" in failure_of(says({"content": ""}, finish_reason="length")).hint


def test_a_continued_reply_may_add_nothing():
    going_on = (*HI, Message("assistant", "All there is."))
    assert reply_to(says({"content": ""}, finish_reason="stop"), messages=going_on).text == ""


# ---- characters that are cut


@pytest.mark.parametrize(
    ("pieces", "text"),
    [
        (["Hi \ud83d", "\ude00 ok"], "Hi 😀 ok"),
        (["\ud83d", "", "\ude00\ud83d", "\ude00"], "😀😀"),
        (["a\ud83d", "b"], "a\ufffdb"),
        (["a\ud83d"], "a\ufffd"),
        (["\ude00a"], "\ufffda"),
    ],
)
def test_halves_of_a_surrogate_pair(pieces, text):
    assert reply_to(*({"choices": [{"delta": {"content": p}}]} for p in pieces)).text == text
    deltas = [{"choices": [{"delta": {"reasoning_content": p}}]} for p in pieces]
    done = says({"content": "!"})
    assert reply_to(*deltas, done).text == THOUGHT.format(text, "!")
    parts = [says({"content": [{"type": "text", "text": p}]}) for p in pieces]
    assert reply_to(*parts).text == text


def cut(raw: bytes, at: int, field: bytes = b"content") -> bytes:
    """A stream of two events, between two bytes of the text."""
    event = b'data: {"choices":[{"delta":{"%s":"%s"}}]}\n\n'
    return event % (field, raw[:at]) + event % (field, raw[at:])


@pytest.mark.parametrize("at", [1, 2, 3, 4, 5, 6])
def test_bytes_of_one_character(at):
    raw = "你👍".encode()
    assert reply_to(raw=cut(raw, at)).text == "你👍"
    thoughts = cut(raw, at, b"reasoning") + b'data: {"choices":[{"delta":{"content":"!"}}]}\n\n'
    assert reply_to(raw=thoughts).text == THOUGHT.format("你👍", "!")


def test_bytes_that_are_no_characters():
    assert reply_to(raw=cut(b"a\xe4\xffb", 2)).text == "a\ufffd\ufffdb"
    assert reply_to(raw=cut(b"a\xe4", 2)).text == "a\ufffd"


def test_tool_arguments_are_cut_as_well():
    def call(arguments):
        return says({"tool_calls": [{"index": 0, "function": {"arguments": arguments}}]})

    named = says({"tool_calls": [{"index": 0, "function": {"name": "say"}}]})
    assert "say(😀)" in failure_of(named, call("\ud83d"), call("\ude00")).message


@given(st.text(), st.lists(st.integers(0, 60), max_size=8), st.booleans())
def test_text_is_the_same_wherever_it_is_cut(text, cuts, by_bytes):
    raw = text.encode() if by_bytes else text.encode("utf-16-le")
    size = 1 if by_bytes else 2
    edges = [0, *sorted(min(c * size, len(raw)) for c in cuts), len(raw)]
    pieces = [raw[a:b] for a, b in itertools.pairwise(edges)]
    texts = (decode_utf8(p) if by_bytes else p.decode("utf-16-le", "surrogatepass") for p in pieces)
    repairer = SurrogateRepairer()
    assert "".join(map(repairer.feed, texts)) + repairer.flush() == text


# ---- what is said twice

LONG = "It is four, and that is all."


@pytest.mark.parametrize(
    "events",
    [
        [says({"content": "It is "}, message={"content": LONG}), says({"content": LONG[6:]})],
        [
            says({"content": "It is "}),
            says({"content": LONG[6:]}),
            {"choices": [{"message": {"content": LONG}, "finish_reason": "stop"}]},
        ],
        [
            says({"content": "It is "}),
            says({"content": LONG[6:]}),
            says({}, message={"role": "assistant", "content": LONG}, finish_reason="stop"),
        ],
        [
            says({"content": LONG}),
            says({"content": ""}, message={"content": f" {LONG}\n"}, finish_reason="stop"),
        ],
        [says({"content": "It is "}), {"choices": [{"message": {"content": LONG}}]}],
        [{"choices": [{"message": {"content": LONG[:n]}}]} for n in (2, 9, len(LONG))],
        [{"choices": [{"message": {"content": LONG[:2]}}]}]
        + [{"choices": [{"message": {"content": part}}]} for part in (LONG[2:6], LONG[6:])],
        [
            says({"content": "It is "}),
            says({"content": LONG[6:]}),
            says({"content": LONG}, finish_reason="stop"),
        ],
    ],
)
def test_a_whole_message_beside_or_after_the_pieces_is_read_once(events):
    assert reply_to(*events).text == LONG


def test_thoughts_that_are_repeated_are_read_once():
    message = {"content": "4", "reasoning_content": "Hm."}
    events = [says({"reasoning_content": "Hm."}), says({"content": "4"}), says({}, message=message)]
    assert reply_to(*events).text == THOUGHT.format("Hm.", "4")


def test_words_that_are_alike_are_no_repetition():
    assert reply_to(*[says({"content": "ha"})] * 3).text == "hahaha"
    assert reply_to(says({"content": "a"}), says({"content": "aa"}, finish_reason="stop")).text == (
        "aaa"
    )
