"""Shelf: the saved conversations as a person arranges them.

What is done to the one in view goes through its session, to others straight to the store. Knows
no list and no dialog.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Protocol

from glmtui.chat import Conversation
from glmtui.store import Store, Summary

if TYPE_CHECKING:
    from glmtui.ui.session.session import Session


def in_order(summaries: Iterable[Summary]) -> list[Summary]:
    """The pinned ones first, then the newest."""
    newest_first = sorted(summaries, key=lambda summary: summary.updated, reverse=True)
    return sorted(newest_first, key=lambda summary: not summary.pinned)


class Keeper(Protocol):
    """Who has the conversations: an app, with a screen or without."""

    store: Store
    session: Session

    def leave_for_deletion(self) -> None:
        """Shows an empty page in place of the conversation in view, which is let go."""


class Library:
    """The app's conversations. Everything raises StoreError."""

    def __init__(self, app: Keeper) -> None:
        self._app = app
        self._deleted: list[str] = []

    def each(self) -> Iterator[Summary]:
        """All of them as they are read, the newest first. Any thread may ask."""
        return self._app.store.each_summary()

    def rename(self, conversation_id: str, title: str) -> None:
        """Gives one another title."""
        if self._in_view(conversation_id):
            self._app.session.update(title=title)
        else:
            self._app.store.amend(conversation_id, title=title)

    def pin(self, conversation_id: str, pinned: bool) -> None:
        """Has one stand before the others, or not any more."""
        if self._in_view(conversation_id):
            self._app.session.update(pinned=pinned)
        else:
            self._app.store.amend(conversation_id, pinned=pinned)

    def delete(self, conversation_id: str) -> None:
        """Puts one into the trash; if it is in view, an empty page takes its place."""
        if self._in_view(conversation_id):
            self._app.leave_for_deletion()
        self._app.store.delete(conversation_id)
        self._deleted.append(conversation_id)

    def undo(self) -> str:
        """Brings back what was deleted last. Returns its id, "" where there is nothing."""
        if not self._deleted:
            return ""
        self._app.store.restore(self._deleted[-1])
        return self._deleted.pop()

    def _in_view(self, conversation_id: str) -> bool:
        conversation: Conversation = self._app.session.conversation
        return conversation.id == conversation_id and bool(conversation.messages)
