"""store: names, listing, finding, and files that are not what they should be."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import time
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path

import pytest

from glmtui.chat import Conversation, Message
from glmtui.errors import (
    ConversationChanged,
    ConversationNotFound,
    CorruptConversation,
    NewerFormat,
    StoreError,
)
from glmtui.store import Store, Summary, dumps
from glmtui.store.conversation_format import FileFormat
from support.call_counter import count_calls


def asked(question: str, conversation_id: str = "") -> Conversation:
    talk = Conversation.new(model="smollm2")
    if conversation_id:
        talk = replace(talk, id=conversation_id)
    return talk.add(Message("user", question))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "data" / "conversations"


@pytest.fixture
def store(folder: Path) -> Store:
    return Store(folder)


def set_age(path: Path, seconds_ago: float) -> None:
    when = time.time() - seconds_ago
    os.utime(path, (when, when))


# ---- saving and loading


@pytest.mark.parametrize("file_format", ["toml", "json"])
def test_save_and_load(folder: Path, file_format: FileFormat) -> None:
    store = Store(folder, file_format)
    talk = asked("你好")
    path = store.save(talk)
    assert path.suffix == f".{file_format}"
    assert store.load(talk.id) == talk
    assert Store(folder).load(talk.id[:4]) == talk
    assert Store(folder).load("last") == talk


def test_files_are_for_the_owner_alone(store: Store, folder: Path) -> None:
    path = store.save(asked("secret"))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    for made in (folder, folder.parent):
        assert stat.S_IMODE(made.stat().st_mode) == 0o700


def test_the_file_keeps_its_name_and_format(folder: Path) -> None:
    talk = asked("first")
    path = Store(folder, "json").save(talk)
    other = Store(folder, "toml")
    renamed = replace(other.load(talk.id), title="another title")
    assert other.save(renamed) == path
    assert other.load(talk.id).title == "another title"
    assert [p.name for p in folder.iterdir() if not p.name.startswith(".")] == [path.name]


def test_saving_again_what_is_there_does_not_touch_the_disk(store: Store) -> None:
    talk = asked("q")
    inode = store.save(talk).stat().st_ino
    assert store.save(talk).stat().st_ino == inode
    assert store.save(replace(talk, title="new")).stat().st_ino != inode


def test_nothing_is_left_beside_the_file(store: Store, folder: Path) -> None:
    path = store.save(asked("q"))
    store.close()
    assert list(folder.iterdir()) == [path]


# ---- names


@pytest.mark.parametrize(
    ("title", "slug"),
    [
        ("Hello, World!", "hello-world"),
        ("请解释一下量子纠缠", "请解释一下量子纠缠"),
        ("한국어 / 日本語", "한국어-日本語"),
        ("हिन्दी में", "हिन्दी-में"),
        ("../../etc/passwd", "etc-passwd"),
        ("a\x00b\x1b[31m\n\u202ec", "a-b-31m-c"),
        ("CON", "con"),
        ("...", "chat"),
        ("🎉🎉", "chat"),
        ("", "chat"),
        ("Ｆｕｌｌ", "full"),
        ("word " * 30, ("word-" * 8).strip("-")),
        ("𠀀" * 40, "𠀀" * 25),
    ],
)
def test_names(store: Store, title: str, slug: str) -> None:
    created = datetime(2026, 11, 22, 12, tzinfo=timezone.utc)
    talk = replace(Conversation.new(), id="1f2e3d4c", title=title, created=created)
    path = store.save(talk)
    day = created.astimezone().date()
    assert path.name == f"{day}-{slug}-1f2e3d4c.toml"
    assert len(os.fsencode(path.name)) <= 134
    assert store.load("1f2e3d4c") == talk


def test_the_ends_of_the_calendar(store: Store) -> None:
    for created in (datetime.min, datetime.max):
        talk = replace(asked("q"), created=created.replace(tzinfo=timezone.utc))
        store.save(talk)
        assert store.load(talk.id) == talk


def test_a_locale_without_unicode_still_saves(tmp_path: Path) -> None:
    code = """
