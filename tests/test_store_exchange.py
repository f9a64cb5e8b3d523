"""conversation_exchange and read_file: Markdown out, files from elsewhere in."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from glmtui.chat import Conversation, Message
from glmtui.errors import CorruptConversation, GlmtuiError, NewerFormat, StoreError
from glmtui.store import dumps, read_file, to_markdown

TALK = replace(
    Conversation.new(model="smollm2", system="Be brief."),
    created=datetime(2026, 11, 22, 18, tzinfo=timezone.utc),
).add(Message("user", "你好"))
TALK = TALK.add(Message("assistant", "Hi.\n", model="smollm2", finish_reason="stop"))


# ---- out


def test_markdown_reads_as_the_conversation_went() -> None:
    assert to_markdown(TALK) == (
        "# 你好\n\n- Model: smollm2\n- Started: 2026-11-22 18:00 UTC\n\n"
        "## System prompt\n\nBe brief.\n\n"
        "## User\n\n你好\n\n"
        "## Assistant (smollm2)\n\nHi.\n"
    )


def test_markdown_shows_the_branch_in_view() -> None:
    text = to_markdown(TALK.edit("m1", "something else"))
    assert "something else" in text
    assert "Hi." not in text


@pytest.mark.parametrize(
    ("reason", "note"),
    [(None, "*[cut off]*"), ("length", "length limit"), ("cancelled", "stopped"), ("error", "err")],
)
def test_markdown_says_how_a_reply_ended(reason: Any, note: str) -> None:
    text = to_markdown(TALK.put(replace(TALK.messages[1], finish_reason=reason)))
    assert note in text.split("Hi.")[1]


@pytest.mark.parametrize("fence", ["```", "~~~~", "````", "   ```"])
def test_an_open_code_block_does_not_swallow_what_follows(fence: str) -> None:
    talk = TALK.put(replace(TALK.messages[1], content=f"see\n{fence}python\nprint(1)"))
    talk = talk.add(Message("user", "thanks ``` for that"))
    headings = [t.content for t in MarkdownIt().parse(to_markdown(talk)) if t.type == "inline"]
    assert headings[-2:] == ["User", "thanks ``` for that"]


def test_a_title_stays_one_line() -> None:
    lines = to_markdown(replace(TALK, title="a\n# b\r\nc")).splitlines()
    assert lines[0] == "# a # b c"
    assert to_markdown(Conversation.new()).startswith("# Conversation\n")


# ---- in


def imported(tmp_path: Path, data: Any, name: str = "chat.json") -> Conversation:
    path = tmp_path / name
    path.write_text(data if isinstance(data, str) else json.dumps(data), encoding="utf-8")
    return read_file(path)


@pytest.mark.parametrize(
    "name", ["chat.toml", "chat.json", "chat.toml.bad", "chat.json.bad2", "2026.11-chat.toml"]
)
def test_our_own_files_come_in_under_a_fresh_id(tmp_path: Path, name: str) -> None:
    talk = TALK.edit("m1", "another branch")
    text = dumps(talk, "toml" if ".toml" in name else "json")
    again = imported(tmp_path, text, name)
    assert again.id != talk.id
    assert replace(again, id=talk.id) == talk


def test_a_plain_list_of_messages(tmp_path: Path) -> None:
    talk = imported(
        tmp_path,
        [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "你好"},
            {"role": "assistant", "content": "Hi."},
        ],
    )
    assert talk.system == "Be brief."
    assert [(m.role, m.content) for m in talk.path] == [("user", "你好"), ("assistant", "Hi.")]
    assert talk.title == "你好"
    assert talk.path[1].finish_reason == "stop"


def test_an_openai_request(tmp_path: Path) -> None:
    talk = imported(
        tmp_path,
        {
            "model": "glm-4",
            "temperature": 0.5,
            "messages": [
                {"role": "developer", "content": [{"type": "text", "text": "Be brief."}]},
                {
                    "role": "user",
                    "content": [
                        {"type": "text", "text": "What is"},
                        {"type": "image_url", "image_url": {"url": "data:"}},
                        {"type": "text", "text": "this?"},
                    ],
                },
                {"role": "assistant", "content": None, "tool_calls": []},
                {"role": "tool", "content": "42", "tool_call_id": "1"},
            ],
        },
    )
    assert (talk.model, talk.system) == ("glm-4", "Be brief.")
    assert [(m.role, m.content) for m in talk.path] == [
        ("user", "What is\nthis?"),
        ("assistant", ""),
        ("observation", "42"),
    ]


@pytest.mark.parametrize(
    "data",
    [
        "",
        "{",
        "42",
        '"text"',
        "{}",
        [1, 2],
        {"messages": "none"},
        {"messages": [{"role": "user", "content": 3}]},
        {"messages": [{"role": "wizard", "content": "x"}]},
        [{"content": "no role"}],
        "[" * 200_000,
    ],
)
def test_what_is_no_conversation_is_refused_by_name(tmp_path: Path, data: Any) -> None:
    with pytest.raises(CorruptConversation, match=r"'chat\.json' cannot be read"):
        imported(tmp_path, data)
    assert (tmp_path / "chat.json").exists()


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.json")
    (tmp_path / "huge.json").touch()
    os.truncate(tmp_path / "huge.json", 2**40)
    for name, said in {
        "absent.json": "No such file",
        "pipe.json": "not a regular file",
        "huge.json": "larger than",
        ".": "Is a directory",
    }.items():
        with pytest.raises(StoreError, match=said):
            read_file(tmp_path / name)
    with pytest.raises(NewerFormat):
        imported(tmp_path, {"format": 2})


def test_a_byte_order_mark_is_no_fault(tmp_path: Path) -> None:
    assert imported(tmp_path, "\ufeff" + dumps(TALK, "toml"), "chat.toml").title == "你好"


@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.binary(max_size=200)
    | st.text(alphabet="[]{}\"':,=.\n\\ am01-T", max_size=60).map(str.encode)
    | st.tuples(st.integers(0, 400), st.binary(max_size=3)).map(
        lambda cut: dumps(TALK, "toml").encode()[: cut[0]] + cut[1]
    ),
    st.sampled_from(["x.toml", "x.json", "x"]),
)
def test_any_bytes_raise_only_our_errors(tmp_path: Path, data: bytes, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    try:
        talk = read_file(path)
    except GlmtuiError as error:
        assert name in error.message  # noqa: PT017 - either outcome is right
    else:
        assert to_markdown(talk)
        assert dumps(talk, "toml")
