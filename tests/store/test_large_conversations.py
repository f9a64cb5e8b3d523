"""Large conversations: only what is new is written, and all of it is found again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from glmtui.chat import Conversation, Message, SamplingParams
from glmtui.errors import ConversationChanged, CorruptConversation
from glmtui.store import Store, journal


@pytest.fixture(autouse=True)
def soon_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "LARGE_BYTES", 1000)


def long_talk(turns: int = 30) -> Conversation:
    talk = Conversation.new(model="m")
    for n in range(turns):
        talk = talk.add(Message("user", f"Question {n} " + "x" * 40))
        talk = talk.add(Message("assistant", f"Answer {n}", finish_reason="stop"))
    return talk


TALK = long_talk()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made = Store(tmp_path)
    made.save(TALK)
    return made


def found(folder: Path) -> Conversation:
    """What the next program finds."""
    return Store(folder).load(TALK.id)


def more(folder: Path) -> Path:
    return folder / f".{TALK.id}.new"


def test_a_reply_that_grows_is_on_disk_and_the_large_file_is_not_written(
    store: Store, tmp_path: Path
) -> None:
    path = store.save(TALK)
    before = path.stat().st_ino, path.read_bytes()
    talk = TALK.add(Message("user", "More"))
    store.save(talk)
    assert found(tmp_path) == talk
    talk = talk.add(Message("assistant", ""))
    for n in range(20):
        talk = talk.replace_message(replace(talk.path[-1], content=talk.path[-1].content + f"{n} "))
        assert store.save(talk) == path
        assert found(tmp_path) == talk
    assert (path.stat().st_ino, path.read_bytes()) == before
    assert more(tmp_path).stat().st_size < 400
    assert more(tmp_path).stat().st_mode & 0o777 == 0o600
    store.save(talk.replace_message(replace(talk.path[-1], finish_reason="stop")))
    assert found(tmp_path).path[-1].finish_reason == "stop"


def test_a_conversation_that_is_left_is_one_file(store: Store, tmp_path: Path) -> None:
    talk = TALK.add(Message("user", "More"))
    path = store.save(talk)
    assert more(tmp_path).exists()
    store.release(talk.id)
    assert not more(tmp_path).exists()
    assert "More" in path.read_text()
    assert found(tmp_path) == talk


def test_what_a_dead_program_left_beside_it_goes_on(store: Store, tmp_path: Path) -> None:
    talk = TALK.add(Message("user", "More")).add(Message("assistant", "Part"))
    store.save(talk)
    store._locks.release(talk.id)  # as the system does for a dead one
    again = Store(tmp_path)
    talk = again.load(talk.id)
    talk = talk.replace_message(replace(talk.path[-1], content="Part and whole"))
    again.save(talk)
    assert found(tmp_path) == talk
    again.close()
    assert not more(tmp_path).exists()
    assert found(tmp_path) == talk


WRITER = """
import sys
from dataclasses import replace
from pathlib import Path
from glmtui.chat import Message
from glmtui.store import Store, journal
journal.LARGE_BYTES = 1000
store = Store(Path(sys.argv[1]))
talk = store.load(sys.argv[2]).add(Message("assistant", "0"))
for n in range(1, 10**9):
    talk = talk.replace_message(replace(talk.path[-1], content=talk.path[-1].content + f" {n}"))
    store.save(talk)
    print(n, flush=True)
    if n % 3 == 0:
        store.release(talk.id)  # written whole, and what lay beside it removed
