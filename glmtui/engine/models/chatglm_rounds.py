"""What ChatGLM-6B and ChatGLM2 share in their text: rounds of one question and one answer.

The models were trained on such rounds; they have no system role and no tools. ChatGLM3 shares the
training date only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from glmtui.chat import Message

# The models write the first text where a date belongs; the original code replaces it so.
TRAINING_DATE = ("[[训练时间]]", "2023年")


class Round(NamedTuple):
    """One question and its answer; in the last round, the start of the answer or ""."""

    question: str
    answer: str


def split_rounds(messages: Sequence[Message]) -> tuple[str, list[Round]]:
    """The system prompt, and the rounds: at least one. The model answers the last one.

    Consecutive messages of other roles than the assistant are joined by newlines to one question,
    and consecutive replies to one answer. The last answer is empty unless the last message is a
    reply to be continued.
    """
    system = "\n".join(m.content for m in messages if m.role == "system")
    rounds: list[Round] = []
    previous = "assistant"
    for message in messages:
        if message.role == "system":
            continue
        if message.role == "assistant":
            question, answer = rounds.pop() if rounds else Round("", "")
            answer = f"{answer}\n{message.content}" if answer else message.content
            rounds.append(Round(question, answer))
        elif previous == "assistant":
            rounds.append(Round(message.content, ""))
        else:
            rounds[-1] = Round(f"{rounds[-1].question}\n{message.content}", "")
        previous = message.role
    return system, rounds or [Round("", "")]
