"""Conversations and messages as they may be shown, whoever wrote their files."""

from __future__ import annotations

from dataclasses import replace

from glmtui.chat import Conversation, Message
from glmtui.sanitize import sanitize, sanitize_line


def sanitized(conversation: Conversation) -> Conversation:
    """The conversation with all its text made sanitize, titles and names on one line."""
    messages = tuple(map(made_visible, conversation.messages))
    system = conversation.system
    return replace(
        conversation,
        title=sanitize_line(conversation.title),
        model=sanitize_line(conversation.model),
        system=None if system is None else sanitize(system),
        messages=messages,
    )


def made_visible(message: Message) -> Message:
    """The message with all its text made visible; itself, if it is so already."""
    before = (message.content, message.metadata, message.model, message.error)
    content, metadata = sanitize(message.content), sanitize_line(message.metadata)
    model, error = sanitize_line(message.model), sanitize(message.error)
    if (content, metadata, model, error) == before:
        return message
    return replace(message, content=content, metadata=metadata, model=model, error=error)
