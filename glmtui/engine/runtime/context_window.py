"""fit_messages: which messages of a conversation fit into the context of a model."""

from __future__ import annotations

import bisect
from collections.abc import Sequence

from glmtui.chat import Message
from glmtui.engine.tokenization.protocols import ChatFormat
from glmtui.errors import PromptTooLong
from glmtui.language import _


def fit_messages(
    chat_format: ChatFormat, messages: Sequence[Message], target: int, limit: int
) -> tuple[list[int], int]:
    """Prompt ids of the system prompt and as many of the newest messages as fit.

    Args:
        target: length in tokens up to which messages are kept.
        limit: length in tokens that the last question alone may have.

    Returns:
        The ids, and how many of the oldest messages were dropped.

    Raises:
        PromptTooLong: the last question alone is longer than `limit`.
    """
    system = [message for message in messages[:1] if message.role == "system"]
    rest = messages[len(system) :]
    # a prompt begins with a question, or with the first message
    starts = [i for i, message in enumerate(rest) if message.role == "user"] or [0]
    if starts[0] != 0:
        starts.insert(0, 0)

    def encode_from(start: int) -> list[int]:
        return chat_format.encode([*system, *rest[start:]])

    prompt = encode_from(0)
    if len(prompt) <= target:
        return prompt, 0
    first_fit = bisect.bisect_left(starts, True, key=lambda at: len(encode_from(at)) <= target)
    start = starts[min(first_fit, len(starts) - 1)]
    prompt = encode_from(start)
    if len(prompt) > limit:
        raise PromptTooLong(
            _("The question is {long:,} tokens long; {most:,} fit into the context.").format(
                long=len(prompt), most=limit
            ),
            _("Shorten it, or raise max_length or load.context_length if the model allows more."),
        )
    return prompt, start
