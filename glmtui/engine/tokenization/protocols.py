"""Protocols of what every model family provides for text: a tokenizer and a chat format."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from glmtui.chat import Message
from glmtui.engine.api import ToolCall


class Tokenizer(Protocol):
    """Text to ids and back. Text never becomes a special token, whatever it spells."""

    @property
    def strips_leading_space(self) -> bool:
        """Whether the first token of a text has a leading space that `decode` removes."""
        ...

    def encode(self, text: str) -> list[int]: ...

    def decode(self, ids: Sequence[int]) -> str: ...

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes this id adds in the middle of a text; empty for special tokens."""
        ...


class ChatFormat(Protocol):
    """Messages to prompt ids, in the format that the model was trained on."""

    stop_ids: frozenset[int]

    def encode(self, messages: Sequence[Message]) -> list[int]:
        """Ids of the conversation, up to where the reply begins or a last message continues."""
        ...

    def postprocess(self, text: str) -> str:
        """The text of a finished reply, as it is shown and saved."""
        ...


@runtime_checkable
class ToolChatFormat(ChatFormat, Protocol):
    """The chat format of a model that calls tools: its replies begin with a line of metadata."""

    def messages(self, text: str) -> tuple[Message, ...]:
        """The assistant's messages in a reply, at least one, each with its metadata."""
        ...

    def tool_call(self, message: Message, *, declared: bool) -> ToolCall | None:
        """The tool call in a message; None if it is a plain answer.

        Args:
            declared: whether the prompt declared tools; only then are there arguments.
        """
        ...
