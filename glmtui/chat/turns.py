"""A conversation as the alternating turns that strict chat templates and servers require.

Many templates reject an empty turn, two turns of the same side in a row, or a system prompt that
is not at the start. All of these can occur here: a reply fails before its first token, or the
conversation was imported.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from glmtui.chat.message import Message, Role


def merge_turns(messages: Sequence[Message]) -> tuple[Message, ...]:
    """The conversation with one system prompt, at its start, and with alternating turns.

    Consecutive turns of one side are joined by a newline; blank turns are dropped. The roles
    "user" and "observation" are one side. A last turn of the assistant stays the last if it is
    not blank.
    """
    system = [message for message in messages if message.role == "system"]
    turns: list[Message] = []
    for message in messages:
        if message.role == "system" or not message.content.strip():
            continue
        if turns and _side(turns[-1]) == _side(message):
            content = f"{turns[-1].content}\n{message.content}"
            turns[-1] = replace(turns[-1], role=_side(message), content=content)
        else:
            turns.append(message)
    prompt = "\n".join(message.content for message in system if message.content.strip())
    tools = tuple(tool for message in system for tool in message.tools)
    if prompt or tools:
        turns.insert(0, replace(system[0], content=prompt, tools=tools))
    # A blank question is still a question.
    if not turns or turns[-1].role == "system":
        turns += [message for message in messages[-1:] if message.role == "user"]
    return tuple(turns)


def merge_turns_without_system(messages: Sequence[Message]) -> tuple[Message, ...]:
    """`merge_turns` for a format without a system role that starts with a question.

    The system prompt is prepended to the first question; replies before it are dropped.
    """
    turns = list(merge_turns(messages))
    system = turns.pop(0).content if turns and turns[0].role == "system" else ""
    first = next((n for n, turn in enumerate(turns) if turn.role != "assistant"), 0)
    turns = turns[first:]
    if system and turns and turns[0].role != "assistant":
        turns[0] = replace(turns[0], content=f"{system}\n\n{turns[0].content}")
    elif system:
        turns.insert(0, Message("user", system))
    return tuple(turns)


def _side(message: Message) -> Role:
    return "assistant" if message.role == "assistant" else "user"
