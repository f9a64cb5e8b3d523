"""Messages as the rounds of question and answer that ChatGLM-6B and ChatGLM2 were trained on.

Knows roles, not how a family writes a round. These two models have no system role and no tools.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from glmtui.chat import Message

TRAINING_TIME = ("[[训练时间]]", "2023年")  # a mark the models write where the date belongs


class Round(NamedTuple):
    """One question and its answer; the last answer is what there is of the reply so far."""

    question: str
    answer: str


def rounds(messages: Sequence[Message]) -> tuple[str, list[Round]]:
    """The system prompt and the rounds, at least one, the last of which is to be answered.

    What other roles than the assistant say in a row is one question, line after line; so are
    several replies in a row one answer. The last answer is empty unless the last message is the
    assistant's, to be continued.
    """
    system = "\n".join(m.content for m in messages if m.role == "system")
    talk: list[Round] = []
    before = "assistant"
    for message in messages:
        if message.role == "system":
            continue
        if message.role == "assistant":
            question, answer = talk.pop() if talk else Round("", "")
            answer = f"{answer}\n{message.content}" if answer else message.content
            talk.append(Round(question, answer))
        elif before == "assistant":
            talk.append(Round(message.content, ""))
        else:
            talk[-1] = Round(f"{talk[-1].question}\n{message.content}", "")
        before = message.role
    return system, talk or [Round("", "")]
