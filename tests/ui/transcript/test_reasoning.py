"""Reasoning: separated from the reply, folded, and counted."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glmtui.chat import Message
from glmtui.ui.transcript.entry import Entry
from glmtui.ui.transcript.layout import TranscriptLayout
from glmtui.ui.transcript.reasoning import ReasoningSplitter, ReasoningView, split_reasoning

REPLY = Message("assistant", "", id="r", model="glm")
TEXT = "<think>\nLet me *see*.\n\n- 先想一想\n</think>\n\nIt **is** so.\n\n```\nx\n```\n"


@pytest.mark.parametrize(
    ("text", "thought", "said"),
    [
        ("<think>a</think>b", "a", "b"),
        ("\n <think>\na\n</think>\n\nb", "\na\n", "\n\nb"),
        ("<think>a", "a", ""),
        ("<think>a</thin", "a</thin", ""),
        ("<thin", "", "<thin"),
        ("no <think>a</think>", "", "no <think>a</think>"),
        ("<think></think>b</think>", "", "b</think>"),
        ("", "", ""),
    ],
)
def test_reasoning_is_only_at_the_beginning(text: str, thought: str, said: str) -> None:
    assert split_reasoning(text) == (thought, said)


TAGS = st.sampled_from(["<think>", "</think>", "<", "th", "ink>", "</", " ", "\n", "word"])


@given(st.lists(TAGS, max_size=12).map("".join), st.integers(1, 5))
def test_the_split_is_the_same_for_any_pieces(text: str, size: int) -> None:
    stream = ReasoningSplitter()
    parts = [stream.feed(text[at : at + size]) for at in range(0, len(text), size)]
    parts.append(stream.end())
    assert tuple(map("".join, zip(*parts, strict=True))) == split_reasoning(text)


def texts(entry: Entry) -> list[str]:
    return [entry[i].text for i in range(len(entry))]


def grown(text: str, size: int, *, folded: bool) -> Entry:
    entry = Entry(REPLY, growing=True)
    entry.folded = folded
    entry.lay_out(40)
    before = texts(entry)
    for at in range(0, len(text), size):
        first = entry.append(text[at : at + size])
        assert texts(entry)[:first] == before[:first]
        before = texts(entry)
    first = entry.finish(Message("assistant", text, id="r", model="glm", finish_reason="stop"), "")
    assert texts(entry)[:first] == before[:first]
    return entry


@pytest.mark.parametrize("folded", [True, False])
@pytest.mark.parametrize("size", [1, 3, 7, 1000])
def test_a_streamed_reply_with_reasoning_equals_a_shown_one(size: int, folded: bool) -> None:
    streamed = grown(TEXT, size, folded=folded)
    whole = Entry(streamed.message)
    whole.folded = folded
    whole.lay_out(40)
    assert texts(streamed) == texts(whole)
    body = ["Let me see.", "", "• 先想一想"]
    head = "▸ thought for 7 words" if folded else "▾ thought for 7 words"
    said = ["", "It is so.", "", " x", ""]
    assert texts(whole) == ["glm", head, *([] if folded else body), *said]


def test_words_are_counted_while_reasoning_grows() -> None:
    thoughts = ReasoningView(40, folded=True)
    thoughts.feed("\nOne t")
    assert [line.text for line in thoughts.head] == ["▸ thinking, 2 words"]
    thoughts.feed("wo ")
    assert thoughts.feed("你好") == 0
    assert [line.text for line in thoughts.head] == ["▸ thinking, 4 words"]
    thoughts.end()
    assert [line.text for line in thoughts.head] == ["▸ thought for 4 words"]


def test_empty_reasoning_is_not_shown() -> None:
    entry = grown("<think>\n\n</think>\n\nYes.", 1, folded=True)
    assert texts(entry) == ["glm", "Yes.", ""]
    assert not entry.has_reasoning


def test_lines_are_renumbered_when_reasoning_unfolds() -> None:
    page = TranscriptLayout()
    ends = {"finish_reason": "stop", "model": "glm"}
    page.show([Message("assistant", TEXT, id=i, **ends) for i in "ab"], {})  # type: ignore[arg-type]
    page.lay_out(40, 1000)
    total = page.total
    assert page.toggle_reasoning("a")
    assert page.total == total + 3
    assert page.lines_of("b") == (total // 2 + 3, total + 2)
    assert page.line(2)[0].text == "┆ "
    assert page.toggle_reasoning("a")
    assert page.total == total
