"""conversation_format: what is written is read again, and what a person edits is understood."""

from __future__ import annotations

import json
import textwrap
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
import tomli
from hypothesis import given, settings
from hypothesis import strategies as st

from glmtui.chat import Conversation, GenerationStats, Message, SamplingParams
from glmtui.errors import CorruptConversation, GlmtuiError, NewerFormat
from glmtui.store.conversation_format import FileFormat, dumps, loads, peek
from support.conversation_strategies import (
    conversations,
    texts,
)

FORMATS: tuple[FileFormat, ...] = ("toml", "json")
both_formats = pytest.mark.parametrize("file_format", FORMATS)
START = datetime(2026, 11, 22, 18, 0, tzinfo=timezone.utc)

KEYS = (
    *("messages", "role", "content", "format", "params", "stats", "id", "parent", "head", "time"),
    *("created", "title", "temperature", "finish_reason", "generated_tokens"),
)


@settings(max_examples=150, deadline=None)
@given(conversations(), st.sampled_from(FORMATS))
def test_what_is_written_is_read_again(talk: Conversation, file_format: FileFormat) -> None:
    text = dumps(talk, file_format)
    assert loads(text, file_format) == talk
    there = peek(text, file_format)
    assert (there.title, there.model) == (talk.title, talk.model)
    assert there.message_count == len(talk.messages)


@settings(max_examples=300, deadline=None)
@given(texts)
def test_any_text_is_kept_to_the_character(text: str) -> None:
    talk = Conversation.new(system=text).add(Message("user", text))
    for file_format in FORMATS:
        again = loads(dumps(talk, file_format), file_format)
        assert again.system == text
        assert again.messages[0].content == text


@both_formats
def test_lone_surrogates_become_replacement_characters(file_format: FileFormat) -> None:
    talk = Conversation.new(model="\ud800").add(Message("user", "a\udfffb\n'''"))
    data = dumps(talk, file_format).encode()
    again = loads(data.decode(), file_format)
    assert again.messages[0].content == "a\ufffdb\n'''"
    assert again.model == "\ufffd"


def test_numbers_that_no_file_holds_are_left_out() -> None:
    bad = GenerationStats(decode_seconds=float("nan"), prefill_seconds=float("inf"))
    talk = Conversation.new(params=SamplingParams(temperature=float("-inf"), top_k=3))
    talk = talk.add(Message("assistant", "a", stats=bad))
    for file_format in FORMATS:
        again = loads(dumps(talk, file_format), file_format)
        assert again.params == SamplingParams(top_k=3)
        assert again.messages[0].stats == GenerationStats()


def test_a_linear_chat_is_a_plain_list_to_read() -> None:
    talk = Conversation(
        id="1f2e3d4c",
        created=START,
        model="smollm2",
        system="Be brief.",
        params=SamplingParams(temperature=0.7),
    )
    talk = talk.add(Message("user", "你好\nSay \"hi\" in C: printf('\\n')", created=START))
    reply = Message("assistant", '```c\nputs("hi");\n```', created=START + timedelta(seconds=2))
    reply = replace(reply, model="smollm2", finish_reason="stop")
    talk = talk.add(replace(reply, stats=GenerationStats(generated_tokens=12)))
    assert dumps(talk, "toml") == textwrap.dedent("""\
        format = 1
        id = "1f2e3d4c"
        title = "你好"
        model = "smollm2"
        created = 2026-11-22 18:00:00+00:00
        system = "Be brief."

        [params]
        temperature = 0.7

        [[messages]]
        role = "user"
        time = 2026-11-22 18:00:00+00:00
        content = '''
        你好
        Say "hi" in C: printf('\\n')'''

        [[messages]]
        role = "assistant"
        time = 2026-11-22 18:00:02+00:00
        model = "smollm2"
        finish_reason = "stop"
        content = '''
        ```c
        puts("hi");
        ```'''

        [messages.stats]
        generated_tokens = 12
        """)
    in_json = json.loads(dumps(talk, "json"))
    assert list(in_json["messages"][0]) == ["role", "time", "content"]
    assert "head" not in in_json


@both_formats
def test_a_branch_brings_ids_parents_and_head(file_format: FileFormat) -> None:
    talk = Conversation.new().add(Message("user", "q")).add(Message("assistant", "a"))
    talk = talk.edit("m1", "q2").add(Message("assistant", "a2"))
    parse: Any = tomli.loads if file_format == "toml" else json.loads
    data = parse(dumps(talk, file_format))
    assert data["head"] == "m4"
    assert [(m["id"], m["parent"]) for m in data["messages"]] == [
        ("m1", ""),
        ("m2", "m1"),
        ("m3", ""),
        ("m4", "m3"),
    ]


def test_a_reply_cut_by_a_crash_has_no_finish_reason() -> None:
    talk = Conversation.new().add(Message("user", "q")).add(Message("assistant", "half of it"))
    assert "finish_reason" not in dumps(talk, "toml")
    assert loads(dumps(talk, "toml"), "toml").path[-1].finish_reason is None


@both_formats
def test_a_newer_format_is_refused_as_such(file_format: FileFormat) -> None:
    text = dumps(Conversation.new().add(Message("user", "q")), file_format)
    text = text.replace("format = 1", "format = 2").replace('"format": 1', '"format": 2')
    for reading in (loads, peek):
        with pytest.raises(NewerFormat) as caught:
            reading(text, file_format)
        assert caught.value.hint == "Update glmtui to open it."


# ---- peeking


def test_peek_notices_a_file_that_was_cut_short() -> None:
    talk = Conversation.new().add(Message("user", "first\nquestion"))
    talk = talk.add(Message("assistant", "a reply\nof several\nlines", finish_reason="stop"))
    for file_format in FORMATS:
        text = dumps(talk, file_format)
        with pytest.raises(CorruptConversation):
            peek(text[:-20], file_format)


def test_peek_agrees_with_loads_on_texts_that_look_like_messages() -> None:
    """Written by hand, where no escape marks them."""
    text = textwrap.dedent("""\
        title = "toml"
        [[messages]]
        role = "user"
        content = '''
        what does
        [[messages]]
        mean'''
        """)
    assert loads(text, "toml").messages[0].content == "what does\n[[messages]]\nmean"
    assert peek(text, "toml").title == "toml"
    assert peek(text, "toml").message_count == 1


def assert_only_our_errors(text: str, file_format: FileFormat) -> None:
    for reading in (loads, peek):
        try:
            reading(text, file_format)
        except GlmtuiError as error:
            assert error.message  # noqa: PT017 - either outcome is right


@settings(max_examples=200, deadline=None)
@given(conversations(), st.sampled_from(FORMATS), st.data())
def test_damaged_files_raise_only_our_errors(
    talk: Conversation, file_format: FileFormat, data: st.DataObject
) -> None:
    text = dumps(talk, file_format)
    at = data.draw(st.integers(0, len(text)))
    to = data.draw(st.integers(at, len(text)))
    assert_only_our_errors(text[:at] + data.draw(texts) + text[to:], file_format)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(KEYS),
            inner,
            max_size=5,
        )
    ),
    max_leaves=20,
)


@settings(max_examples=200, deadline=None)
@given(json_values)
def test_any_json_raises_only_our_errors(value: Any) -> None:
    assert_only_our_errors(json.dumps(value), "json")
