"""Conversations for strict templates and servers: merged turns, and no reasoning."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glmtui.chat import Message
from glmtui.chat.reasoning import strip_reasoning
from glmtui.chat.turns import merge_turns, merge_turns_without_system


def talk(*turns: str) -> tuple[Message, ...]:
    roles = {"s": "system", "u": "user", "a": "assistant", "o": "observation"}
    return tuple(Message(roles[turn[0]], turn[1:]) for turn in turns)


def summary(messages: Iterable[Message]) -> list[str]:
    """The first letter of each role, and the content."""
    return [f"{m.role[0]}{m.content}" for m in messages]


@pytest.mark.parametrize(
    ("turns", "joined"),
    [
        (["u1", "u2"], ["u1\n2"]),
        (["u1", "a", "u2"], ["u1\n2"]),
        (["u1", "a \n", "u2", "a2"], ["u1\n2", "a2"]),
        (["u1", "aA", "aB", "u2"], ["u1", "aA\nB", "u2"]),
        (["sS", "u1", "sT", "aA", "u2"], ["sS\nT", "u1", "aA", "u2"]),
        (["u1", "sT", "u2"], ["sT", "u1\n2"]),
        (["u1", "aA", "o42", "u2"], ["u1", "aA", "u42\n2"]),
        (["u1", "aA", "o42", "aB"], ["u1", "aA", "o42", "aB"]),
        (["s", "u1"], ["u1"]),
        (["u1", "aHalf"], ["u1", "aHalf"]),
        (["u1", "a"], ["u1"]),
        (["u "], ["u "]),
        (["sS"], ["sS"]),
        ([], []),
    ],
)
def test_consecutive_turns_are_joined(turns: list[str], joined: list[str]) -> None:
    assert summary(merge_turns(talk(*turns))) == joined


@pytest.mark.parametrize(
    ("turns", "strict"),
    [
        (["sS", "u1", "aA", "u2"], ["uS\n\n1", "aA", "u2"]),
        (["aHello", "u1"], ["u1"]),
        (["sS", "aHello", "u1"], ["uS\n\n1"]),
        (["sS"], ["uS"]),
        (["aHello"], ["aHello"]),
    ],
)
def test_the_system_prompt_joins_the_first_question(turns: list[str], strict: list[str]) -> None:
    assert summary(merge_turns_without_system(talk(*turns))) == strict


@given(st.lists(st.tuples(st.sampled_from("suao"), st.sampled_from(["", " ", "x", "y"]))))
def test_user_and_assistant_always_alternate(turns: list[tuple[str, str]]) -> None:
    messages = talk(*(role + text for role, text in turns))
    joined = merge_turns(messages)
    sides = [m.role == "assistant" for m in joined if m.role != "system"]
    assert all(a != b for a, b in itertools.pairwise(sides))
    assert "system" not in [m.role for m in joined[1:]]
    words = ["".join("".join(m.content for m in turns).split()) for turns in (joined, messages)]
    assert sorted(words[0]) == sorted(words[1])
    assert merge_turns(joined) == joined


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("<think>\nHm.\n</think>\n\nFour.", "Four."),
        ("<think>Hm.</think>Four.", "Four."),
        (" \n<think>Hm.</think>\nFour.", "Four."),
        ("The user asks.</think>\n\nFour.", "Four."),
        ("<think>\nHm.", ""),
        ("<think>\nHm.\n</think>\n", ""),
        ("Well.\n\n<think>\nHm.\n</think>\n\nFour.", "Well.\n\nFour."),
        ("Four.", "Four."),
        ("Write `</think>` at the end.", "Write `</think>` at the end."),
        ("A <think> tag opens, </think> closes.", "A <think> tag opens, </think> closes."),
        ("", ""),
    ],
)
def test_reasoning_is_removed(reply: str, expected: str) -> None:
    assert strip_reasoning(reply) == expected
