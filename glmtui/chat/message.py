"""Message: one entry of a conversation, and what generating a reply cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

Role = Literal["system", "user", "assistant", "observation"]
FinishReason = Literal["stop", "length", "cancelled", "error"]

# Limits of a plausible measurement. Values outside come from a wrong clock or a damaged file.
MAX_RATE = 1e9  # tokens per second
MAX_COUNT = 1e15  # tokens, or seconds


@dataclass(frozen=True, slots=True)
class GenerationStats:
    """What one reply cost.

    Attributes:
        prompt_tokens: length of the prompt.
        reused_tokens: how many of these were still in the KV cache.
        generated_tokens: length of the reply.
        prefill_seconds: time for the rest of the prompt.
        decode_seconds: time from the first generated token to the last.
        first_token_seconds: time from the request to the first generated token.
        peak_memory: maximum number of bytes in use so far, on all GPUs of the model or else in the
            whole process; None if unknown.
    """

    prompt_tokens: int = 0
    reused_tokens: int = 0
    generated_tokens: int = 0
    prefill_seconds: float = 0.0
    decode_seconds: float = 0.0
    first_token_seconds: float = 0.0
    peak_memory: int | None = None

    @property
    def prefill_rate(self) -> float | None:
        """Prompt tokens per second, without the reused ones; None if not measured."""
        return _rate(self.prompt_tokens - self.reused_tokens, self.prefill_seconds)

    @property
    def decode_rate(self) -> float | None:
        """Generated tokens per second, without the first one; None if not measured."""
        return _rate(self.generated_tokens - 1, self.decode_seconds)


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a conversation.

    Attributes:
        id: unique in its conversation; empty until the message is added to one.
        parent: id of the previous message; None for the first one.
        model: the model that wrote it (replies only).
        finish_reason: why a reply ended; None while it is written, or after a crash.
        error: the error that ended a reply with finish_reason "error".
        metadata: the text beside the role in the prompts of ChatGLM3 and GLM-4: the name of the
            tool that a reply calls. Empty otherwise.
        tools: declarations of the tools that a system prompt offers (see `with_tools`). They are
            sent to the model and never saved.
    """

    role: Role
    content: str
    id: str = ""
    parent: str | None = None
    created: datetime | None = None
    model: str = ""
    finish_reason: FinishReason | None = None
    stats: GenerationStats | None = None
    error: str = ""
    metadata: str = ""
    tools: tuple[Mapping[str, Any], ...] = ()


def _rate(count: int, seconds: float) -> float | None:
    """Tokens per second; None if no machine can have measured it."""
    if not (0 < count < MAX_COUNT and count / MAX_RATE < seconds < MAX_COUNT):
        return None
    return count / seconds
