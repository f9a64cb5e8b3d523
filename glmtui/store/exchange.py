"""Conversations to and from elsewhere: Markdown out, messages as OpenAI's API has them in.

What we keep ourselves is `glmtui.store.format`. Knows nothing of files.
"""

from __future__ import annotations

import re
from typing import Any

from glmtui.chat import Conversation, Message
from glmtui.errors import CorruptConversation
from glmtui.language import _
from glmtui.store.format import FileFormat, from_table, parse

# ---- in


def import_text(text: str, file_format: FileFormat) -> Conversation:
    """A conversation from elsewhere, under a fresh id: our own text, or messages as OpenAI's API
    has them, in a list or under "messages". Raises like `loads`."""
    data = parse(text, file_format)
    if isinstance(data, list):
        data = {"messages": data}
    if isinstance(data, dict) and "format" not in data:
        data = _from_openai(data)
    return from_table(data).fork()


def _from_openai(data: dict[str, Any]) -> dict[str, Any]:
    """`data` in our words: roles, contents in parts, and a leading system message."""
    rows = data.get("messages")
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise CorruptConversation(_("there is no list of messages in it"))
    roles = {"developer": "system", "tool": "observation", "function": "observation"}
    ours = []
    for row in rows:
        role = str(row.get("role"))
        end = {"finish_reason": "stop"} if role == "assistant" else {}
        ours.append({**end, **row, "role": roles.get(role, role), "content": _joined(row)})
    if "system" not in data and ours and ours[0]["role"] == "system":
        data = {**data, "system": ours.pop(0)["content"]}
    return {**data, "messages": ours}


def _joined(row: dict[str, Any]) -> Any:
    """A message's content as one text; what is not text in it (images, calls) is left out."""
    content = row.get("content")
    if not isinstance(content, list):
        return "" if content is None else content
    texts = (part.get("text") for part in content if isinstance(part, dict))
    return "\n".join(text for text in texts if isinstance(text, str))


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
