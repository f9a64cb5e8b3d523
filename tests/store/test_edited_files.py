"""conversation_format: files as a person edits them, and what is said of those it cannot read."""

from __future__ import annotations

import textwrap
from datetime import datetime, timedelta, timezone

import pytest

from glmtui.chat import Conversation, SamplingParams
from glmtui.errors import CorruptConversation
from glmtui.store.conversation_format import loads

START = datetime(2026, 11, 22, 18, 0, tzinfo=timezone.utc)


def read(text: str) -> Conversation:
    return loads(textwrap.dedent(text), "toml")


def test_the_least_a_person_can_write() -> None:
    talk = read("""
        [[messages]]
        role = "user"
        content = "# 你好"

        [[messages]]
        role = "assistant"
        content = "hi"
        """)
    assert [m.content for m in talk.path] == ["# 你好", "hi"]
    assert talk.title == "你好"
    assert len(talk.id) == 8
    assert talk.created.tzinfo is not None
    assert read("") != talk
    assert read("").messages == ()


def test_deleted_messages_leave_no_hole() -> None:
    talk = read("""
        head = "m9"
        [[messages]]
        id = "m1"
        role = "user"
        content = "q"
        [[messages]]
        id = "m3"
        parent = "m2"
        role = "user"
        content = "its parent is gone"
        [[messages]]
        id = "m4"
        parent = "m1"
        role = "assistant"
        content = "the other branch"
        """)
    assert [m.content for m in talk.path] == ["q", "the other branch"]
    assert talk.get("m3").parent == "m1"


def test_ids_that_are_missing_twice_or_circular_are_put_right() -> None:
    talk = read("""
        [[messages]]
        parent = "m2"
        role = "user"
        content = "asks for a child as its parent"
        [[messages]]
        id = "m2"
        role = "assistant"
        content = "a"
        [[messages]]
        id = "m2"
        parent = "m2"
        role = "user"
        content = "a copied block"
        [[messages]]
        id = "m1"
        role = "assistant"
        content = "an id that a free one could have taken"
        """)
    assert len({m.id for m in talk.messages}) == 4
    assert [m.content[:4] for m in talk.path] == ["asks", "a", "a co", "an i"]


def test_times_as_people_write_them() -> None:
    talk = read("""
        created = 2026-11-22T18:00:00+08:00
        [[messages]]
        role = "user"
        time = 2026-11-22
        content = ""
        [[messages]]
        role = "user"
        time = 2026-11-22T10:00:00
        content = ""
        [[messages]]
        role = "user"
        time = "2026-11-22T10:00:00Z"
        content = ""
        """)
    assert talk.created == START - timedelta(hours=8)
    midnight, morning, zulu = (m.created for m in talk.messages)
    assert midnight == datetime(2026, 11, 22).astimezone()
    assert morning == datetime(2026, 11, 22, 10).astimezone()
    assert zulu == START - timedelta(hours=8)


def test_unknown_keys_and_other_line_ends_do_no_harm() -> None:
    text = 'format = 1\nmood = "good"\n[params]\nspeed = 3\n[[messages]]\nrole = "user"\n'
    text += "content = '''\nq\n'''\nstars = 5\n"
    talk = loads(text.replace("\n", "\r\n"), "toml")
    assert talk.params == SamplingParams()
    assert talk.messages[0].content == "q\n"


def test_whole_numbers_pass_for_fractions() -> None:
    temperature = read("[params]\ntemperature = 1\n").params.temperature
    assert temperature == 1.0
    assert isinstance(temperature, float)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("title = 5", "title is not text"),
        ("format = true", "format is not a whole number"),
        ("[params]\ntemperature = 'hot'", "temperature is not a number"),
        ("[params]\ntemperature = nan", "temperature is not a number"),
        ("[params]\ntop_k = 2.5", "top_k is not a whole number"),
        ("[params]\nseed = true", "seed is not a whole number"),
        ("[params]\ndo_sample = 1", "do_sample is not true or false"),
        ("created = 'yesterday'", "created is not a time"),
        ("created = 0001-01-01T00:00:00+14:00", "created is not a time"),
        ("messages = 3", "messages is not a list"),
        ("messages = [1]", "message 1: is not a table"),
        ("messages = [{role = 'user'}]", "message 1: has no content"),
        ("messages = [{role = 'king', content = ''}]", "message 1: role is 'king', not one of"),
        (
            "messages = [{role = 'user', content = '', finish_reason = 'x'}]",
            "finish_reason is 'x'",
        ),
        ("a = [1", "this is not valid TOML"),
        ("a = " + "[" * 5000, "this is not valid TOML"),
        ("a." * 5000 + "a = 1", "this is not valid TOML"),
    ],
)
def test_what_cannot_be_understood_is_named(text: str, said: str) -> None:
    with pytest.raises(CorruptConversation) as caught:
        loads(text, "toml")
    assert said in caught.value.message


@pytest.mark.parametrize("text", ["[1]", "3", "{", "[" * 100_000, '{"a":' * 100_000])
def test_json_that_is_no_conversation(text: str) -> None:
    with pytest.raises(CorruptConversation):
        loads(text, "json")


def test_a_title_written_by_hand_stays() -> None:
    talk = read("""
        title = "mine"
        [[messages]]
        role = "user"
        content = "q"
        """)
    assert talk.title == "mine"
