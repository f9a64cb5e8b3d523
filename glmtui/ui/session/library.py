"""Library: the saved conversations, which the user renames, pins and deletes.

A change of the conversation in view goes through its session, any other straight to the store.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from glmtui.store import Store, Summary
from glmtui.ui.session.session import Session


def in_order(summaries: Iterable[Summary]) -> list[Summary]:
    """The pinned conversations first, then the newest."""
    newest_first = sorted(summaries, key=lambda summary: summary.updated, reverse=True)
    return sorted(newest_first, key=lambda summary: not summary.pinned)


class Library:
    """The conversations of a store. Every method raises StoreError.

    Args:
        discard: replaces the conversation in view with an empty one, before it is deleted.
    """

    def __init__(self, store: Store, session: Session, discard: Callable[[], None]) -> None:
        self._store = store
        self._session = session
        self._discard = discard
        self._deleted: list[str] = []

    def iter_summaries(self) -> Iterator[Summary]:
        """Reads them one by one, newest first. Any thread may call this."""
        return self._store.each_summary()

    def rename(self, conversation_id: str, title: str) -> None:
        if self._in_view(conversation_id):
            self._session.update(title=title)
        else:
            self._store.amend(conversation_id, title=title)

    def pin(self, conversation_id: str, pinned: bool) -> None:
        if self._in_view(conversation_id):
            self._session.update(pinned=pinned)
        else:
            self._store.amend(conversation_id, pinned=pinned)

    def delete(self, conversation_id: str) -> None:
        """Moves a conversation to the trash."""
        if self._in_view(conversation_id):
            self._discard()
        self._store.delete(conversation_id)
        self._deleted.append(conversation_id)

    def restore_last(self) -> str:
        """Restores what was deleted last. Returns its id; "" if nothing was deleted."""
        if not self._deleted:
            return ""
        self._store.restore(self._deleted[-1])
        return self._deleted.pop()

    def _in_view(self, conversation_id: str) -> bool:
        conversation = self._session.conversation
        return conversation.id == conversation_id and bool(conversation.messages)
