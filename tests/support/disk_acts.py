"""ACTS: everything that glmtui does to a disk, for tests that interrupt it (see `system_calls`).

A function of ACTS takes a folder that `prepare` has filled and returns the steps of the act. All
steps can be run again after one has failed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from glmtui.chat import Conversation, Message
from glmtui.errors import GlmtuiError
from glmtui.store import Store, journal
from glmtui.store.drafts import Drafts
from glmtui.system.durable_files import create_file, replace_file

__all__ = ["ACTS", "GlmtuiError", "prepare"]

Act = tuple[Callable[[], object], ...]

journal.LARGE_BYTES = 1000
SMALL, LARGE, NEW = "5a5a5a5a", "1a1a1a1a", "0e0e0e0e"


def small_conversation() -> Conversation:
    return replace(Conversation.new(), id=SMALL).add(Message("user", "Question"))


def large_conversation() -> Conversation:
    """A conversation so long that new messages go to a journal beside its file."""
    talk = replace(Conversation.new(), id=LARGE)
    for n in range(12):
        talk = talk.add(Message("user", f"Question {n} " + "x" * 60))
        talk = talk.add(Message("assistant", f"Answer {n}", finish_reason="stop"))
    return talk


def prepare(folder: Path) -> None:
    """Makes two conversations, a symbolic link to a third, one in the trash, and a user's file."""
    store = Store(folder / "chats")
    store.save(small_conversation())
    store.save(large_conversation())
    add_message(store)
    gone = replace(large_conversation(), id="dddddddd")
    store.save(gone)
    store.save(gone.add(Message("user", "More")))
    store.delete(gone.id)
    store._locks.release(LARGE)  # as the kernel does for a killed process
    store.close()
    (folder / "elsewhere").mkdir()
    path = store.save(replace(small_conversation(), id="11111111"))
    store.close()
    path.rename(folder / "elsewhere/linked")
    path.symlink_to("../elsewhere/linked")
    (folder / "file").write_text("what was there")


def add_message(store: Store) -> Conversation:
    talk = store.load(LARGE).add(Message("user", "More"))
    store.save(talk)
    return talk


def save_changed(
    change: Callable[[Conversation], Conversation], name: str
) -> Callable[[Path], Act]:
    def open_store(folder: Path) -> Act:
        store = Store(folder / "chats")
        talk = change(store.load(name))
        return (lambda: store.save(talk),)

    return open_store


def save_new(folder: Path) -> Act:
    store = Store(folder / "chats")
    talk = replace(small_conversation(), id=NEW)
    return (lambda: store.save(talk),)


def release_large(folder: Path) -> Act:
    """Releases a conversation from which a message was deleted while its file was large."""
    store = Store(folder / "chats")
    talk = store.load(LARGE)
    more = talk.add(Message("assistant", "And more"))
    other = talk.add(Message("assistant", "Other words"))

    return (
        lambda: store.save(more),
        lambda: store.save(other),
        lambda: store.release(LARGE),
    )


def delete_then_add(folder: Path) -> Act:
    """Deletes the newest message and adds another."""
    store = Store(folder / "chats")
    talk = store.load(LARGE)
    less = talk.delete(talk.path[-1].id)
    more = less.add(Message("user", "Something else"))

    return (lambda: store.save(less), lambda: store.save(more))


def rename(folder: Path) -> Act:
    store = Store(folder / "chats")
    return (lambda: store.amend(SMALL, title="Another title"),)


def trash(folder: Path) -> Act:
    store = Store(folder / "chats")

    def act() -> None:
        if any(LARGE in path.name for path in store.paths()):
            store.delete(LARGE)

    return (act,)


def restore(folder: Path) -> Act:
    store = Store(folder / "chats")

    def act() -> None:
        if not any("dddddddd" in path.name for path in store.paths()):
            store.restore("dddddddd")

    return (act,)


def export_over_file(folder: Path) -> Act:
    return (lambda: replace_file(folder / "file", b"what is new"),)


def export(folder: Path) -> Act:
    def act() -> None:
        if not (folder / "other").exists():
            create_file(folder / "other", b"what is new")

    return (act,)


def save_draft(folder: Path) -> Act:
    drafts = Drafts(folder / "drafts")
    return (lambda: drafts.write(SMALL, "A draft"),)


ACTS: dict[str, Callable[[Path], Act]] = {
    "a new conversation": save_new,
    "a message more": save_changed(lambda talk: talk.add(Message("assistant", "Reply")), SMALL),
    "a message more in a large one": save_changed(
        lambda talk: talk.add(Message("assistant", "Reply")), LARGE
    ),
    "a message deleted": save_changed(lambda talk: talk.delete(talk.path[-1].id), LARGE),
    "an old message deleted": save_changed(lambda talk: talk.delete(talk.path[3].id), LARGE),
    "one deleted and another said": delete_then_add,
    "a large one left": release_large,
    "a file that is a link": save_changed(
        lambda talk: talk.add(Message("assistant", "Reply")), "11111111"
    ),
    "another title": rename,
    "into the trash": trash,
    "out of the trash": restore,
    "an export over a file": export_over_file,
    "an export": export,
    "a draft": save_draft,
}
