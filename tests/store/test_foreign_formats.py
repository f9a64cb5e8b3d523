"""Exports of other programs that hold more than a list of messages."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from glmtui.chat import Conversation
from glmtui.errors import CorruptConversation
from glmtui.store import read_file


def imported(tmp_path: Path, data: Any) -> Conversation:
    (tmp_path / "chat.json").write_text(json.dumps(data), encoding="utf-8")
    return read_file(tmp_path / "chat.json")


def said(talk: Conversation) -> list[tuple[str, str]]:
    return [(message.role, message.content) for message in talk.path]


def node(parent: str | None, role: str = "", text: Any = "", **facts: Any) -> dict[str, Any]:
    content = {"content_type": "text", "parts": [text]}
    message = {"author": {"role": role}, "content": content, **facts} if role else None
    return {"message": message, "parent": parent, "children": []}


HIDDEN = {"is_visually_hidden_from_conversation": True}
CHATGPT = {
    "title": "Capitals",
    "create_time": 1700000000.5,
    "default_model_slug": "gpt-5",
    "current_node": "again",
    "mapping": {
        "first": node("question", "assistant", "Bergen."),
        "again": node("question", "assistant", "Oslo.", create_time=1700000009.5),
        "top": node(None),
        "empty": node("top", "system"),
        "facts": node("empty", "user", "My profile", metadata=HIDDEN),
        "question": node("facts", "user", "Capital of Norway?"),
    },
}


@pytest.mark.parametrize("data", [CHATGPT, [CHATGPT]])
def test_an_export_of_chatgpt_with_its_branches(tmp_path: Path, data: Any) -> None:
    talk = imported(tmp_path, data)
    assert said(talk) == [("user", "Capital of Norway?"), ("assistant", "Oslo.")]
    replies = [m.content for m in talk.siblings(talk.path[-1].id)]
    assert replies == ["Bergen.", "Oslo."]
    assert (talk.title, talk.model, talk.created.year) == ("Capitals", "gpt-5", 2023)


def test_odd_trees_lose_nothing(tmp_path: Path) -> None:
    circle = {"a": node("b", "user", "A"), "b": node("a", "assistant", "B")}
    odd = {"x": 3, "gone": node("nowhere", "user", "C"), "self": node("self", "user", "D")}
    talk = imported(tmp_path, {"mapping": {**circle, **odd}})
    assert sorted(m.content for m in talk.messages) == ["A", "B", "C", "D"]


def test_a_tree_without_messages_is_said(tmp_path: Path) -> None:
    with pytest.raises(CorruptConversation, match="there are no messages in it"):
        imported(tmp_path, {"mapping": {"top": node(None), "empty": node("top", "system")}})


def test_a_deep_tree(tmp_path: Path) -> None:
    mapping = {f"n{n}": node(f"n{n - 1}", "user", str(n)) for n in range(3000)}
    assert len(imported(tmp_path, {"mapping": mapping}).path) == 3000


@pytest.mark.parametrize("end", ["\n", "\r\n", "\n\n"])
def test_one_message_on_each_line(tmp_path: Path, end: str) -> None:
    rows = [{"role": "user", "content": "a\u2028b"}, {"role": "assistant", "content": "Hello"}]
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    (tmp_path / "chat.jsonl").write_bytes((end.join(lines) + end).encode())
    talk = read_file(tmp_path / "chat.jsonl")
    assert said(talk) == [("user", "a\u2028b"), ("assistant", "Hello")]


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        ('{"messages": [{"role": "user", "content": "Hi"}]}', "contains 2 conversations"),
        ("3", "is not valid JSON"),
        ('{"role": "user"}', "message 1: has no content"),
    ],
)
def test_other_lines_are_refused(tmp_path: Path, line: str, wrong: str) -> None:
    (tmp_path / "chat.jsonl").write_text(f"{line}\n{line}\n")
    with pytest.raises(CorruptConversation, match=wrong):
        read_file(tmp_path / "chat.jsonl")


def test_arguments_of_a_tool_call_in_toml(tmp_path: Path) -> None:
    call = 'tool_calls = [{name = "at", arguments = {when = 2023-11-14}}]'
    (tmp_path / "chat.toml").write_text(f'[[messages]]\nrole = "assistant"\n{call}\n')
    assert said(read_file(tmp_path / "chat.toml")) == [("assistant", '{"when": "2023-11-14"}')]


def test_arguments_as_deep_as_can_be_parsed(tmp_path: Path) -> None:
    call = '[{"role": "assistant", "tool_calls": [{"name": "f", "arguments": %s}]}]'
    for depth in range(900, 1010, 2):
        text = call % ("[" * depth + "1" + "]" * depth)
        (tmp_path / "chat.json").write_text(text)
        try:
            assert read_file(tmp_path / "chat.json").path[0].metadata == "f"
        except CorruptConversation:
            break  # the one error there may be


@pytest.mark.parametrize("wrap", [lambda one: one, lambda one: [one]])
def test_an_export_of_open_webui(tmp_path: Path, wrap: Any) -> None:
    rows = [
        {"id": "1", "parentId": None, "role": "user", "content": "Hi", "timestamp": 1700000000},
        {"id": "2", "parentId": "1", "role": "assistant", "content": "Hello", "model": "glm-4"},
    ]
    record = {"id": "x", "title": "Greeting", "chat": {"models": ["glm-4"], "messages": rows}}
    talk = imported(tmp_path, wrap(record))
    assert (said(talk), talk.title) == ([("user", "Hi"), ("assistant", "Hello")], "Greeting")
    assert talk.path[1].model == "glm-4"
