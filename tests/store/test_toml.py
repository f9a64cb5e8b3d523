"""The quick reader says what tomli says, whatever the text."""

from __future__ import annotations

from typing import Any

import pytest
import tomli
from hypothesis import given, settings
from hypothesis import strategies as st

from glmtui.chat import Conversation
from glmtui.store import dumps
from glmtui.store.toml import _known, load_toml
from support import TESTS
from support.conversation_strategies import conversations


def said(read: Any, text: str) -> Any:
    """The tables, or the error in words."""
    try:
        return read(text)
    except (tomli.TOMLDecodeError, RecursionError) as error:
        return type(error), str(error)


def check(text: str) -> None:
    assert said(load_toml, text) == said(tomli.loads, text)


@given(conversations())
def test_what_we_write(talk: Conversation) -> None:
    check(dumps(talk, "toml"))


PIECES = (
    *(
        "\n[[messages]]\n",
        "[[messages]]\n",
        "\n",
        "\r\n",
        " ",
        "x",
        "'",
        "'''",
        '"',
        '"""',
        "\\",
        "#",
    ),
    *('role = "user"\n', 'role = "\t"\n', 'role = "a\\n"\n', 'content = "x"\n', "content = '''\n"),
    *("content = '''\nx\n'''\n", "'''\n", "''''\n", '"""\n', 'content = """\n', "content = ''\n"),
    *("time = 2026-11-22 18:00:00+00:00\n", "time = 2026-13-22 18:00:00+00:00\n", "time = 3\n"),
    *("\n[messages.stats]\n", "generated_tokens = 12\n", "generated_tokens = 01\n", "a = 0.5\n"),
    *(
        "title = 't'\n",
        "[params]\n",
        "messages = []\n",
        'id = "m1"\n',
        'parent = ""\n',
        "\x7f",
        "\0",
    ),
)


@settings(max_examples=250)
@given(st.lists(st.sampled_from(PIECES), max_size=12).map("".join))
def test_what_looks_like_what_we_write(text: str) -> None:
    check(text)
    check('title = \'t\'\n\n[[messages]]\nrole = "user"\ncontent = "a"\n' + text)


@settings(max_examples=100)
@given(conversations(), st.integers(0), st.sampled_from(PIECES), st.booleans())
def test_what_was_edited(talk: Conversation, at: int, piece: str, cut: bool) -> None:
    text = dumps(talk, "toml")
    at %= len(text) + 1
    check(text[:at] + piece + ("" if cut else text[at:]))


@pytest.mark.parametrize("name", ["plain", "program", "stats"])
def test_it_is_the_quick_way_that_was_taken(name: str) -> None:
    part = {
        "plain": 'role = "user"\ntime = 2026-11-22 18:00:00+00:00\ncontent = "hi 你好"\n',
        "program": 'id = "m1"\nparent = ""\nrole = "user"\ncontent = \'\'\'\na = "\\n"\n\'\'\'\n',
        "stats": 'role = "user"\ncontent = "a"\n\n[messages.stats]\nn = 12\nseconds = 0.5\n',
    }[name]
    message = _known(part)
    assert message is not None
    assert {"messages": [message]} == tomli.loads("[[messages]]\n" + part)


def test_the_sample() -> None:
    check((TESTS / "goldens/conversations/conversation-1.toml").read_text("utf-8"))
