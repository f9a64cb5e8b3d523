"""Conversations: branches, edits and titles."""

from __future__ import annotations

from dataclasses import replace

import pytest

from glmtui.chat import (
    Conversation,
    GenerationStats,
    Message,
    make_title,
)


def contents(conversation: Conversation) -> list[str]:
    return [message.content for message in conversation.path]


@pytest.fixture
def talk() -> Conversation:
    """Two questions, two replies."""
    conversation = Conversation.new(model="smollm2", system="Be brief.")
    for role, content in (("user", "q1"), ("assistant", "a1"), ("user", "q2"), ("assistant", "a2")):
        conversation = conversation.add(Message(role, content))
    return conversation


def test_new_conversations_have_ids_of_their_own() -> None:
    ids = {Conversation.new().id for _ in range(50)}
    assert len(ids) == 50
    assert all(len(i) == 8 and int(i, 16) >= 0 for i in ids)


def test_add_fills_in_id_parent_and_time_and_moves_the_head(talk: Conversation) -> None:
    first, second, third, fourth = talk.messages
    assert [m.parent for m in talk.messages] == [None, first.id, second.id, third.id]
    assert talk.head == fourth.id
    assert all(m.created is not None and m.created.tzinfo is not None for m in talk.messages)
    assert talk.title == "q1"


def test_prompt_puts_the_system_prompt_first(talk: Conversation) -> None:
    assert [(m.role, m.content) for m in talk.prompt][:2] == [
        ("system", "Be brief."),
        ("user", "q1"),
    ]
    assert replace(talk, system=None).prompt == talk.path
    assert replace(talk, system="").prompt[0] == Message("system", "")


def test_edits_leave_the_conversation_they_came_from_alone(talk: Conversation) -> None:
    before = contents(talk)
    talk.edit(talk.messages[0].id, "other")
    talk.delete(talk.messages[0].id)
    talk.rewind(talk.messages[2].id)
    assert contents(talk) == before


def test_regenerating_adds_a_sibling_and_keeps_the_old_reply(talk: Conversation) -> None:
    old = talk.messages[3]
    again = talk.rewind(old.id).add(Message("assistant", "a2b"))
    assert contents(again) == ["q1", "a1", "q2", "a2b"]
    assert [m.content for m in again.siblings(old.id)] == ["a2", "a2b"]
    assert contents(again.switch(old.id)) == ["q1", "a1", "q2", "a2"]


def test_editing_the_first_question_starts_a_second_root(talk: Conversation) -> None:
    edited = talk.edit(talk.messages[0].id, "q1b").add(Message("assistant", "a1b"))
    assert contents(edited) == ["q1b", "a1b"]
    assert edited.title == "q1"
    back = edited.switch(talk.messages[0].id)
    assert contents(back) == ["q1", "a1", "q2", "a2"]


def test_an_edited_reply_is_finished_but_has_cost_nothing() -> None:
    reply = Message(
        "assistant", "a", model="m", finish_reason="stop", stats=GenerationStats(generated_tokens=9)
    )
    talk = Conversation.new().add(Message("user", "q")).add(reply)
    edited = talk.edit(talk.messages[1].id, "better").path[-1]
    assert (edited.content, edited.model, edited.finish_reason) == ("better", "m", "stop")
    assert edited.stats is None


def test_switch_goes_down_to_the_newest_leaf(talk: Conversation) -> None:
    question = talk.messages[2]
    talk = talk.rewind(talk.messages[3].id).add(Message("assistant", "a2b"))
    other = talk.edit(question.id, "q2b")
    assert contents(other) == ["q1", "a1", "q2b"]
    assert contents(other.switch(question.id)) == ["q1", "a1", "q2", "a2b"]


def test_delete_takes_what_follows_and_moves_the_head_up(talk: Conversation) -> None:
    shorter = talk.delete(talk.messages[1].id)
    assert contents(shorter) == ["q1"]
    assert len(shorter.messages) == 1
    nothing = talk.delete(talk.messages[0].id)
    assert nothing.messages == ()
    assert nothing.head is None
    assert nothing.path == ()


def test_delete_of_another_branch_leaves_the_view_alone(talk: Conversation) -> None:
    talk = talk.edit(talk.messages[2].id, "q2b").add(Message("assistant", "a2b"))
    without = talk.delete("m3")
    assert contents(without) == contents(talk) == ["q1", "a1", "q2b", "a2b"]
    assert {m.content for m in without.messages} == {"q1", "a1", "q2b", "a2b"}


def test_ids_stay_unique_after_a_delete(talk: Conversation) -> None:
    talk = talk.edit("m3", "q2b").delete("m3").add(Message("assistant", "x"))
    talk = talk.add(Message("user", "y")).add(Message("assistant", "z"))
    ids = [m.id for m in talk.messages]
    assert len(set(ids)) == len(ids)


def test_put_replaces_one_message(talk: Conversation) -> None:
    longer = talk.replace_message(replace(talk.messages[3], content="a2 and more"))
    assert contents(longer) == ["q1", "a1", "q2", "a2 and more"]
    with pytest.raises(KeyError):
        talk.replace_message(Message("assistant", "nobody", id="m99"))


def test_fork_is_the_same_talk_under_another_id(talk: Conversation) -> None:
    copy = talk.fork()
    assert copy.id != talk.id
    assert replace(copy, id=talk.id) == talk


def test_the_title_comes_from_the_first_question_with_words() -> None:
    talk = Conversation.new().add(Message("user", "\n  \n")).add(Message("assistant", "?"))
    assert talk.title == ""
    assert talk.add(Message("user", "你好，世界")).title == "你好，世界"


@pytest.mark.parametrize(
    ("text", "title"),
    [
        ("Hello there", "Hello there"),
        ("\n\n  second   line \nthird", "second line"),
        ("---\n# Heading", "Heading"),
        ("> * quoted item", "quoted item"),
        ("-5 + 3 = ?", "-5 + 3 = ?"),
        ("", ""),
        ("？！", "？！"),
        ("请用中文解释一下量子纠缠是什么", "请用中文解释一下量子纠缠是什么"),
        ("量" * 30, "量" * 24 + "…"),
        ("x" * 48, "x" * 48),
        ("x" * 49, "x" * 48 + "…"),
    ],
)
def test_title_of(text: str, title: str) -> None:
    assert make_title(text) == title


def test_rates_leave_out_what_was_not_timed() -> None:
    stats = GenerationStats(
        prompt_tokens=100,
        reused_tokens=40,
        generated_tokens=11,
        prefill_seconds=0.5,
        decode_seconds=2.0,
    )
    assert stats.prefill_rate == 120.0
    assert stats.decode_rate == 5.0
    assert GenerationStats().prefill_rate is None
    assert GenerationStats(generated_tokens=1, decode_seconds=1.0).decode_rate is None


def test_a_branch_backwards_is_the_path_from_its_end() -> None:
    talk = Conversation.new()
    for n in range(4):
        talk = talk.add(Message("user", str(n)))
    talk = talk.edit("m2", "other").add(Message("assistant", "to it"))
    assert [m.content for m in talk.reversed_path()] == ["to it", "other", "0"]
    assert tuple(talk.reversed_path())[::-1] == talk.path
    assert list(Conversation.new().reversed_path()) == []
