"""Deletions: messages deleted from a conversation, which can be restored until it continues."""

from __future__ import annotations

from dataclasses import dataclass, replace

from glmtui.chat import Conversation, Message


@dataclass(frozen=True, slots=True)
class _Deletion:
    message_id: str
    before: Conversation
    remaining: tuple[Message, ...]


class Deletions:
    """The deletions in one conversation, which are undone last first."""

    def __init__(self) -> None:
        self._stack: list[_Deletion] = []

    def delete(self, conversation: Conversation, message_id: str) -> Conversation:
        """Removes a message and all that follow it. A sibling of it comes into view, if any."""
        siblings = [m.id for m in conversation.siblings(message_id) if m.id != message_id]
        after = conversation.delete(message_id)
        if siblings:
            after = after.switch(siblings[-1])
        self._stack.append(_Deletion(message_id, conversation, after.messages))
        return after

    def can_undo(self, conversation: Conversation) -> bool:
        """Whether the conversation still has exactly the messages that the last deletion left."""
        return bool(self._stack) and self._stack[-1].remaining is conversation.messages

    def undo(self, conversation: Conversation) -> tuple[Conversation, str | None]:
        """Undoes the last deletion.

        Returns:
            The conversation and the id of the deleted message; the id is None if nothing can be
            undone.
        """
        if not self.can_undo(conversation):
            return conversation, None
        last = self._stack.pop()
        before = last.before
        restored = replace(conversation, messages=before.messages, head=before.head)
        return restored, last.message_id

    def clear(self) -> None:
        self._stack.clear()
