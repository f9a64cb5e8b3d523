"""Conversations as plain data: messages, sampling parameters, and pure edits of them.

Knows no file, no model and no screen.
"""

from glmtui.chat.conversation import (
    Conversation,
    last_turns,
    make_title,
    new_conversation_id,
    now,
    with_tools,
)
from glmtui.chat.message import FinishReason, GenerationStats, Message, Role
from glmtui.chat.sampling_params import SamplingParams

__all__ = [
    "Conversation",
    "FinishReason",
    "GenerationStats",
    "Message",
    "Role",
    "SamplingParams",
    "last_turns",
    "make_title",
    "new_conversation_id",
    "now",
    "with_tools",
]
