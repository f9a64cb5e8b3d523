"""ChatGLM3-6B: ChatGLM2 with role tokens and tools, and with another scaling of -32k's positions.

Weights, tensor names and the tokenizer file are those of ChatGLM2.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from glmtui.chat import Message, SamplingParams
from glmtui.engine.api import ToolCall
from glmtui.engine.catalog.family_fields import read_fields
from glmtui.engine.models.chatglm2 import (
    ROPE_BASE,
    SPECIAL_TOKENS,
    Config,
    Model,
    make_config,
    stop_ids,
    weight_sources,
)
from glmtui.engine.models.chatglm_rounds import TRAINING_DATE
from glmtui.engine.tokenization.generation_config import read_eos_ids
from glmtui.engine.tokenization.protocols import ChatFormat, Tokenizer
from glmtui.engine.tokenization.sentencepiece_tokenizer import (
    SentencePieceTokenizer,
    load_sentencepiece,
)
from glmtui.engine.tokenization.tool_calls import (
    ToolDeclaration,
    chatglm3_tools_prompt,
    parse_python_arguments,
    parse_tool_call,
    split_reply,
)
from glmtui.errors import BadCheckpoint
from glmtui.language import _

__all__ = [
    "Config",
    "Model",
    "RoleFormat",
    "chat_format",
    "load_config",
    "load_tokenizer",
    "sampling_defaults",
    "stop_ids",
    "weight_sources",
]

ROLE_TOKENS = ("<|system|>", "<|user|>", "<|assistant|>", "<|observation|>")


def load_config(raw: Mapping[str, Any]) -> Config:
    """From a config.json of ChatGLM3-6B or -32k. Raises BadCheckpoint, UnsupportedModel.

    The -32k version scales the rotary base, where ChatGLM2's scales the positions.
    """
    fields = read_fields(raw, "chatglm3")
    return make_config(
        fields,
        context_length=fields["seq_length"],
        rope_base=ROPE_BASE * fields["rope_ratio"],
    )


class SpecialTokenizer(Protocol):
    """A tokenizer with the ids of its special tokens by name."""

    @property
    def special(self) -> dict[str, int]: ...

    def encode(self, text: str) -> list[int]: ...


class RoleFormat:
    """Prompts in which each message is a role token, a line of metadata, and the content.

    No token ends a message, so a reply to be continued is simply the last message. Metadata and
    content are encoded separately, as in training; the chat template in tokenizer_config.json
    encodes them together and so gives other ids.

    Args:
        start: the special tokens before the first message.
        stop_ids: ids that end a reply, in addition to the role tokens of the next speaker.

    Raises:
        BadCheckpoint: the tokenizer lacks these tokens.
    """

    def __init__(
        self, tokenizer: SpecialTokenizer, start: Sequence[str], stop_ids: frozenset[int]
    ) -> None:
        missing = sorted({*start, *ROLE_TOKENS} - tokenizer.special.keys())
        if missing:
            raise BadCheckpoint(
                _("The tokenizer of this model has no {names}.").format(names=", ".join(missing)),
                _("It belongs to another model. Download the model again with: glmtui pull"),
            )
        self.tokenizer = tokenizer
        self._special = tokenizer.special
        self._start_ids = [self._special[token] for token in start]
        self.stop_ids = stop_ids | {self._special["<|user|>"], self._special["<|observation|>"]}

    def encode(self, messages: Sequence[Message]) -> list[int]:
        ids = list(self._start_ids)
        for message in messages:
            content = message.content
            if message.tools:
                content = self.tools_prompt(message.tools, content)
            ids.append(self._special[f"<|{message.role}|>"])
            ids += self.tokenizer.encode(f"{message.metadata}\n")
            ids += self.tokenizer.encode(content)
        if not messages or messages[-1].role != "assistant":
            ids.append(self._special["<|assistant|>"])  # the model writes the metadata
        return ids

    def messages(self, text: str) -> tuple[Message, ...]:
        """The messages in a finished reply; those with metadata are tool calls."""
        return split_reply(text)

    def postprocess(self, text: str) -> str:
        """The last message of a finished reply, as the original shows it."""
        return split_reply(text)[-1].content.replace(*TRAINING_DATE)

    def tool_call(self, message: Message, *, declared: bool = True) -> ToolCall | None:
        """The tool call in a message of a reply; None for plain text."""
        return parse_tool_call(message, parse_python_arguments, declared=declared)

    def tools_prompt(self, tools: Sequence[ToolDeclaration], prompt: str | None = None) -> str:
        """The system prompt that declares these tools."""
        return chatglm3_tools_prompt(tools, prompt)


def load_tokenizer(folder: Path, raw: Mapping[str, Any]) -> Tokenizer | None:
    """The tokenizer of a folder; None without tokenizer.model. Raises BadCheckpoint."""
    sandboxed = load_sentencepiece(folder / "tokenizer.model")
    if sandboxed is None:
        return None
    return SentencePieceTokenizer(sandboxed, (*SPECIAL_TOKENS, *ROLE_TOKENS), decode_special=True)


def chat_format(tokenizer: Tokenizer, folder: Path, raw: Mapping[str, Any]) -> ChatFormat:
    assert isinstance(tokenizer, SentencePieceTokenizer)
    return RoleFormat(tokenizer, ("[gMASK]", "sop"), stop_ids(raw) | read_eos_ids(folder))


def sampling_defaults(folder: Path, raw: Mapping[str, Any]) -> SamplingParams:
    """The defaults of the original `model.chat`; top_k is the default of `generate`."""
    return SamplingParams(
        temperature=0.8, top_k=50, top_p=0.8, do_sample=True, max_length=raw["seq_length"]
    )
