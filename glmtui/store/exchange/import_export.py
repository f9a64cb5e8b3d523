"""Import of conversations in any known format, and export as Markdown."""

from __future__ import annotations

import json
import re
from typing import Any

from glmtui.chat import Conversation, Message
from glmtui.errors import CorruptConversation
from glmtui.language import _
from glmtui.store.conversation_format import FileFormat, from_table, parse
from glmtui.store.exchange.foreign_formats import convert_foreign

# ---- in


def import_text(text: str, file_format: FileFormat) -> Conversation:
    """A conversation under a new id, from our own format or another program's.

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
        except RecursionError as error:  # nested nearly too deep to parse
            raise CorruptConversation(_("this is not a conversation")) from error
    return from_table(data).fork()


def _json_lines(text: str) -> list[Any] | None:
    """The objects of a JSONL text (one per line); None if it is not JSONL."""
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
    """Markdown of the current branch: title, start, model, system prompt, then each message."""
    details = [f"- Started: {conversation.created:%Y-%m-%d %H:%M %Z}"]
    if conversation.model:
        details.insert(0, f"- Model: {_one_line(conversation.model)}")
    parts = [f"# {_one_line(conversation.title) or 'Conversation'}", "\n".join(details)]
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
    """Closes an open code block at the end, so that what follows is not part of it."""
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
