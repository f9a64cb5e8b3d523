"""Conversations as plain data: messages, sampling parameters, and pure edits of them.

Knows no file, no model and no screen.
"""

from glmtui.chat.conversation import (
    MOST_COUNT,
    MOST_RATE,
    TITLE_CELLS,
    Conversation,
    FinishReason,
    GenerationStats,
    Message,
    Role,
    SamplingParams,
    fresh_id,
    last_turns,
    now,
    title_of,
    with_tools,
)

__all__ = [
    "MOST_COUNT",
    "MOST_RATE",
    "TITLE_CELLS",
    "Conversation",
    "FinishReason",
    "GenerationStats",
    "Message",
    "Role",
    "SamplingParams",
    "fresh_id",
    "last_turns",
    "now",
    "title_of",
    "with_tools",
]