import sys
from pathlib import Path
from glmtui.chat import Conversation, Message
from glmtui.store import Store
store = Store(Path(sys.argv[1]))
talk = Conversation.new().add(Message("user", "\\u4f60\\u597d"))
assert sys.getfilesystemencoding() == "ascii"
assert "-chat-" in store.save(talk).name
assert store.load("last") == talk
"""
    environ = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    subprocess.run([sys.executable, "-c", code, tmp_path], env=environ, check=True)


def test_a_file_renamed_or_copied_by_hand(store: Store, folder: Path) -> None:
    talk = asked("q")
    path = store.save(talk)
    copy = folder / "my copy.toml"
    copy.write_bytes(path.read_bytes())
    path.rename(folder / f"better name-{talk.id}.toml")
    ids = {s.path.name: s.id for s in store.summaries()}
    assert ids[f"better name-{talk.id}.toml"] == talk.id
    assert ids["my copy.toml"] != talk.id
    assert store.load(ids["my copy.toml"]).title == "q"
    longer = talk.add(Message("assistant", "a"))
    assert store.save(longer).name == f"better name-{talk.id}.toml"
    assert store.load(ids["my copy.toml"]).messages == talk.messages


# ---- finding


def test_prefixes(store: Store) -> None:
    store.save(asked("one", "aaaa1111"))
    store.save(asked("two", "aaaa2222"))
    assert store.load("aaaa1").title == "one"
    assert store.load("AAAA2").title == "two"
    with pytest.raises(ConversationNotFound) as caught:
        store.load("aaaa")
    assert "one-aaaa1111.toml" in caught.value.message
    assert "two-aaaa2222.toml" in caught.value.message
    for missing in ("b", "", "../", "*"):
        with pytest.raises(ConversationNotFound):
            store.load(missing)


def test_the_same_id_twice_is_not_guessed_at(store: Store, folder: Path) -> None:
    path = store.save(asked("q", "aaaa1111"))
    (folder / "other-aaaa1111.toml").write_bytes(path.read_bytes())
    with pytest.raises(ConversationNotFound, match="other-aaaa1111"):
        store.load("aaaa1111")


def test_an_empty_store(store: Store) -> None:
    assert store.summaries() == []
    assert store.latest() is None
    with pytest.raises(ConversationNotFound):
        store.load("last")


# ---- listing


def test_summaries_are_newest_first(store: Store) -> None:
    for n, name in enumerate(("old", "older", "new")):
        path = store.save(asked(name, f"{n:08x}").add(Message("assistant", "a")))
        set_age(path, {"old": 20, "older": 30, "new": 10}[name])
    listed = store.summaries()
    assert [s.title for s in listed] == ["new", "old", "older"]
    assert [(s.model, s.message_count) for s in listed] == [("smollm2", 2)] * 3
    assert 5 < (datetime.now(timezone.utc) - listed[0].updated).total_seconds() < 60
    latest = store.latest()
    assert latest == listed[0]
    assert latest is not None
    assert latest.path.is_file()


def test_a_file_without_title_is_listed_under_its_first_question(folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "by hand.toml").write_text('[[messages]]\nrole = "user"\ncontent = "what is it"\n')
    (summary,) = Store(folder).summaries()
    assert (summary.title, summary.message_count) == ("what is it", 1)
    assert Store(folder).load(summary.id).id == summary.id


def test_corrupt_files_are_set_aside_and_the_rest_is_listed(store: Store, folder: Path) -> None:
    good = store.save(asked("good"))
    kinds = {
        "truncated-00000001.toml": good.read_bytes()[:-2],
        "binary-00000002.toml": b"\xff\xfe\x00",
        "wrong-00000003.json": b'{"messages": 5}',
        "empty-00000004.json": b"",
        "html-00000005.toml": b"<html>",
    }
    for name, data in kinds.items():
        (folder / name).write_bytes(data)
    earlier = folder / "html-00000005.toml.bad"
    earlier.write_bytes(b"set aside before")

    assert [s.path for s in store.summaries()] == [good]
    assert {type(p) for p in store.problems} == {CorruptConversation}
    assert all(any(name in p.message for p in store.problems) for name in kinds)
    assert any("html-00000005.toml.bad2" in p.hint for p in store.problems)
    assert earlier.read_bytes() == b"set aside before"
    for name, data in kinds.items():
        bad = folder / (f"{name}.bad2" if name.startswith("html") else f"{name}.bad")
        assert bad.read_bytes() == data
        assert not (folder / name).exists()
    assert [s.path for s in store.summaries()] == [good]
    assert store.problems == ()


def test_loading_a_corrupt_file_names_it_and_where_it_went(store: Store, folder: Path) -> None:
    path = store.save(asked("first", "00000001").add(Message("assistant", "a\nb")))
    path.write_text(path.read_text().replace('role = "user"', 'role = "king"'))
    assert store.summaries()[0].id == "00000001"  # the fault is in the middle
    with pytest.raises(CorruptConversation) as caught:
        store.load("00000001")
    assert path.name in caught.value.message
    assert "message 1: role is 'king'" in caught.value.message
    assert f"{path.name}.bad" in caught.value.hint
    assert (folder / f"{path.name}.bad").is_file()


def test_a_newer_format_is_refused_and_left_in_place(store: Store, folder: Path) -> None:
    path = store.save(asked("q", "00000001"))
    path.write_text(path.read_text().replace("format = 1", "format = 99"))
    with pytest.raises(NewerFormat, match="format 99"):
        store.load("00000001")
    assert store.summaries() == []
    assert isinstance(store.problems[0], NewerFormat)
    assert store.latest() is None
    assert path.is_file()
    with pytest.raises(ConversationChanged):
        store.save(asked("q", "00000001"))


def test_odd_things_in_the_folder_are_passed_over(
    store: Store, folder: Path, tmp_path: Path
) -> None:
    good = store.save(asked("good", "00000001"))
    elsewhere = tmp_path / "elsewhere.toml"
    elsewhere.write_text(dumps(asked("linked"), "toml"))
    (folder / "link-00000002.toml").symlink_to(elsewhere)
    (folder / "dangling.toml").symlink_to(tmp_path / "nowhere")
    (folder / "circle.toml").symlink_to(folder / "circle.toml")
    (folder / "folder.toml").mkdir()
    (folder / "notes.txt").write_text("not ours")
    os.mkfifo(folder / "pipe.toml")
    os.mkfifo(folder / "pipe-00000003.json")
    assert {s.title for s in store.summaries()} == {"good", "linked"}
    assert store.problems == ()
    with pytest.raises(ConversationNotFound):
        store.load("00000003")
    linked = store.load("00000002")
    store.save(replace(linked, title="saved"))
    assert store.load("00000002").title == "saved"
    assert "linked" in elsewhere.read_text()  # a link is replaced, what it points to is not
    assert good.is_file()


def test_a_folder_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    store = Store(tmp_path / "file")
    with pytest.raises(StoreError, match="cannot list"):
        store.summaries()
    with pytest.raises(StoreError, match="cannot write"):
        store.save(asked("q"))


def test_a_file_larger_than_any_conversation_is_left_in_place(store: Store, folder: Path) -> None:
    store.save(asked("q"))
    with (folder / "huge-00000001.json").open("wb") as sparse:
        sparse.truncate(2**40)
    assert len(store.summaries()) == 1
    assert "larger than 128 MiB" in store.problems[0].message
    assert (folder / "huge-00000001.json").exists()


def test_listing_reads_conversations_by_their_ends(folder: Path) -> None:
    """Against reading them whole in the same run, which takes several times as long."""
    store = Store(folder)
    talk = asked("q")
    for n in range(44):
        talk = talk.add(Message("user" if n % 2 else "assistant", "some words\n" * 40))
    store.save(talk)
    text = dumps(talk, "toml")
    for n in range(200):
        (folder / f"2026-11-22-chat-{n:08x}.toml").write_text(text)
    listed: list[Summary] = []
    whole: list[Conversation] = []
    listing = count_calls(lambda: listed.extend(store.summaries()))
    reading = count_calls(lambda: whole.extend(store.load(summary.id) for summary in listed))
    assert [s.message_count for s in listed] == [len(c.messages) for c in whole] == [45] * 201
    assert listing < reading / 2
