"""Parses the JSON events of an answer into the chunks of one reply.

Keeps what a single event does not tell: incomplete characters, whether a whole message repeats
what was streamed, and which of several choices is followed.
"""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

from glmtui.engine.remote.chat_completions import Chunk, parse_chunk
from glmtui.engine.remote.message_content import MessageContent, parse_message
from glmtui.engine.remote.surrogates import SurrogateRepairer, repair_surrogates

# Limits of what is kept for the message about a reply that has no text.
MAX_TOOL_CALLS = 8
MAX_ARGUMENT_CHARS = 500
MIN_REPEAT_CHARS = 24  # a shorter text may be repeated on purpose


class ReplyParser:
    """Parses the events of a streamed answer, or the one object of an answer that is not streamed.

    Attributes:
        other_types: types of content that cannot be shown, such as "image_url".
    """

    def __init__(self) -> None:
        self.other_types: set[str] = set()
        self._text = _TextField()
        self._reasoning = _TextField()
        self._index: object = None  # of the choice that is followed
        self._has_deltas = False
        self._tool_calls: dict[object, _ToolCall] = {}

    def feed(self, data: dict[str, Any]) -> Chunk:
        """Return what this event adds. Missing or malformed fields are ignored."""
        choice = self._select_choice(data)
        chunk = parse_chunk(data, choice)
        content, is_message = self._parse_content(data, choice)
        self.other_types.update(content.other_types[:MAX_TOOL_CALLS])
        state = (is_message, self._has_deltas, chunk.finish is not None)
        reasoning = self._reasoning.feed(content.reasoning, *state)
        text = self._text.feed(content.text, *state)
        self._has_deltas = self._has_deltas or (bool(content) and not is_message)
        if text:
            reasoning += self._reasoning.repairer.flush()
        return replace(chunk, text=text, reasoning=reasoning)

    def flush(self) -> Chunk:
        """Return what was held back, at the end of the answer."""
        return Chunk(text=self._text.repairer.flush(), reasoning=self._reasoning.repairer.flush())

    @property
    def tool_calls(self) -> list[str]:
        """The tool calls so far, each as ``name(arguments)``, shortened."""
        return [f"{call.name}({call.arguments})" for call in self._tool_calls.values()]

    def _select_choice(self, data: dict[str, Any]) -> dict[str, Any]:
        """The choice that is followed: the first one that was ever sent."""
        choices = data.get("choices")
        listed = choices if isinstance(choices, list) else [choices]
        found = [choice for choice in listed if isinstance(choice, dict)]
        if found and self._index is None:
            self._index = found[0].get("index", 0)
        followed = (None, self._index)
        return next((choice for choice in found if choice.get("index") in followed), {})

    def _parse_content(
        self, data: dict[str, Any], choice: dict[str, Any]
    ) -> tuple[MessageContent, bool]:
        """The content of an event, and whether it is a whole message rather than a delta."""
        delta, message = choice.get("delta"), choice.get("message")
        for source in (delta, message):
            if isinstance(source, dict):
                self._add_tool_calls(source)
        content = parse_message(delta if isinstance(delta, dict) else {"content": delta})
        if content:
            return content, False
        if message:
            return parse_message(
                message if isinstance(message, dict) else {"content": message}
            ), True
        if choice.get("text"):
            return parse_message({"content": choice["text"]}), False
        if not data.get("choices") and isinstance(data.get("message"), dict):  # Ollama's own format
            self._add_tool_calls(data["message"])
            return parse_message(data["message"]), False
        return content, False

    def _add_tool_calls(self, message: dict[str, Any]) -> None:
        calls = message.get("tool_calls")
        listed = calls if isinstance(calls, list) else []
        if isinstance(message.get("function_call"), dict):
            listed = [*listed, {"function": message["function_call"]}]
        for position, call in enumerate(listed[:MAX_TOOL_CALLS]):
            function = call.get("function") if isinstance(call, dict) else None
            if not isinstance(function, dict):
                continue
            index = call.get("index")
            key = index if isinstance(index, int) else position
            if key in self._tool_calls or len(self._tool_calls) < MAX_TOOL_CALLS:
                self._tool_calls.setdefault(key, _ToolCall()).feed(function)


class _TextField:
    """The text or the reasoning of a reply, with what was received, to recognize repetitions."""

    def __init__(self) -> None:
        self.repairer = SurrogateRepairer()
        self._received = io.StringIO(newline="")
        self._chars = 0
        self._count = 0
        self._cumulative = True  # whether each whole message contains all text before it

    def feed(self, value: str, is_message: bool, has_deltas: bool, is_last: bool) -> str:
        """Return the text that `value` adds.

        Args:
            is_message: `value` is of a whole message.
            has_deltas: deltas came before, so that a whole message repeats them.
            is_last: the same event has a finish reason.
        """
        if not value:
            return ""
        if self._chars and is_message and (has_deltas or self._cumulative):
            received = self._received.getvalue()
            if value.startswith(received):
                value = value[len(received) :]
            elif has_deltas:
                value = ""  # the same text in another spelling
            else:
                self._cumulative = False
        elif is_last and self._count > 1 and len(value) == self._chars >= MIN_REPEAT_CHARS:
            value = "" if value == self._received.getvalue() else value
        if not value:
            return ""
        self._received.write(value)
        self._chars += len(value)
        self._count += 1
        return self.repairer.feed(value)


class _ToolCall:
    """A tool call that arrives in pieces, as much of it as a message shows."""

    def __init__(self) -> None:
        self.name = ""
        self._arguments = ""

    def feed(self, function: dict[str, Any]) -> None:
        name, arguments = function.get("name"), function.get("arguments")
        if isinstance(name, str) and not self.name:
            self.name = repair_surrogates(name[:MAX_ARGUMENT_CHARS])
        if isinstance(arguments, str) and len(self._arguments) < MAX_ARGUMENT_CHARS:
            self._arguments += arguments[:MAX_ARGUMENT_CHARS]
        elif isinstance(arguments, dict):
            self._arguments = str(arguments)[:MAX_ARGUMENT_CHARS]

    @property
    def arguments(self) -> str:
        return repair_surrogates(self._arguments)
