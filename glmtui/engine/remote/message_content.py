"""Parses the content of a message from a server: text and reasoning, in any of the forms in use.

Content is a string, or a list of typed parts as OpenAI, Mistral and OpenRouter send them. Servers
may send anything, so every type is checked.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

MAX_DEPTH = 8  # of nested parts; servers nest two

_REASONING_KEYS = ("reasoning_content", "reasoning", "reasoning_text", "thinking", "thought")
_REASONING_PART_KEYS = (
    "thinking",
    "reasoning",
    "reasoning_content",
    "text",
    "summary",
    "content",
)
_TEXT_PART_KEYS = ("text", "content", "value", "output_text", "refusal", "transcript")
_TEXT_TYPES = ("", "text", "output_text", "input_text", "summary_text", "refusal")


@dataclass(slots=True)
class MessageContent:
    """The content of a message.

    Attributes:
        text, reasoning: as the server sent them, including surrogates.
        other_types: types of further content, such as "image_url" or "audio".
    """

    text: str = ""
    reasoning: str = ""
    other_types: list[str] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.text or self.reasoning or self.other_types)


def parse_message(message: Mapping[str, Any]) -> MessageContent:
    """Parse a ``message`` or ``delta`` of a chat completion.

    A refusal is text. Reasoning that a server sends under several names is read once.
    """
    content = MessageContent()
    _add(content, message.get("content"))
    _add(content, message.get("refusal"))
    for key in (*_REASONING_KEYS, "reasoning_details"):
        if not content.reasoning:
            _add(content, message.get(key), reasoning=True)
    audio = message.get("audio")
    if isinstance(audio, dict):
        content.other_types.append("audio")
        if not content.text:
            _add(content, audio.get("transcript"))
    if message.get("images"):
        content.other_types.append("image")
    return content


def _add(content: MessageContent, value: Any, *, reasoning: bool = False, depth: int = 0) -> None:
    if isinstance(value, str):
        if reasoning:
            content.reasoning += value
        else:
            content.text += value
    elif depth < MAX_DEPTH and isinstance(value, list):
        for part in value:
            _add(content, part, reasoning=reasoning, depth=depth + 1)
    elif depth < MAX_DEPTH and isinstance(value, dict):
        _add_part(content, value, reasoning=reasoning, depth=depth + 1)


def _add_part(
    content: MessageContent, part: dict[str, Any], *, reasoning: bool, depth: int
) -> None:
    kind = part.get("type")
    kind = kind.lower() if isinstance(kind, str) else ""
    reasoning = (
        reasoning or "think" in kind or "reason" in kind or (not kind and "thinking" in part)
    )
    keys: tuple[str, ...] = ("text",)
    if reasoning:
        keys = _REASONING_PART_KEYS
    elif kind in _TEXT_TYPES:
        keys = _TEXT_PART_KEYS
    value = next((part[key] for key in keys if part.get(key)), None)
    if value is None:
        if kind not in _TEXT_TYPES:
            content.other_types.append(kind)
        return
    _add(content, value, reasoning=reasoning, depth=depth)
