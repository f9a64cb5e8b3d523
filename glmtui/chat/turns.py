"""A conversation as the turns that strict chat templates and servers take.

Many templates insist on user and assistant taking turns, on no empty turn, or on a system prompt at
the start alone. A conversation here may be otherwise: a reply failed before its first word, or was
imported. Knows roles and thoughts, neither templates nor servers.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from glmtui.chat import Message, Role

OPENING, CLOSING = "<think>", "</think>"

# Thoughts between two texts stand in tags on lines of their own (see `server.reply_text`).
_LATER_THOUGHTS = re.compile(r"\n*^<think>\n.*?^</think>\n*", re.MULTILINE | re.DOTALL)
# Of templates that end in the opening tag, the reply holds the closing one alone.
_CLOSING_ALONE = re.compile(r"</think>[ \t]*(?:\n\s*|\Z)")


def joined_turns(messages: Sequence[Message]) -> tuple[Message, ...]:
    """The conversation with one system prompt, at its start, and no two turns of one side in a row.

    Turns in a row are joined, line after line, as `models.rounds` does; those without a word are
    left out. What is not the assistant's ("user" and "observation") is one side. A last turn of
    the assistant's stays the last if it has any text.
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
    # A question that holds nothing but blanks is still a question.
    if not turns or turns[-1].role == "system":
        turns += [message for message in messages[-1:] if message.role == "user"]
    return tuple(turns)


def strict_turns(messages: Sequence[Message]) -> tuple[Message, ...]:
    """`joined_turns` without a system role and without replies before the first question.

    The system prompt becomes the beginning of the first question.
    """
    turns = list(joined_turns(messages))
    system = turns.pop(0).content if turns and turns[0].role == "system" else ""
    first = next((n for n, turn in enumerate(turns) if turn.role != "assistant"), 0)
    turns = turns[first:]
    if system and turns and turns[0].role != "assistant":
        turns[0] = replace(turns[0], content=f"{system}\n\n{turns[0].content}")
    elif system:
        turns.insert(0, Message("user", system))
    return tuple(turns)


def without_thoughts(reply: str) -> str:
    """What a reply says, without what was thought, whichever way the thoughts are marked.

    Thoughts that were cut short leave nothing.
    """
    begin = reply.lstrip()
    if begin.startswith(OPENING):
        reply = begin.partition(CLOSING)[2].lstrip("\n")
    elif (closing := _CLOSING_ALONE.search(reply)) and OPENING not in reply[: closing.start()]:
        reply = reply[closing.end() :]
    return _LATER_THOUGHTS.sub("\n\n", reply)


def _side(message: Message) -> Role:
    return "assistant" if message.role == "assistant" else "user"
