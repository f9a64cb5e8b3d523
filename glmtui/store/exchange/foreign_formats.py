"""Conversations of other programs, put into the words of our own file format.

Known are the messages of OpenAI's, Anthropic's and Gemini's API and of the Vercel AI SDK, exports
of ChatGPT, Claude, Chatbox and Open WebUI, and ShareGPT's files. Of a message only role and content
have to fit; what else does not is left out. Knows nothing of files.
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
from glmtui.store.exchange.message_tree import tree_rows
from glmtui.store.format import REASONS
from glmtui.store.values import Table, numbers_of, time_of

_Numbers = TypeVar("_Numbers", SamplingParams, GenerationStats)

MAX_DEPTH = 8  # of parts within parts; two is usual

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
    "audio",  # whose transcript is text
)
_THOUGHTS = ("reasoning_content", "reasoning", "thinking")
_CALLS = ("tool_calls", "function_call", "toolCalls")
_REASONS = {"max_tokens": "length", "MAX_TOKENS": "length"}

_THOUGHT_TEXT = ("thinking", "reasoning", "text", "thoughts", "summary", "content")
_TEXT = ("text", "content", "parts", "value", "output_text", "refusal", "transcript")
_MEDIA = ("image", "audio", "video", "file", "document")  # in a type: the rest is no text
_CALL_TYPES = ("tool_use", "tool_call", "tool-call", "function_call", "function")


def convert_foreign(data: Any) -> Table:
    """A parsed text of another program as a table of format 1.

    Raises CorruptConversation: no messages, or one in which there is nothing that we can read.
    """
    if isinstance(data, list):
        data = [_unwrapped(item) for item in data]
    if isinstance(data, list) and data and all(map(_has_messages, data)):
        if len(data) > 1:
            raise CorruptConversation(
                _("it holds {count} conversations, and only one can be imported").format(
                    count=len(data)
                )
            )
        data = data[0]
    data = {"messages": data} if isinstance(data, list) else _unwrapped(data)
    rows = next((data[key] for key in _LISTS if key in data), None)
    if rows is None and isinstance(data.get("mapping"), dict):
        rows = tree_rows(data["mapping"], _is_said)
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise CorruptConversation(_("there is no list of messages in it"))
    if not rows:
        raise CorruptConversation(_("there are no messages in it"))
    messages: list[Table] = []
    for n, row in enumerate(rows, 1):
        messages += _messages(row, n)
    ours: Table = {"messages": messages, "pinned": data.get("pinned") is True}
    ours["title"] = _first_text(data, _TITLES)
    system = next(filter(None, (_said(data.get(key)).text for key in _SYSTEMS)), None)
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


def _unwrapped(item: Any) -> Any:
    """A conversation without the record around it, as Open WebUI exports it."""
    chat = item.get("chat") if isinstance(item, dict) else None
    return {**item, **chat} if isinstance(chat, dict) and _has_messages(chat) else item


def _is_said(message: Table) -> bool:
    """Whether ChatGPT shows a message of its tree, and there is something in it."""
    facts = message.get("metadata")
    hidden = isinstance(facts, dict) and facts.get("is_visually_hidden_from_conversation") is True
    return not hidden and bool(_said(message.get("content")))


def _messages(row: Table, n: int) -> list[Table]:
    """The messages that a row is: what is said, then each tool call."""
    said = next(filter(None, (_said(row.get(key)) for key in _CONTENTS)), Said())
    if not said.thoughts:
        found = (_said(row.get(key), thoughts=True).thoughts for key in _THOUGHTS)
        said.thoughts = next(filter(None, found), "")
    for key in _CALLS:
        _read_calls(row.get(key), said)
    message = _outline(row)
    text = said.whole
    if not text and not said.calls:
        given, held = row.get("content"), [row[key] for key in _CONTENTS if key in row]
        if message.get("role") == "assistant" and held and not any(held):
            if given != "":  # nothing came: it is a reply that was cut
                message.pop("finish_reason", None)
        elif given in (None, [], {}) or isinstance(given, list | dict):
            raise CorruptConversation(
                _("message {n}: {what}").format(n=n, what=_("has no content"))
            )
        else:
            text = given  # empty text, or of a kind that is refused by name
    place = {key: message.pop(key) for key in ("id", "parent") if key in message}
    rows = [{**message, "content": text}] if text or not said.calls else []
    rows += [{**message, "metadata": name, "content": call} for name, call in said.calls]
    if "parent" in place:
        rows[0]["parent"] = place["parent"]
    if "id" in place:
        rows[-1]["id"] = place["id"]
    return rows


def _outline(row: Table) -> Table:
    """What fits in a message, without its content."""
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


# ---- what a message says


@dataclass(slots=True)
class Said:
    """What there is in a content.

    Attributes:
        calls: name and arguments, as text, of each tool call.
        others: the types of what is no text, such as "image_url".
    """

    text: str = ""
    thoughts: str = ""
    calls: list[tuple[str, str]] = field(default_factory=list)
    others: list[str] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.text or self.thoughts or self.calls or self.others)

    @property
    def whole(self) -> str:
        """Thoughts, in the tags that models use, and text; where neither is, what else there is."""
        thoughts = f"<think>\n{self.thoughts}\n</think>\n\n" if self.thoughts else ""
        if not thoughts and not self.text and not self.calls:
            return " ".join(f"[{kind}]" for kind in dict.fromkeys(self.others))
        return thoughts + self.text

    def add(self, text: str, *, thoughts: bool) -> None:
        """One more part, on a line of its own."""
        if text and thoughts:
            self.thoughts += ("\n" if self.thoughts else "") + text
        elif text:
            self.text += ("\n" if self.text else "") + text


def _said(content: Any, *, thoughts: bool = False) -> Said:
    said = Said()
    _read(content, said, thoughts, 0)
    return said


def _read(content: Any, said: Said, thoughts: bool, depth: int) -> None:
    if isinstance(content, str):
        said.add(content, thoughts=thoughts)
    elif isinstance(content, list) and depth < MAX_DEPTH:
        for part in content:
            _read(part, said, thoughts, depth + 1)
    elif isinstance(content, dict) and depth < MAX_DEPTH:
        _read_part(content, said, thoughts, depth + 1)


def _read_part(part: Mapping[str, Any], said: Said, thoughts: bool, depth: int) -> None:
    kind = part.get("type", part.get("content_type"))
    kind = sanitize_line(kind.lower())[:40] if isinstance(kind, str) else ""
    if kind in _CALL_TYPES:
        _read_calls(part, said)
        return
    thoughts = thoughts or part.get("thought") is True
    thoughts = thoughts or any(word in kind for word in ("think", "reason", "thought"))
    keys: tuple[str, ...] = _THOUGHT_TEXT if thoughts else _TEXT
    if any(word in kind for word in _MEDIA):
        keys = ("text", "transcript")
    value = next((part[key] for key in keys if part.get(key)), None)
    if value is not None:
        _read(value, said, thoughts, depth)
    elif kind and not any(key in part for key in keys):
        said.others.append(kind)


def _read_calls(calls: Any, said: Said) -> None:
    """Tool calls, in the shape of OpenAI's, Anthropic's or the AI SDK's."""
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
            said.calls.append((sanitize_line(name), arguments))


# ---- single values


def _first_text(table: Mapping[str, Any], keys: tuple[str, ...]) -> str | None:
    return next((table[key] for key in keys if isinstance(table.get(key), str)), None)


def _numbers(kind: type[_Numbers], value: Any) -> Table | None:
    """A table of numbers, if all of them fit."""
    if not isinstance(value, dict):
        return None
    try:
        numbers_of(kind, value)
    except CorruptConversation:
        return None
    return value


def _time(table: Table) -> datetime | None:
    """When it was: the first of the known keys that holds a time."""
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
    """A number since 1970: of seconds, or of the smaller unit that makes it a date before 5138."""
    if not math.isfinite(number) or number <= 0:
        return None
    while number > 1e11:
        number /= 1000
    return datetime.fromtimestamp(number, timezone.utc)
