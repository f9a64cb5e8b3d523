"""Full-text search: what is found in which file, and what a faulty file does to it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from glmtui.chat import Conversation, Message
from glmtui.store import Store
from glmtui.store.conversation_format import FileFormat
from glmtui.store.search import AROUND, MOST_IN_ONE, Hit, search

TEXTS = [
    "Explain RoPE, please",
    'print("a\\tb")  # it\'s\n\nЁлка und Öl',
    "'''\n[[messages]]\nrole = \"user\"\n'''\n显存不够怎么办",
    "cut \ufffd here",
]


@pytest.fixture(params=["toml", "json"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    file_format: FileFormat = request.param
    made = Store(tmp_path, file_format)
    talk = Conversation.new()
    for text in TEXTS:
        talk = talk.add(Message("user", text)).add(Message("assistant", "Yes.", model="rope-7b"))
    made.save(talk)
    return made


def found(store: Store, words: str) -> list[Hit]:
    return [hit for _, hits in search(store.paths(), words) for hit in hits]


@pytest.mark.parametrize(
    ("words", "message_id"),
    [
        ("explain rope", "m1"),
        ("PLEASE", "m1"),
        ('PRINT("A\\TB")', "m3"),
        ("it's", "m3"),
        ("ёЛКА", "m3"),
        ("öl", "m3"),
        ("存不够", "m5"),
        ('role = "user"', "m5"),
        ("\ufffd", "m7"),
    ],
)
def test_a_text_is_found_as_it_is_typed(store: Store, words: str, message_id: str) -> None:
    assert message_id in [hit.message_id for hit in found(store, words)]


@pytest.mark.parametrize("words", ["finish_reason", "rope-7b", "m1", "created", " ", "不存在"])
def test_what_is_around_the_texts_is_not_found(store: Store, words: str) -> None:
    assert found(store, words) == []


def test_a_hit_says_where_and_what_is_around_it(store: Store) -> None:
    talk = Conversation.new().add(Message("user", "x" * 100 + " Needle " + "y" * 100))
    store.save(replace(talk, title="Its title"))
    (hit,) = found(store, "needle")
    assert (hit.conversation_id, hit.title, hit.role) == (talk.id, "Its title", "user")
    assert hit.found == "Needle"
    assert len(hit.before) == len(hit.after) == AROUND


def test_a_title_is_found_too(store: Store) -> None:
    talk = Conversation.new().add(Message("user", "something"))
    store.save(replace(talk, title="Another name"))
    (hit,) = found(store, "another NAME")
    assert (hit.message_id, hit.found) == ("", "Another name")


def test_one_conversation_gives_only_so_many(store: Store) -> None:
    talk = Conversation.new()
    for n in range(20):
        talk = talk.add(Message("user", f"often {n}"))
    store.save(replace(talk, title="t"))
    assert len(found(store, "often")) == MOST_IN_ONE


def test_messages_on_branches_have_their_own_ids(store: Store) -> None:
    talk = Conversation.new().add(Message("user", "first")).add(Message("assistant", "reply"))
    store.save(talk.edit("m1", "quite other"))
    (hit,) = found(store, "quite other")
    assert hit.message_id == "m3"


def test_files_that_someone_else_wrote_are_searched_too(tmp_path: Path) -> None:
    messages = [{"role": "user", "content": "你好吗"}]
    (tmp_path / "a-00000001.json").write_text(json.dumps({"messages": messages}))  # \u4f60...
    (tmp_path / "b-00000002.toml").write_text(
        'messages = [{role = "user", content = "你好吗"}]\n', "utf-8"
    )
    (tmp_path / "c-00000003.toml").write_text('[[messages]]\nrole="user"\ncontent="你好吗"\n')
    assert {hit.conversation_id[-1] for hit in found(Store(tmp_path), "好吗")} == {"1", "2", "3"}


def test_a_file_that_cannot_be_read_is_passed_over(store: Store) -> None:
    (store.folder / "bad-00000001.toml").write_bytes(b"rope \xff")
    (store.folder / "bad-00000002.toml").write_text("rope = [")
    assert [hit.message_id for hit in found(store, "rope")][-1] == "m1"
    assert (store.folder / "bad-00000002.toml").exists()
