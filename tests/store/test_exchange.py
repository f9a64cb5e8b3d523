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


# ---- what other programs write (Vercel's AI SDK, Chatbox, Gemini, Claude, ShareGPT, ChatGPT)


def said(talk: Conversation) -> list[tuple[str, str]]:
    return [(message.role, message.content) for message in talk.path]


PARTS = [{"type": "step-start"}, {"type": "text", "text": "Oslo.", "state": "done"}]


@pytest.mark.parametrize(
    "message",
    [
        {"role": "assistant", "parts": PARTS},
        {"role": "assistant", "content": "", "parts": PARTS},
        {"role": "assistant", "content": None, "contentParts": PARTS},
        {"role": "assistant", "content": ["Oslo."]},
        {"role": "assistant", "content": [["Oslo."]]},
        {"role": "assistant", "content": {"content_type": "text", "parts": ["Oslo."]}},
        {"role": "assistant", "content": [{"type": "text", "text": {"value": "Oslo."}}]},
        {"role": "assistant", "content": [{"type": "output_text", "text": "Oslo."}]},
        {"role": "assistant", "content": None, "refusal": "Oslo."},
        {"role": "assistant", "content": None, "audio": {"id": "a", "transcript": "Oslo."}},
        {"role": "model", "parts": [{"text": "Oslo."}]},
        {"sender": "assistant", "text": "Oslo."},
        {"from": "gpt", "value": "Oslo."},
        {"author": {"role": "Assistant"}, "content": "Oslo."},
    ],
)
def test_the_text_is_found_wherever_it_stands(tmp_path: Path, message: Any) -> None:
    talk = imported(tmp_path, [{"role": "user", "content": "Capital?"}, message])
    assert said(talk) == [("user", "Capital?"), ("assistant", "Oslo.")]


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (["What is", "this?"], "What is\nthis?"),
        ([{"type": "text", "text": "a"}, "b", {"type": "image_url"}], "a\nb"),
        ([{"type": "image_url", "image_url": {"url": "data:"}}], "[image_url]"),
        ([{"type": "image", "content": "iVBORw0KGgo="}, {"type": "file"}], "[image] [file]"),
        ([{"type": "tool_result", "content": [{"type": "text", "text": "42"}]}], "42"),
        ("", ""),  # it says so itself
    ],
)
def test_parts_are_joined_and_what_is_no_text_is_named(
    tmp_path: Path, content: Any, text: str
) -> None:
    assert said(imported(tmp_path, [{"role": "user", "content": content}])) == [("user", text)]


@pytest.mark.parametrize(
    "message",
    [
        {"role": "assistant", "content": "4", "reasoning_content": "2+2"},
        {"role": "assistant", "parts": [{"type": "reasoning", "text": "2+2"}, {"text": "4"}]},
        {
            "role": "assistant",
            "content": [{"type": "thinking", "thinking": "2+2"}, {"type": "text", "text": "4"}],
        },
    ],
)
def test_thoughts_come_in_as_thoughts(tmp_path: Path, message: Any) -> None:
    talk = imported(tmp_path, [message])
    assert talk.path[0].content == "<think>\n2+2\n</think>\n\n4"


@pytest.mark.parametrize(
    "said_so",
    [
        {"tool_calls": [{"id": "1", "function": {"name": "add", "arguments": '{"a": 1}'}}]},
        {"function_call": {"name": "add", "arguments": '{"a": 1}'}},
        {"content": [{"type": "tool_use", "id": "1", "name": "add", "input": {"a": 1}}]},
        {"content": [{"type": "tool-call", "toolName": "add", "args": {"a": 1}}]},
    ],
)
def test_tool_calls_come_in_as_calls(tmp_path: Path, said_so: Any) -> None:
    message = {"role": "assistant", "content": None, "id": "call", **said_so}
    result = {"role": "tool", "content": "42", "parent": "call"}
    talk = imported(tmp_path, [{"role": "user", "content": "?"}, message, result])
    assert [(m.role, m.metadata, m.content) for m in talk.path] == [
        ("user", "", "?"),
        ("assistant", "add", '{"a": 1}'),
        ("observation", "", "42"),
    ]


def test_a_remark_before_a_tool_call_stays(tmp_path: Path) -> None:
    call = {"function": {"name": "add", "arguments": {"a": 1}}}
    row = {"role": "assistant", "content": "Let me see.", "tool_calls": [call, call, "odd"]}
    talk = imported(tmp_path, [row])
    assert [(m.metadata, m.content) for m in talk.path] == [
        ("", "Let me see."),
        ("add", '{"a": 1}'),
        ("add", '{"a": 1}'),
    ]


