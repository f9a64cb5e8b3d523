"""Protocols of what a model family brings for text: a tokenizer and a chat format."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from glmtui.chat import Message
from glmtui.engine.api import ToolCall


class Tokenizer(Protocol):
    """Text to ids and back. Text is only text: nothing in it becomes a special token."""

    @property
    def strips_leading_space(self) -> bool:
        """Whether a text's first token brings a space that `decode` drops."""
        ...

    def encode(self, text: str) -> list[int]: ...

    def decode(self, ids: Sequence[int]) -> str: ...

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes this id adds in the middle of a text; empty for special tokens."""
        ...


class ChatFormat(Protocol):
    """Messages to prompt ids, as the model was trained to see them."""

    stop_ids: frozenset[int]

    def encode(self, messages: Sequence[Message]) -> list[int]:
        """The ids of the conversation, ready for the reply (or in the middle of a last one)."""
        ...

    def postprocess(self, text: str) -> str:
        """A finished reply as it is shown and kept."""
        ...


@runtime_checkable
class ToolChatFormat(ChatFormat, Protocol):
    """The chat format of a model that calls tools: its replies begin with a line of metadata."""

    def messages(self, text: str) -> tuple[Message, ...]:
        """The assistant's messages in a reply, at least one, each with its metadata."""
        ...

    def tool_call(self, message: Message, *, declared: bool) -> ToolCall | None:
        """The tool call that a message is; None for plain talk.

        Args:
            declared: whether the prompt declared tools; only then can there be arguments.
        """
        ...
