"""store: the trash, titles and pins of saved conversations, and the index of a long list."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path

import pytest

from glmtui.chat import Conversation, Message
from glmtui.errors import ConversationChanged, ConversationInUse, ConversationNotFound
from glmtui.store import Store, conversation_file, index, trash
from glmtui.store import store as store_folder
from glmtui.store.conversation_format import FileFormat, dumps, loads

TALK = Conversation.new(model="smollm2").add(Message("user", "A question"))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "conversations")


# ---- the trash


def test_what_is_deleted_can_be_brought_back_by_the_next_session_too(store: Store) -> None:
    path = store.save(TALK)
    store.delete(TALK.id[:5])
    assert not path.exists()
    assert store.summaries() == []
    assert store.latest() is None
    with pytest.raises(ConversationNotFound):
        store.delete(TALK.id)
    again = Store(store.folder)
    again.restore(TALK.id)
    assert again.load(TALK.id) == TALK
    with pytest.raises(ConversationNotFound, match="no longer in the trash"):
        again.restore(TALK.id)


def test_after_a_month_it_is_gone(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.save(TALK)
    store.delete(TALK.id)
    later = time.time() + 24 * 3600 * (trash.TRASH_DAYS - 1)
    monkeypatch.setattr(time, "time", lambda: later)
    assert len(list((store.folder / "trash").iterdir())) == 1
    Store(store.folder)
    assert len(list((store.folder / "trash").iterdir())) == 1
    monkeypatch.setattr(time, "time", lambda: later + 2 * 24 * 3600)
    Store(store.folder)
    assert list((store.folder / "trash").iterdir()) == []


def test_what_another_program_holds_is_neither_deleted_nor_titled(store: Store) -> None:
    path = store.save(TALK)
    store.release(TALK.id)
    other = Store(store.folder)
    other.hold(TALK.id)
    with pytest.raises(ConversationInUse):
        store.delete(TALK.id)
    with pytest.raises(ConversationInUse):
        store.amend(TALK.id, title="other")
    assert path.exists()


# ---- titles and pins


def test_a_title_and_a_pin_are_kept_and_the_age_with_them(store: Store) -> None:
    path = store.save(TALK)
    store.release(TALK.id)
    os.utime(path, (1e9, 1e9))
    store.amend(TALK.id, title="Another [b] 标题")
    store.amend(TALK.id, pinned=True)
    (row,) = Store(store.folder).summaries()
    assert (row.title, row.pinned, row.path) == ("Another [b] 标题", True, path)
    assert row.updated.timestamp() == 1e9
    assert Store(store.folder).load(TALK.id).messages == TALK.messages
    Store(store.folder).hold(TALK.id)  # it is not held any more
    store.amend(TALK.id, pinned=False)
    assert "pinned" not in path.read_text()


def test_one_that_is_open_here_stays_held_and_can_be_saved_on(store: Store) -> None:
    store.save(TALK)
    store.amend(TALK.id, pinned=True)
    with pytest.raises(ConversationInUse):
        Store(store.folder).hold(TALK.id)
    store.save(replace(TALK, title="now", pinned=True))
    (path,) = store.paths()
    path.write_text(path.read_text().replace("now", "then"))
    with pytest.raises(ConversationChanged):
        store.save(replace(TALK, title="again"))


@pytest.mark.parametrize("file_format", ["toml", "json"])
def test_files_without_a_pin_are_read_and_odd_ones_are_no_pin(file_format: FileFormat) -> None:
    text = dumps(replace(TALK, pinned=True), file_format)
    assert loads(text, file_format).pinned
    assert not loads(dumps(TALK, file_format), file_format).pinned
    assert not loads(text.replace("true", '"maybe"'), file_format).pinned


# ---- the index


@pytest.fixture
def many(store: Store, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setattr(index, "LEAST", 3)
    for n in range(4):
        path = store.save(replace(TALK, id=f"0000000{n}", title=f"title {n}"))
        os.utime(path, (1e9 + n, 1e9 + n))
    return store


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of files that are read for a list."""
    names: list[str] = []

    def peek_at(path: Path) -> object:
        names.append(path.name)
        return conversation_file.peek_file(path)

    monkeypatch.setattr(store_folder, "peek_file", peek_at)
    return names


def test_a_list_reads_only_what_has_changed(many: Store, read: list[str]) -> None:
    first = many.summaries()
    assert len(read) == 4
    read.clear()
    assert Store(many.folder).summaries() == first
    assert read == []
    many.amend("00000002", title="title 7")  # as long, and its age is kept
    assert [row.title for row in many.summaries()] == ["title 3", "title 7", "title 1", "title 0"]
    assert len(read) == 1
    many.delete("00000003")
    assert len(Store(many.folder).summaries()) == 3
    assert "00000003" not in (many.folder / index.NAME).read_text()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[" * 100_000,
        '{"version": 1, "files": 7}',
        '{"version": 2, "files": {}}',
        "\xff",
        "null",
    ],
)
def test_an_index_that_cannot_be_used_is_made_anew(many: Store, read: list[str], text: str) -> None:
    first = many.summaries()
    (many.folder / index.NAME).write_text(text, "latin-1")
    assert Store(many.folder).summaries() == first
    read.clear()
    assert Store(many.folder).summaries() == first
    assert read == []


def test_rows_that_make_no_sense_are_read_anew(many: Store, read: list[str]) -> None:
    first = many.summaries()
    at = many.folder / index.NAME
    at.write_text(at.read_text().replace('"title 1"', '"title 1", 7').replace("[[", "[[7, ", 1))
    read.clear()
    assert Store(many.folder).summaries() == first
    assert len(read) == 2


def test_a_few_conversations_have_no_index(store: Store) -> None:
    store.save(TALK)
    store.summaries()
    assert not (store.folder / index.NAME).exists()
