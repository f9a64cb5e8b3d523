"""What glmtui does to a disk, act by act, for tests that cut each short (see `calls`).

`ACTS` gives for each name what opens a store on a folder that `prepare` has filled, and returns
the steps of the act. All of them can be done again after one has failed.
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


def small() -> Conversation:
    """A short conversation."""
    return replace(Conversation.new(), id=SMALL).add(Message("user", "Question"))


def large() -> Conversation:
    """One whose new messages are written beside its file."""
    talk = replace(Conversation.new(), id=LARGE)
    for n in range(12):
        talk = talk.add(Message("user", f"Question {n} " + "x" * 60))
        talk = talk.add(Message("assistant", f"Answer {n}", finish_reason="stop"))
    return talk


def prepare(folder: Path) -> None:
    """Two conversations, a third that is a link, one in the trash, and a file of the user's."""
    store = Store(folder / "chats")
    store.save(small())
    store.save(large())
    with_more(store)
    gone = replace(large(), id="dddddddd")
    store.save(gone)
    store.save(gone.add(Message("user", "More")))
    store.delete(gone.id)
    store._locks.release(LARGE)  # as the system does for a program that was killed
    store.close()
    (folder / "elsewhere").mkdir()
    path = store.save(replace(small(), id="11111111"))
    store.close()
    path.rename(folder / "elsewhere/linked")
    path.symlink_to("../elsewhere/linked")
    (folder / "file").write_text("what was there")


def with_more(store: Store) -> Conversation:
    talk = store.load(LARGE).add(Message("user", "More"))
    store.save(talk)
    return talk


def saving(change: Callable[[Conversation], Conversation], name: str) -> Callable[[Path], Act]:
    def begun(folder: Path) -> Act:
        store = Store(folder / "chats")
        talk = change(store.load(name))
        return (lambda: store.save(talk),)

    return begun


def new(folder: Path) -> Act:
    store = Store(folder / "chats")
    talk = replace(small(), id=NEW)
    return (lambda: store.save(talk),)


def leaving(folder: Path) -> Act:
    """Leaves a conversation from which a message was deleted while its file was large."""
    store = Store(folder / "chats")
    talk = store.load(LARGE)
    more = talk.add(Message("assistant", "And more"))
    other = talk.add(Message("assistant", "Other words"))

    return (
        lambda: store.save(more),
        lambda: store.save(other),
        lambda: store.release(LARGE),
    )


def twice(folder: Path) -> Act:
    """Deletes what is new, then says something else."""
    store = Store(folder / "chats")
    talk = store.load(LARGE)
    less = talk.delete(talk.path[-1].id)
    more = less.add(Message("user", "Something else"))

    return (lambda: store.save(less), lambda: store.save(more))


def titled(folder: Path) -> Act:
    store = Store(folder / "chats")
    return (lambda: store.amend(SMALL, title="Another title"),)


def trashed(folder: Path) -> Act:
    store = Store(folder / "chats")

    def act() -> None:
        if any(LARGE in path.name for path in store.paths()):
            store.delete(LARGE)

    return (act,)


def restored(folder: Path) -> Act:
    store = Store(folder / "chats")

    def act() -> None:
        if not any("dddddddd" in path.name for path in store.paths()):
            store.restore("dddddddd")

    return (act,)


def exported_over(folder: Path) -> Act:
    return (lambda: replace_file(folder / "file", b"what is new"),)


def exported(folder: Path) -> Act:
    def act() -> None:
        if not (folder / "other").exists():
            create_file(folder / "other", b"what is new")

    return (act,)


def drafted(folder: Path) -> Act:
    drafts = Drafts(folder / "drafts")
    return (lambda: drafts.write(SMALL, "A draft"),)


ACTS: dict[str, Callable[[Path], Act]] = {
    "a new conversation": new,
    "a message more": saving(lambda talk: talk.add(Message("assistant", "Reply")), SMALL),
    "a message more in a large one": saving(
        lambda talk: talk.add(Message("assistant", "Reply")), LARGE
    ),
    "a message deleted": saving(lambda talk: talk.delete(talk.path[-1].id), LARGE),
    "an old message deleted": saving(lambda talk: talk.delete(talk.path[3].id), LARGE),
    "one deleted and another said": twice,
    "a large one left": leaving,
    "a file that is a link": saving(
        lambda talk: talk.add(Message("assistant", "Reply")), "11111111"
    ),
    "another title": titled,
    "into the trash": trashed,
    "out of the trash": restored,
    "an export over a file": exported_over,
    "an export": exported,
    "a draft": drafted,
}