@pytest.mark.parametrize(
    ("message", "n"),
    [
        ({"role": "user"}, 2),
        ({"role": "user", "content": None}, 2),
        ({"role": "user", "content": []}, 2),
        ({"role": "user", "content": {"words": "hi"}}, 2),
        ({"role": "user", "content": [1, 2]}, 2),
        ({"role": "assistant", "answer": "Oslo."}, 2),
    ],
)
def test_nothing_is_imported_empty_in_silence(tmp_path: Path, message: Any, n: int) -> None:
    with pytest.raises(CorruptConversation, match=f"message {n}: has no content"):
        imported(tmp_path, [{"role": "user", "content": "Hi"}, message])


@pytest.mark.parametrize("data", [[], {"messages": []}])
def test_no_messages_at_all_is_said(tmp_path: Path, data: Any) -> None:
    with pytest.raises(CorruptConversation, match="there are no messages in it"):
        imported(tmp_path, data)


@pytest.mark.parametrize("content", [None, []])
def test_a_reply_that_never_came_is_cut_off(tmp_path: Path, content: Any) -> None:
    talk = imported(tmp_path, [{"role": "assistant", "content": content}])
    assert (talk.path[0].content, talk.path[0].finish_reason) == ("", None)


ODD = [{}, [], 3, True, {"a": [1]}, "odd", None, -1e400, 10**400]


@pytest.mark.parametrize("odd", ODD)
def test_only_role_and_content_have_to_fit(tmp_path: Path, odd: Any) -> None:
    keys = "id parent model metadata stats error time created createdAt finish_reason timestamp"
    keys += (
        " tool_calls function_call reasoning annotations audio parts tools refusal pinned format"
    )
    extra = dict.fromkeys(keys.split(), odd)
    rows = [{**extra, "role": role, "content": "Hi"} for role in ("user", "assistant")]
    top = {**extra, "title": odd, "params": odd, "system": odd, "messages": rows}
    if type(odd) is int:
        del top["format"]  # which makes it one of ours
    talk = imported(tmp_path, top)
    assert [text.rpartition("\n")[2] for _, text in said(talk)[-2:]] == ["Hi", "Hi"]
    assert dumps(talk, "toml")


@pytest.mark.parametrize(
    "time",
    [
        *(1700000000, 1700000000.0, 1700000000000, 1700000000000000, "1700000000"),
        *("2023-11-14T22:13:20Z", "2023-11-14T23:13:20+01:00"),
    ],
)
@pytest.mark.parametrize("key", ["time", "created_at", "createdAt", "timestamp"])
def test_times_in_seconds_or_in_words(tmp_path: Path, key: str, time: Any) -> None:
    talk = imported(tmp_path, {"messages": [{"role": "user", "content": "Hi", key: time}]})
    assert talk.path[0].created == datetime(2023, 11, 14, 22, 13, 20, tzinfo=timezone.utc)
    assert talk.created == talk.path[0].created


@pytest.mark.parametrize("file", [{"contents": []}, {"chat_messages": []}, {"conversations": []}])
def test_lists_of_messages_of_other_names(tmp_path: Path, file: Any) -> None:
    key = next(iter(file))
    talk = imported(tmp_path, {"name": "Talk", key: [{"role": "human", "text": "Hi"}]})
    assert (said(talk), talk.title) == ([("user", "Hi")], "Talk")


def test_a_list_of_conversations(tmp_path: Path) -> None:
    one = {"title": "One", "messages": [{"role": "user", "content": "Hi"}]}
    assert imported(tmp_path, [one]).title == "One"
    with pytest.raises(CorruptConversation, match="2 conversations"):
        imported(tmp_path, [one, one])


@pytest.mark.parametrize("system", ["Be brief.", ["Be brief."], {"parts": [{"text": "Be brief."}]}])
def test_a_system_prompt_in_parts(tmp_path: Path, system: Any) -> None:
    rows = [{"role": "user", "content": "Hi"}]
    for key in ("system", "systemInstruction"):
        assert imported(tmp_path, {key: system, "messages": rows}).system == "Be brief."


def test_parts_within_parts_without_end(tmp_path: Path) -> None:
    deep: Any = "x"
    for _ in range(300):
        deep = {"content": [deep]}
    with pytest.raises(CorruptConversation, match="message 1: has no content"):
        imported(tmp_path, [{"role": "user", **deep}])


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
    with pytest.raises(CorruptConversation, match=r"cannot read 'chat\.json'"):
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
