"""fit_prompt: which messages a prompt has room for. Knows messages and lengths, no model."""

from __future__ import annotations

import bisect
from collections.abc import Sequence

from glmtui.chat import Message
from glmtui.engine.tokenization.protocols import ChatFormat
from glmtui.errors import PromptTooLong
from glmtui.language import _


def fit_prompt(
    chat_format: ChatFormat, messages: Sequence[Message], comfortable: int, most: int
) -> tuple[list[int], int]:
    """Prompt ids with as many of the newest messages as fit; the system prompt always stays.

    Args:
        comfortable: the length up to which nothing is left out, in tokens.
        most: the length the last question alone may have.

    Returns:
        The ids, and how many of the oldest messages were left out.

    Raises:
        PromptTooLong: even the last question alone is longer than `most`.
    """
    system = [m for m in messages[:1] if m.role == "system"]
    rest = messages[len(system) :]
    # the prompt may begin at any question
    starts = [i for i, m in enumerate(rest) if m.role == "user"] or [0]
    if starts[0] != 0:
        starts.insert(0, 0)

    def encoded(start: int) -> list[int]:
        return chat_format.encode([*system, *rest[start:]])

    prompt = encoded(0)
    if len(prompt) <= comfortable:
        return prompt, 0
    fitting = bisect.bisect_left(starts, True, key=lambda at: len(encoded(at)) <= comfortable)
    start = starts[min(fitting, len(starts) - 1)]
    prompt = encoded(start)
    if len(prompt) > most:
        raise PromptTooLong(
            _("The question is {long:,} tokens long; {most:,} fit into the context.").format(
                long=len(prompt), most=most
            ),
            _("Shorten it, or raise max_length or load.context_length if the model allows more."),
        )
    return prompt, start
