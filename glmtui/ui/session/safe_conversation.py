"""Sanitises conversations and messages: control characters in their texts become visible.

The session does this to every stored conversation that it opens, and to every final reply.
"""

from __future__ import annotations

from dataclasses import replace

from glmtui.chat import Conversation, Message
from glmtui.sanitize import sanitize, sanitize_line


def sanitized(conversation: Conversation) -> Conversation:
    """The conversation with sanitised texts; titles and names are on one line."""
    messages = tuple(map(sanitized_message, conversation.messages))
    system = conversation.system
    return replace(
        conversation,
        title=sanitize_line(conversation.title),
        model=sanitize_line(conversation.model),
        system=None if system is None else sanitize(system),
        messages=messages,
    )


def sanitized_message(message: Message) -> Message:
    """The message with sanitised texts; the same object if nothing had to be changed."""
    before = (message.content, message.metadata, message.model, message.error)
    content, metadata = sanitize(message.content), sanitize_line(message.metadata)
    model, error = sanitize_line(message.model), sanitize(message.error)
    if (content, metadata, model, error) == before:
        return message
    return replace(message, content=content, metadata=metadata, model=model, error=error)
