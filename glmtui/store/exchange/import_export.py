"""Conversations to and from elsewhere: Markdown out, our own text or another program's in.

What we keep ourselves is `glmtui.store.format`. Knows nothing of files.
"""

from __future__ import annotations

import json
import re
from typing import Any

from glmtui.chat import Conversation, Message
from glmtui.errors import CorruptConversation
from glmtui.language import _
from glmtui.store.exchange.foreign_formats import convert_foreign
from glmtui.store.format import FileFormat, from_table, parse

# ---- in


def import_text(text: str, file_format: FileFormat) -> Conversation:
    """A conversation from elsewhere, under a fresh id: our own text, or another program's.

    Raises like `loads`.
    """
    try:
        data = parse(text, file_format)
    except CorruptConversation:
        data = _json_lines(text) if file_format == "json" else None
        if data is None:
            raise
    if isinstance(data, list) or (isinstance(data, dict) and type(data.get("format")) is not int):
        try:
            data = convert_foreign(data)
        except RecursionError as error:  # of a text that was just not too deep to parse
            raise CorruptConversation(_("this is not a conversation")) from error
    return from_table(data).fork()


def _json_lines(text: str) -> list[Any] | None:
    """The objects of a text with one on each line (JSONL); None if it is something else."""
    try:
        rows = [json.loads(line) for line in text.split("\n") if line.strip()]
    except (ValueError, RecursionError):
        return None
    return rows if len(rows) > 1 and all(isinstance(row, dict) for row in rows) else None


# ---- out

_NAMES = {
    "user": "User",
    "assistant": "Assistant",
    "system": "System",
    "observation": "Observation",
}
_ENDS = {
    None: "cut off",
    "length": "stopped at the length limit",
    "cancelled": "stopped",
    "error": "ended by an error",
}
_FENCE = re.compile(r" {0,3}(`{3,}(?=[^`]*$)|~{3,})(.*)")


def to_markdown(conversation: Conversation) -> str:
    """The title, what it was made with, then each message of the branch in view."""
    facts = [f"- Started: {conversation.created:%Y-%m-%d %H:%M %Z}"]
    if conversation.model:
        facts.insert(0, f"- Model: {_one_line(conversation.model)}")
    parts = [f"# {_one_line(conversation.title) or 'Conversation'}", "\n".join(facts)]
    if conversation.system:
        parts.append(f"## System prompt\n\n{_closed(conversation.system)}")
    parts.extend(_section(message) for message in conversation.path)
    return "\n\n".join(parts) + "\n"


def _section(message: Message) -> str:
    name = _NAMES[message.role]
    if message.model:
        name += f" ({_one_line(message.model)})"
    text = f"## {name}\n\n{_closed(message.content)}"
    if message.role == "assistant" and message.finish_reason in _ENDS:
        text += f"\n\n*[{_ENDS[message.finish_reason]}]*"
    return text


def _closed(text: str) -> str:
    """`text` with the end its last code block lacks, so that what follows is not code too."""
    fence = ""
    for line in text.splitlines():
        if match := _FENCE.match(line):
            if not fence:
                fence = match[1]
            elif match[1].startswith(fence) and not match[2].strip():
                fence = ""
    return text.strip("\n") + (f"\n{fence}" if fence else "")


def _one_line(text: str) -> str:
    return " ".join(text.split())
