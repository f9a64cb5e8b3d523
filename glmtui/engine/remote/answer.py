"""A server's answer, event by event, as the chunks of one reply.

Holds what one event alone does not tell: a character whose half has come, whether a whole message
repeats what was streamed, which of several choices is followed. Knows the JSON, no sockets.
"""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

from glmtui.engine.remote.chat_completions import Chunk, parse_chunk
from glmtui.engine.remote.content import MessageContent, read_message
from glmtui.engine.remote.text_pieces import TextPieces, whole_characters

MAX_TOOLS = 8
MAX_ARGUMENTS = 500
REPEATED_CHARS = 24  # so many characters are not said twice in a row by chance


class Answer:
    """Reads the events of one answer, or the one object of an answer that is not streamed.

    Attributes:
        others: the types of what came and cannot be shown, such as "image_url".
    """

    def __init__(self) -> None:
        self.others: set[str] = set()
        self._text = _Field()
        self._reasoning = _Field()
        self._index: object = None
        self._streams = False  # whether deltas have come
        self._tools: dict[object, _Tool] = {}

    def read(self, data: dict[str, Any]) -> Chunk:
        """What this event adds; what is missing or odd in it is left out."""
        choice = self._choice(data)
        chunk = parse_chunk(data, choice)
        said, whole = self._said(data, choice)
        self.others.update(said.others[:MAX_TOOLS])
        ends = chunk.finish is not None
        reasoning = self._reasoning.take(said.reasoning, whole, self._streams, ends=ends)
        text = self._text.take(said.text, whole, self._streams, ends=ends)
        self._streams = self._streams or (bool(said) and not whole)
        if text:
            reasoning += self._reasoning.pieces.end()
        return replace(chunk, text=text, reasoning=reasoning)

    def end(self) -> Chunk:
        """What was held back, once the answer is complete."""
        return Chunk(text=self._text.pieces.end(), reasoning=self._reasoning.pieces.end())

    @property
    def tools(self) -> list[str]:
        """The tool calls that came, as a name and arguments each."""
        return [f"{tool.name}({tool.arguments})" for tool in self._tools.values()]

    def _choice(self, data: dict[str, Any]) -> dict[str, Any]:
        """The choice that is followed: of several the first that ever came."""
        choices = data.get("choices")
        listed = choices if isinstance(choices, list) else [choices]
        found = [choice for choice in listed if isinstance(choice, dict)]
        if found and self._index is None:
            self._index = found[0].get("index", 0)
        followed = (None, self._index)
        return next((choice for choice in found if choice.get("index") in followed), {})

    def _said(self, data: dict[str, Any], choice: dict[str, Any]) -> tuple[MessageContent, bool]:
        """What is said, and whether it may be all of it rather than the next piece."""
        message = choice.get("message")
        for source in (choice.get("delta"), message):
            if isinstance(source, dict):
                self._note_tools(source)
        delta = choice.get("delta")
        said = read_message(delta) if isinstance(delta, dict) else read_message({"content": delta})
        if said:
            return said, False
        if message:
            source = message if isinstance(message, dict) else {"content": message}
            return read_message(source), True
        if choice.get("text"):
            return read_message({"content": choice["text"]}), False
        if not data.get("choices") and isinstance(data.get("message"), dict):  # Ollama's own form
            self._note_tools(data["message"])
            return read_message(data["message"]), False
        return said, False

    def _note_tools(self, message: dict[str, Any]) -> None:
        calls = message.get("tool_calls")
        listed = calls if isinstance(calls, list) else []
        if isinstance(message.get("function_call"), dict):
            listed = [*listed, {"function": message["function_call"]}]
        for place, call in enumerate(listed[:MAX_TOOLS]):
            function = call.get("function") if isinstance(call, dict) else None
            if not isinstance(function, dict):
                continue
            index = call.get("index")
            key = index if isinstance(index, int) else place
            if key in self._tools or len(self._tools) < MAX_TOOLS:
                self._tools.setdefault(key, _Tool()).add(function)


class _Field:
    """One text of a reply: what of it came, to know it again."""

    def __init__(self) -> None:
        self.pieces = TextPieces()
        self._raw = io.StringIO(newline="")
        self._chars = 0
        self._count = 0
        self._cumulative = True  # whether whole messages hold all that was said before

    def take(self, value: str, whole: bool, streams: bool, *, ends: bool) -> str:
        """What `value` adds.

        Args:
            whole: it is of a whole message.
            streams: there were pieces before, so that a whole message repeats them.
            ends: the same event says that the reply ends.
        """
        if not value:
            return ""
        if self._chars and whole and (streams or self._cumulative):
            before = self._raw.getvalue()
            if value.startswith(before):
                value = value[len(before) :]
            elif streams:
                value = ""  # the same in other words: read once
            else:
                self._cumulative = False
        elif ends and self._count > 1 and len(value) == self._chars >= REPEATED_CHARS:
            value = "" if value == self._raw.getvalue() else value
        if not value:
            return ""
        self._raw.write(value)
        self._chars += len(value)
        self._count += 1
        return self.pieces.add(value)


class _Tool:
    """A tool call that comes in pieces; no more is kept than can be shown."""

    def __init__(self) -> None:
        self.name = ""
        self._arguments = ""

    def add(self, function: dict[str, Any]) -> None:
        name, arguments = function.get("name"), function.get("arguments")
        if isinstance(name, str) and not self.name:
            self.name = whole_characters(name[:MAX_ARGUMENTS])
        if isinstance(arguments, str) and len(self._arguments) < MAX_ARGUMENTS:
            self._arguments += arguments[:MAX_ARGUMENTS]
        elif isinstance(arguments, dict):
            self._arguments = str(arguments)[:MAX_ARGUMENTS]

    @property
    def arguments(self) -> str:
        return whole_characters(self._arguments)
