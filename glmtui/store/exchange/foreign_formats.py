"""Converts conversations of other programs to our own file format.

Known formats: messages of the OpenAI, Anthropic and Gemini APIs and of the Vercel AI SDK; exports
of ChatGPT, Claude, Chatbox and Open WebUI; ShareGPT files. A message needs a valid role and
content; other values that cannot be read are left out.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any, TypeVar

from glmtui.chat import GenerationStats, SamplingParams
from glmtui.errors import CorruptConversation
from glmtui.language import _
from glmtui.sanitize import sanitize_line
from glmtui.store.conversation_format import REASONS
from glmtui.store.exchange.message_tree import flatten_tree
from glmtui.store.values import Table, numbers_of, time_of

_Numbers = TypeVar("_Numbers", SamplingParams, GenerationStats)

MAX_DEPTH = 8
"""Nesting of content parts within parts; two levels are usual."""

_LISTS = ("messages", "contents", "chat_messages", "conversations", "conversation")
_TITLES = ("title", "name")
_SYSTEMS = ("system", "system_prompt", "systemPrompt", "systemInstruction", "system_instruction")
_TIMES = (
    *("time", "created", "createdAt", "created_at", "create_time", "timestamp", "date"),
    *("updatedAt", "updated_at", "update_time"),
)
_ROLES = {
    "developer": "system",
    "tool": "observation",
    "function": "observation",
    "human": "user",
    "model": "assistant",
    "ai": "assistant",
    "gpt": "assistant",
    "bot": "assistant",
}
_CONTENTS = (
    *("content", "parts", "contentParts", "content_parts", "text", "value", "refusal"),
    "audio",  # its transcript
)
_REASONING = ("reasoning_content", "reasoning", "thinking")
_CALLS = ("tool_calls", "function_call", "toolCalls")
_REASONS = {"max_tokens": "length", "MAX_TOKENS": "length"}

_THOUGHT_TEXT = ("thinking", "reasoning", "text", "thoughts", "summary", "content")
_TEXT = ("text", "content", "parts", "value", "output_text", "refusal", "transcript")
_MEDIA = ("image", "audio", "video", "file", "document")  # part types that contain these words
_CALL_TYPES = ("tool_use", "tool_call", "tool-call", "function_call", "function")


def convert_foreign(data: Any) -> Table:
    """Converts a parsed file of another program to a table of our format 1.

    Raises:
        CorruptConversation: there are no messages, or one of them has no readable content.
    """
    if isinstance(data, list):
        data = [_without_wrapper(item) for item in data]
    if isinstance(data, list) and data and all(map(_has_messages, data)):
        if len(data) > 1:
            raise CorruptConversation(
                _("it contains {count} conversations; only one can be imported").format(
                    count=len(data)
                )
            )
        data = data[0]
    data = {"messages": data} if isinstance(data, list) else _without_wrapper(data)
    rows = next((data[key] for key in _LISTS if key in data), None)
    if rows is None and isinstance(data.get("mapping"), dict):
        rows = flatten_tree(data["mapping"], _is_visible)
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise CorruptConversation(_("there is no list of messages in it"))
    if not rows:
        raise CorruptConversation(_("there are no messages in it"))
    messages: list[Table] = []
    for n, row in enumerate(rows, 1):
        messages += _messages(row, n)
    ours: Table = {"messages": messages, "pinned": data.get("pinned") is True}
    ours["title"] = _first_text(data, _TITLES)
    system = next(filter(None, (_content_of(data.get(key)).text for key in _SYSTEMS)), None)
    if system is None and messages and messages[0].get("role") == "system":
        system = messages.pop(0)["content"]
    ours["system"] = system
    ours["id"] = _first_text(data, ("id",))
    ours["head"] = _first_text(data, ("head", "current_node"))
    ours["model"] = _first_text(data, ("model", "default_model_slug"))
    ours["created"] = _time(data)
    ours["params"] = _numbers(SamplingParams, data.get("params"))
    return {key: value for key, value in ours.items() if value is not None}


def _has_messages(item: Any) -> bool:
    if not isinstance(item, dict):
        return False
    return isinstance(item.get("mapping"), dict) or any(
        isinstance(item.get(key), list) for key in _LISTS
    )


def _without_wrapper(item: Any) -> Any:
    """A conversation without the record that Open WebUI exports around it."""
    chat = item.get("chat") if isinstance(item, dict) else None
    return {**item, **chat} if isinstance(chat, dict) and _has_messages(chat) else item


def _is_visible(message: Table) -> bool:
    """Whether ChatGPT shows this message of its tree, and it is not empty."""
    metadata = message.get("metadata")
    hidden = (
        isinstance(metadata, dict) and metadata.get("is_visually_hidden_from_conversation") is True
    )
    return not hidden and bool(_content_of(message.get("content")))


def _messages(row: Table, n: int) -> list[Table]:
    """The messages in a row: its text, then each tool call."""
    content = next(filter(None, (_content_of(row.get(key)) for key in _CONTENTS)), Content())
    if not content.reasoning:
        found = (_content_of(row.get(key), reasoning=True).reasoning for key in _REASONING)
        content.reasoning = next(filter(None, found), "")
    for key in _CALLS:
        _read_calls(row.get(key), content)
    message = _message_fields(row)
    text = content.whole
    if not text and not content.calls:
        given, held = row.get("content"), [row[key] for key in _CONTENTS if key in row]
        if message.get("role") == "assistant" and held and not any(held):
            if given != "":  # no content at all: an interrupted reply
                message.pop("finish_reason", None)
        elif given in (None, [], {}) or isinstance(given, list | dict):
            raise CorruptConversation(
                _("message {n}: {what}").format(n=n, what=_("has no content"))
            )
        else:
            text = given  # empty text, or a value that `conversation_format` refuses with its name
    place = {key: message.pop(key) for key in ("id", "parent") if key in message}
    rows = [{**message, "content": text}] if text or not content.calls else []
    rows += [{**message, "metadata": name, "content": call} for name, call in content.calls]
    if "parent" in place:
        rows[0]["parent"] = place["parent"]
    if "id" in place:
        rows[-1]["id"] = place["id"]
    return rows


def _message_fields(row: Table) -> Table:
    """The values of a message other than its content."""
    author = row.get("role", row.get("from", row.get("sender", row.get("author"))))
    if isinstance(author, dict):
        author = author.get("role")
    known = _ROLES.get(author.lower(), author.lower()) if isinstance(author, str) else author
    message: Table = {"role": known, "time": _time(row)}
    message["stats"] = _numbers(GenerationStats, row.get("stats"))
    for key in ("id", "parent", "model", "error", "metadata"):
        if isinstance(row.get(key), str):
            message[key] = row[key]
    if known == "assistant":
        ended = row.get("finish_reason", "stop")
        message["finish_reason"] = ended if ended in REASONS else _REASONS.get(str(ended), "stop")
        if ended is None:
            message["finish_reason"] = None
    return {key: value for key, value in message.items() if value is not None}


# ---- content


@dataclass(slots=True)
class Content:
    """The content of a message.

    Attributes:
        calls: name and arguments, as text, of each tool call.
        others: types of parts that are not text, such as "image_url".
    """

    text: str = ""
    reasoning: str = ""
    calls: list[tuple[str, str]] = field(default_factory=list)
    others: list[str] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.text or self.reasoning or self.calls or self.others)

    @property
    def whole(self) -> str:
        """The reasoning in <think> tags and the text; without both, the types of the parts."""
        reasoning = f"<think>\n{self.reasoning}\n</think>\n\n" if self.reasoning else ""
        if not reasoning and not self.text and not self.calls:
            return " ".join(f"[{kind}]" for kind in dict.fromkeys(self.others))
        return reasoning + self.text

    def add(self, text: str, *, reasoning: bool) -> None:
        """Appends a part on a new line."""
        if text and reasoning:
            self.reasoning += ("\n" if self.reasoning else "") + text
        elif text:
            self.text += ("\n" if self.text else "") + text


def _content_of(value: Any, *, reasoning: bool = False) -> Content:
    content = Content()
    _read(value, content, reasoning, 0)
    return content


def _read(value: Any, content: Content, reasoning: bool, depth: int) -> None:
    if isinstance(value, str):
        content.add(value, reasoning=reasoning)
    elif isinstance(value, list) and depth < MAX_DEPTH:
        for part in value:
            _read(part, content, reasoning, depth + 1)
    elif isinstance(value, dict) and depth < MAX_DEPTH:
        _read_part(value, content, reasoning, depth + 1)


def _read_part(part: Mapping[str, Any], content: Content, reasoning: bool, depth: int) -> None:
    kind = part.get("type", part.get("content_type"))
    kind = sanitize_line(kind.lower())[:40] if isinstance(kind, str) else ""
    if kind in _CALL_TYPES:
        _read_calls(part, content)
        return
    reasoning = reasoning or part.get("thought") is True
    reasoning = reasoning or any(word in kind for word in ("think", "reason", "thought"))
    keys: tuple[str, ...] = _THOUGHT_TEXT if reasoning else _TEXT
    if any(word in kind for word in _MEDIA):
        keys = ("text", "transcript")
    value = next((part[key] for key in keys if part.get(key)), None)
    if value is not None:
        _read(value, content, reasoning, depth)
    elif kind and not any(key in part for key in keys):
        content.others.append(kind)


def _read_calls(calls: Any, content: Content) -> None:
    """Reads tool calls in the format of OpenAI, Anthropic or the AI SDK."""
    for call in calls if isinstance(calls, list) else [calls]:
        if not isinstance(call, dict):
            continue
        function = call.get("function")
        call = function if isinstance(function, dict) else call
        name = _first_text(call, ("name", "toolName"))
        found = (call[key] for key in ("arguments", "input", "args") if key in call)
        arguments = next(found, None)
        if name:
            if not isinstance(arguments, str):
                arguments = json.dumps(arguments or {}, ensure_ascii=False, default=str)
            content.calls.append((sanitize_line(name), arguments))


# ---- single values


def _first_text(table: Mapping[str, Any], keys: tuple[str, ...]) -> str | None:
    return next((table[key] for key in keys if isinstance(table.get(key), str)), None)


def _numbers(kind: type[_Numbers], value: Any) -> Table | None:
    """A table of numbers, if all of them are valid."""
    if not isinstance(value, dict):
        return None
    try:
        numbers_of(kind, value)
    except CorruptConversation:
        return None
    return value


def _time(table: Table) -> datetime | None:
    """The first valid time under one of the known keys."""
    return next(filter(None, (_time_at(table, key) for key in _TIMES)), None)


def _time_at(table: Table, key: str) -> datetime | None:
    value = table.get(key)
    try:
        if isinstance(value, str) and value.strip().replace(".", "", 1).isdecimal():
            value = float(value)
        if isinstance(value, int | float) and not isinstance(value, bool):
            return _unix_time(float(value))
        return time_of(table, key)
    except (CorruptConversation, ValueError, OverflowError, OSError):
        return None


def _unix_time(number: float) -> datetime | None:
    """A Unix time in seconds, milliseconds or smaller units: whichever gives a date before 5138."""
    if not math.isfinite(number) or number <= 0:
        return None
    while number > 1e11:
        number /= 1000
    return datetime.fromtimestamp(number, timezone.utc)
