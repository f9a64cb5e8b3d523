"""What a message of a server's says: its text and its thoughts, in whatever form they come.

Content is a string, or a list of typed parts as OpenAI, Mistral and OpenRouter send them. Knows no
streams. A server may send anything, so nothing is taken for granted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

MAX_DEPTH = 8  # of parts within parts; two is usual

_REASONING_KEYS = ("reasoning_content", "reasoning", "reasoning_text", "thinking", "thought")
_THOUGHT_TEXT = ("thinking", "reasoning", "reasoning_content", "text", "summary", "content")
_TEXT = ("text", "content", "value", "output_text", "refusal", "transcript")
_PLAIN_TYPES = ("", "text", "output_text", "input_text", "summary_text", "refusal")


@dataclass(slots=True)
class MessageContent:
    """What a message says.

    Attributes:
        text, reasoning: for the user; strings as they came, surrogates included.
        others: what else there is, by its type, such as "image_url" or "tool call".
    """

    text: str = ""
    reasoning: str = ""
    others: list[str] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.text or self.reasoning or self.others)


def read_message(message: Mapping[str, Any]) -> MessageContent:
    """A ``message`` or ``delta`` of a chat completion.

    A refusal is text; thoughts are taken once where a server sends them under several names.
    """
    said = MessageContent()
    _read(message.get("content"), said)
    _read(message.get("refusal"), said)
    for key in _REASONING_KEYS:
        if not said.reasoning:
            _read(message.get(key), said, thoughts=True)
    if not said.reasoning:
        _read(message.get("reasoning_details"), said, thoughts=True)
    audio = message.get("audio")
    if isinstance(audio, dict):
        said.others.append("audio")
        if not said.text:
            _read(audio.get("transcript"), said)
    said.others += ["image"] * bool(message.get("images"))
    return said


def _read(value: Any, said: MessageContent, *, thoughts: bool = False, depth: int = 0) -> None:
    if isinstance(value, str):
        if thoughts:
            said.reasoning += value
        else:
            said.text += value
    elif depth < MAX_DEPTH and isinstance(value, list):
        for part in value:
            _read(part, said, thoughts=thoughts, depth=depth + 1)
    elif depth < MAX_DEPTH and isinstance(value, dict):
        _read_part(value, said, thoughts=thoughts, depth=depth + 1)


def _read_part(part: dict[str, Any], said: MessageContent, *, thoughts: bool, depth: int) -> None:
    kind = part.get("type")
    kind = kind.lower() if isinstance(kind, str) else ""
    thoughts = thoughts or "think" in kind or "reason" in kind or (not kind and "thinking" in part)
    keys = _THOUGHT_TEXT if thoughts else _TEXT if kind in _PLAIN_TYPES else ("text",)
    value = next((part[key] for key in keys if part.get(key)), None)
    if value is None:
        if kind not in _PLAIN_TYPES:
            said.others.append(kind)
        return
    _read(value, said, thoughts=thoughts, depth=depth)
