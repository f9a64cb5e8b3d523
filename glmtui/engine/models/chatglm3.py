"""ChatGLM3-6B: what differs from ChatGLM2-6B. Role tokens, tools, and what -32k scales.

Weights, tensor names and the tokenizer's file are ChatGLM2's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from glmtui.chat import Message, SamplingParams
from glmtui.chat.rounds import TRAINING_TIME
from glmtui.engine.api import ToolCall
from glmtui.engine.catalog.family_fields import read_fields
from glmtui.engine.models.chatglm2 import (
    ROPE_BASE,
    SPECIALS,
    Config,
    Model,
    original_config,
    sources,
    stop_ids,
)
from glmtui.engine.tokenization.hf_tokenizer import generation_ends
from glmtui.engine.tokenization.protocols import ChatFormat, Tokenizer
from glmtui.engine.tokenization.sentencepiece_tokenizer import SentencePieceTokenizer, load_pieces
from glmtui.engine.tokenization.tool_calls import (
    Tool,
    declared_for_chatglm3,
    python_arguments,
    read_call,
    split_reply,
)
from glmtui.errors import BadCheckpoint
from glmtui.language import _

__all__ = [
    "Config",
    "Model",
    "RoleFormat",
    "chat_format",
    "defaults",
    "load_config",
    "load_tokenizer",
    "sources",
    "stop_ids",
]

ROLES = ("<|system|>", "<|user|>", "<|assistant|>", "<|observation|>")


def load_config(raw: Mapping[str, Any]) -> Config:
    """The shape from a config.json of ChatGLM3-6B or -32k, which stretches the rotary base."""
    known = read_fields(raw, "chatglm3")
    return original_config(
        known,
        context_length=known["seq_length"],
        rope_base=ROPE_BASE * known["rope_ratio"],
    )


class SpecialTokenizer(Protocol):
    """A tokenizer that knows its special tokens by name."""

    @property
    def special(self) -> dict[str, int]: ...

    def encode(self, text: str) -> list[int]: ...


class RoleFormat:
    """Prompts of messages: a role token, a line of metadata, the content; no token at the end.

    Every line of metadata and every content is encoded on its own, as in training; the chat
    template in tokenizer_config.json, which is not, gives other ids. A reply to be continued is
    the last message, left open.

    Args:
        start: the marks before the first message.
        stop_ids: ids that end a reply, beside the tokens of who speaks next.

    Raises:
        BadCheckpoint: the tokenizer has no such tokens.
    """

    def __init__(
        self, tokenizer: SpecialTokenizer, start: Sequence[str], stop_ids: frozenset[int]
    ) -> None:
        lacking = sorted({*start, *ROLES} - tokenizer.special.keys())
        if lacking:
            raise BadCheckpoint(
                _("The tokenizer of this model has no {names}.").format(names=", ".join(lacking)),
                _("It is of another model; fetch this one again with: glmtui pull"),
            )
        self.tokenizer = tokenizer
        self._special = tokenizer.special
        self._start = [self._special[mark] for mark in start]
        self.stop_ids = stop_ids | {self._special["<|user|>"], self._special["<|observation|>"]}

    def encode(self, messages: Sequence[Message]) -> list[int]:
        ids = list(self._start)
        for message in messages:
            content = message.content
            if message.tools:
                content = self.declare(message.tools, content)
            ids.append(self._special[f"<|{message.role}|>"])
            ids += self.tokenizer.encode(f"{message.metadata}\n")
            ids += self.tokenizer.encode(content)
        if not messages or messages[-1].role != "assistant":
            ids.append(self._special["<|assistant|>"])  # it writes its own line of metadata
        return ids

    def messages(self, text: str) -> tuple[Message, ...]:
        """A finished reply as the messages it is; each that has metadata is a tool call."""
        return split_reply(text)

    def postprocess(self, text: str) -> str:
        """The last thing that a finished reply says, as the original shows it."""
        return split_reply(text)[-1].content.replace(*TRAINING_TIME)

    def tool_call(self, message: Message, *, declared: bool = True) -> ToolCall | None:
        """The tool call that a message of a reply is; None for plain talk; see `read_call`."""
        return read_call(message, python_arguments, declared=declared)

    def declare(self, tools: Sequence[Tool], prompt: str | None = None) -> str:
        """The system prompt that tells the model of these tools."""
        return declared_for_chatglm3(tools, prompt)


def load_tokenizer(folder: Path, raw: Mapping[str, Any]) -> Tokenizer | None:
    """The tokenizer of a folder, or None where it has no tokenizer.model."""
    processor = load_pieces(folder / "tokenizer.model")
    if processor is None:
        return None
    return SentencePieceTokenizer(processor, (*SPECIALS, *ROLES), readable=True)


def chat_format(tokenizer: Tokenizer, folder: Path, raw: Mapping[str, Any]) -> ChatFormat:
    assert isinstance(tokenizer, SentencePieceTokenizer)
    return RoleFormat(tokenizer, ("[gMASK]", "sop"), stop_ids(raw) | generation_ends(folder))


def defaults(folder: Path, raw: Mapping[str, Any]) -> SamplingParams:
    """The sampling parameters of the original's `model.chat`; top_k is generate's own."""
    return SamplingParams(
        temperature=0.8, top_k=50, top_p=0.8, do_sample=True, max_length=raw["seq_length"]
    )