"""


def test_killed_at_any_moment(store: Store, tmp_path: Path) -> None:
    store.save(TALK)
    store.close()
    for lines in range(2, 10):
        argv = [sys.executable, "-c", WRITER, str(tmp_path), TALK.id]
        with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout is not None
            for _ in range(lines):
                saved = int(writer.stdout.readline())
            writer.kill()
        again = Store(tmp_path)
        talk = again.load(TALK.id)
        words = talk.path[-1].content.split()
        assert words == [str(n) for n in range(len(words))]
        assert len(words) > saved
        again.save(talk.delete(talk.path[-1].id))
        again.close()
        assert [path.suffix for path in tmp_path.iterdir()] == [".toml"]
        assert again.problems == ()


def test_it_is_the_one_written_last(store: Store, tmp_path: Path) -> None:
    other = store.save(long_talk(1))
    os.utime(other, (time.time() - 10,) * 2)
    os.utime(store.save(TALK), (time.time() - 20,) * 2)
    store.save(TALK.add(Message("user", "More")))
    latest = store.latest()
    assert latest is not None
    assert latest.id == TALK.id


@pytest.mark.parametrize(
    "changed",
    [
        replace(TALK, params=SamplingParams(temperature=0.1)),
        replace(TALK, title="Another"),
        replace(TALK, system="Be brief."),
        TALK.delete("m59"),
        TALK.rewind("m3"),
        TALK.replace_message(replace(TALK.messages[0], content="Other words")),
        TALK.add(Message("user", "long " * 2000)),
    ],
    ids=["params", "title", "system", "delete", "head", "old words", "much"],
)
def test_what_is_no_small_addition_is_written_whole(
    store: Store, tmp_path: Path, changed: Conversation
) -> None:
    store.save(TALK.add(Message("user", "Given up again")))
    assert more(tmp_path).exists()
    store.save(changed)
    assert not more(tmp_path).exists()
    assert found(tmp_path) == changed


def test_a_large_file_edited_by_hand_is_not_overwritten(store: Store, tmp_path: Path) -> None:
    path = store.save(TALK.add(Message("user", "More")))
    by_hand = path.read_text().replace("Answer 3", "My words")
    path.write_text(by_hand)
    with pytest.raises(ConversationChanged):
        store.save(TALK.add(Message("user", "Even more")))
    store.close()  # what was new stays beside it
    assert path.read_text() == by_hand
    contents = [message.content for message in found(tmp_path).path]
    assert "My words" in contents
    assert contents[-1] == "More"


def test_messages_taken_out_by_hand_leave_what_was_new_at_the_end(
    store: Store, tmp_path: Path
) -> None:
    path = store.save(TALK.add(Message("user", "More")))
    head, *messages = path.read_text().split("\n[[messages]]")
    path.write_text("\n[[messages]]".join([head, *messages[:-4]]))
    contents = [message.content for message in found(tmp_path).path]
    assert contents[-2:] == ["Answer 27", "More"]


def test_what_is_in_the_file_already_is_not_there_twice(store: Store, tmp_path: Path) -> None:
    """Killed between writing the file and removing what lay beside it."""
    store.save(TALK.add(Message("user", "More")).add(Message("assistant", "Par")))
    stale = more(tmp_path).read_bytes()
    talk = TALK.add(Message("user", "More")).add(Message("assistant", "Partial", error="e"))
    store.save(talk)
    store.release(talk.id)
    more(tmp_path).write_bytes(stale)
    assert found(tmp_path) == talk
    again = Store(tmp_path)
    again.save(again.load(talk.id).add(Message("user", "On")))
    again.close()
    assert not more(tmp_path).exists()


@pytest.mark.parametrize("damage", [b"{", b"[]", b'{"messages": [{"role": "user"}]}', b"\xff"])
def test_what_cannot_be_read_beside_it_is_set_aside(
    store: Store, tmp_path: Path, damage: bytes
) -> None:
    store.save(TALK.add(Message("user", "More")))
    more(tmp_path).write_bytes(damage)
    with pytest.raises(CorruptConversation, match=r"\.new"):
        Store(tmp_path).load(TALK.id)
    assert found(tmp_path) == TALK
    assert [p.read_bytes() for p in tmp_path.glob(".*.bad")] == [damage]


def test_a_deleted_conversation_takes_what_is_new_along(store: Store, tmp_path: Path) -> None:
    talk = TALK.add(Message("user", "More"))
    store.save(talk)
    store.delete(talk.id)
    assert [path.name for path in tmp_path.iterdir()] == ["trash"]
    store.restore(talk.id)
    assert store.load(talk.id) == talk


KINDS = ("add", "grow", "edit", "switch", "delete", "words", "model", "load")
EDITS = st.lists(st.tuples(st.sampled_from(KINDS), st.integers(0), st.booleans()), max_size=12)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(EDITS)
@example([("edit", 0, False), ("add", 0, False), ("add", 0, False), ("delete", 8663, True)])
def test_any_edits_are_found_again(
    tmp_path_factory: pytest.TempPathFactory, edits: list[tuple[str, int, bool]]
) -> None:
    folder = tmp_path_factory.mktemp("store")
    store, talk = Store(folder), TALK
    store.save(talk)
    for edit, n, saved in edits:
        message = talk.messages[-1 - n % min(len(talk.messages), 5)]
        if edit == "add":
            talk = talk.add(Message("user", f"words {n}"))
        elif edit == "grow":
            talk = talk.replace_message(replace(message, content=message.content + str(n)))
        elif edit == "edit":
            talk = talk.edit(message.id, str(n))
        elif edit == "switch":
            talk = talk.switch(message.id)
        elif edit == "delete" and len(talk.messages) > 50:
            talk = talk.delete(message.id)
        elif edit == "model":
            talk = replace(talk, model=f"m{n}")
        elif edit == "load":
            store.save(talk)
            store._locks.release(talk.id)
            store = Store(folder)
            assert store.load(talk.id) == talk
        elif edit == "words":
            talk = talk.replace_message(replace(message, content=str(n)))
        if saved:
            store.save(talk)
            assert Store(folder).load(talk.id) == talk
    store.save(talk)
    store.close()
    assert Store(folder).load(talk.id) == talk
    assert [path.suffix for path in folder.iterdir()] == [".toml"]


def test_the_text_beside_it_is_json_to_read(store: Store, tmp_path: Path) -> None:
    store.save(TALK.add(Message("user", "More")))
    (row,) = json.loads(more(tmp_path).read_text())["messages"]
    assert (row["id"], row["parent"], row["content"]) == ("m61", "m60", "More")
