"""Messages as lines: labels, endings, tool calls, offsets at other widths."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glmtui.chat import Conversation, Message
from glmtui.ui.session.reply_state import places
from glmtui.ui.session.safe_conversation import sanitized_message
from glmtui.ui.transcript.entry import Entry
from glmtui.ui.transcript.layout import TranscriptLayout

REPLY = Message("assistant", "Some *words* of a reply.", id="r", model="smollm2")
TEXT = "# A head\n\n" + "words and 汉字 " * 30 + "\n\n- item\n\n```python\nx = 1\n```\n"


def texts(entry: Entry) -> list[str]:
    return [entry[i].text for i in range(len(entry))]


def laid_out(message: Message, width: int = 60, **options: object) -> Entry:
    entry = Entry(message, **options)  # type: ignore[arg-type]
    entry.lay_out(width)
    return entry


@pytest.mark.parametrize(
    ("fields", "below"),
    [
        ({"finish_reason": "stop"}, []),
        ({"finish_reason": "cancelled"}, ["stopped"]),
        ({"finish_reason": "length"}, ["Length limit reached. /continue goes on."]),
        ({"finish_reason": None}, ["interrupted"]),
        ({"finish_reason": "error", "error": "lost\nTry again."}, ["error: lost", "Try again."]),
        ({"finish_reason": "stop", "content": " \n"}, ["empty reply"]),
    ],
)
def test_the_ending_of_a_reply_is_shown_below_it(fields: dict[str, str], below: list[str]) -> None:
    message = replace(REPLY, **fields)
    words = ["Some words of a reply."] if message.content == REPLY.content else []
    assert texts(laid_out(message)) == ["smollm2", *words, *below, ""]


def test_notes_come_last_and_labels_first() -> None:
    entry = laid_out(REPLY, place=(2, 3), growing=True)
    assert texts(entry) == ["smollm2  2/3", "Some words of a reply.", ""]
    note = "2 oldest messages left out of the prompt"
    entry.finish(replace(REPLY, finish_reason="length"), note)
    assert texts(entry)[-2:] == [note, ""]


def test_a_continued_reply_starts_with_its_old_text() -> None:
    entry = laid_out(replace(REPLY, content="One **tw"), growing=True)
    first = entry.append("o**")
    assert texts(entry)[first:] == ["One two", ""]
    entry.finish(replace(REPLY, content="One **two**", finish_reason="stop"), "")
    assert texts(entry) == ["smollm2", "One two", ""]


def test_a_reply_whose_final_text_differs_is_laid_out_again() -> None:
    entry = laid_out(replace(REPLY, content=""), growing=True)
    entry.append("something")
    assert entry.finish(replace(REPLY, content="else", finish_reason="stop"), "") == 0
    assert texts(entry) == ["smollm2", "else", ""]


@settings(deadline=None)
@given(st.integers(10, 100), st.integers(10, 100), st.data())
def test_an_offset_is_found_again_at_another_width(old: int, new: int, data: st.DataObject) -> None:
    entry = laid_out(replace(REPLY, content=TEXT), old)
    index = data.draw(st.integers(0, len(entry) - 1))
    place, has_text = entry.text_offset(index), entry[index].text_length > 0
    entry.lay_out(new)
    found = entry.line_at(place)
    assert entry.text_offset(found) <= place <= entry.text_offset(found) + entry[found].text_length
    entry.lay_out(old)
    assert not has_text or entry.line_at(place) == index


def test_only_as_many_messages_as_needed_are_laid_out() -> None:
    page = TranscriptLayout()
    page.show([replace(REPLY, content=f"number {n}", id=f"m{n}") for n in range(50)], {})
    assert page.total == 0
    page.lay_out(40, 20)
    assert 20 <= page.total < 30
    assert page.line(page.total - 3)[1].text == "number 49"
    before = page.total
    assert page.lay_out_older(lambda: False) == page.total - before
    assert page.is_whole
    assert page.line(1)[1].text == "number 0"
    assert page.message_at(1) == (0, 3)


def test_only_messages_with_alternatives_have_a_place() -> None:
    chat = Conversation.new().add(Message("user", "a"))
    question = chat.path[-1].id
    chat = chat.add(Message("assistant", "one")).add(Message("user", "b"))
    chat = chat.rewind(chat.path[1].id).add(Message("assistant", "two"))
    first, second = (m.id for m in chat.siblings(chat.path[1].id))
    assert places(chat) == {first: (1, 2), second: (2, 2)}
    assert question not in places(chat)


@pytest.mark.parametrize(
    ("content", "body"),
    [
        ('{"city": "北京", "days": 3}', ["city: 北京", "days: 3"]),
        ("```python\ntool_call(city='北京', at=[1, 2])\n```", ["city: 北京", "at: [1, 2]"]),
        ("{}", []),
        ('{"a\\nb": "\\u001b[2J"}', ["a b: ␛[2J"]),
        ("no *call* at all", ["no call at all"]),
        ("", []),
    ],
)
def test_a_tool_call_is_a_name_and_arguments(content: str, body: list[str]) -> None:
    call = replace(REPLY, content=content, metadata="get\x1b_weather", finish_reason="stop")
    call = sanitized_message(call)  # as the session does
    assert texts(laid_out(call)) == ["smollm2", "calls get␛_weather", *body, ""]


def test_a_reply_can_become_a_tool_call_at_its_end() -> None:
    entry = laid_out(replace(REPLY, content=""), growing=True)
    entry.append('{"city": "Lima"}')
    call = replace(REPLY, content='{"city": "Lima"}', metadata="weather", finish_reason="stop")
    assert entry.finish(call, "") == 0
    assert texts(entry) == ["smollm2", "calls weather", "city: Lima", ""]


def test_an_observation_is_plain_text_without_the_user_style() -> None:
    entry = laid_out(Message("observation", "*sunny*\n 20 degrees"))
    assert texts(entry) == ["observation", "*sunny*", " 20 degrees", ""]
    assert {span.styles for span in entry[1].spans} == {("observation",)}
    assert entry.margin(1) == entry.margin(0)
