"""Deletions: what was taken out of a conversation, which can come back until the talk goes on.

Pure but for what it remembers; knows conversations alone.
"""

from __future__ import annotations

from dataclasses import replace

from glmtui.chat import Conversation, Message


class Deletions:
    """The messages deleted from a conversation, the last first to come back."""

    def __init__(self) -> None:
        # each with the id that was asked for, the conversation before, and what was left
        self._done: list[tuple[str, Conversation, tuple[Message, ...]]] = []

    def delete(self, conversation: Conversation, message_id: str) -> Conversation:
        """Without a message and all that follows it; an alternative to it comes into view."""
        others = [m.id for m in conversation.siblings(message_id) if m.id != message_id]
        left = conversation.delete(message_id)
        if others:
            left = left.switch(others[-1])
        self._done.append((message_id, conversation, left.messages))
        return left

    def can_undo(self, conversation: Conversation) -> bool:
        """Whether its messages are still those that were left."""
        return bool(self._done) and self._done[-1][2] is conversation.messages

    def undo(self, conversation: Conversation) -> tuple[Conversation, str | None]:
        """With what was deleted last, and its id; as it is and None where nothing can come back."""
        if not self.can_undo(conversation):
            return conversation, None
        message_id, before, _ = self._done.pop()
        return replace(conversation, messages=before.messages, head=before.head), message_id

    def forget(self) -> None:
        """Another conversation."""
        self._done.clear()
