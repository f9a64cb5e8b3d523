"""TokenStream: one reply as it is generated, as text or as token ids, and why it ends."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import torch

from glmtui.chat import FinishReason, GenerationStats
from glmtui.engine.api import Reply
from glmtui.engine.hardware.memory import peak_memory
from glmtui.engine.tokenization.detokenizer import Detokenizer
from glmtui.engine.tokenization.protocols import ChatFormat, Tokenizer, ToolChatFormat
from glmtui.errors import EngineError, UnsupportedModel
from glmtui.language import _


@dataclass(frozen=True, slots=True)
class Decoding:
    """A reply whose prompt has been read.

    Attributes:
        reused_tokens: how many tokens of the prompt were in the KV cache before.
        tokens: ids as they are sampled; the step after an id runs when the next one is requested.
    """

    reused_tokens: int
    tokens: Iterator[int]


Prefill: TypeAlias = Callable[[Callable[[], bool]], Decoding | None]
"""Reads the prompt. Its argument tells it to stop early; then it returns None."""


class ReplyText:
    """Converts the token ids of a reply to text.

    Args:
        continues: whether the reply continues a message, so that its leading space is kept.
        tools_declared: whether the prompt declares tools.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        chat_format: ChatFormat,
        *,
        continues: bool = False,
        tools_declared: bool = False,
    ) -> None:
        self._tokenizer = tokenizer
        self._chat_format = chat_format
        self._continues = continues
        self._tools_declared = tools_declared

    def pieces(self, ids: Iterable[int]) -> Iterator[str]:
        """The text as it grows; no piece is empty."""
        detokenizer = Detokenizer(
            self._tokenizer.token_bytes,
            strips_leading_space=self._tokenizer.strips_leading_space and not self._continues,
        )
        # A model that calls tools begins with a line of metadata, which is empty in plain answers.
        begun = self._continues or not isinstance(self._chat_format, ToolChatFormat)
        for token in ids:
            text = detokenizer.feed(token)
            text = text if begun else text.lstrip()
            if text:
                begun = True
                yield text
        if text := detokenizer.flush():
            yield text

    def finish(self, reply: Reply) -> Reply:
        """The reply with its text postprocessed and its tool call found."""
        if self._continues or not reply.text:
            return reply
        complete = reply.finish_reason == "stop"
        if not isinstance(self._chat_format, ToolChatFormat):
            if not complete:
                return reply
            return replace(reply, text=self._chat_format.postprocess(reply.text))
        # The streamed text has a space after each special token; decoding all ids at once has not.
        text = self._tokenizer.decode(reply.ids)
        *earlier, last = self._chat_format.messages(text)
        last = replace(last, content=self._chat_format.postprocess(text))
        call = None
        if complete:
            call = self._chat_format.tool_call(last, declared=self._tools_declared)
        return replace(reply, text=last.content, messages=(*earlier, last), call=call)


class TokenStream:
    """A reply as it is generated: iterate for text, or call `ids` to iterate token ids.

    Args:
        prefill: reads the prompt and starts to decode.
        limit: maximum number of tokens.
        stop_ids: ids that end the reply.
        text: None if the model has no tokenizer; then only `ids` works.
        devices: where the model runs, for `GenerationStats.peak_memory`.
        dropped_turns: how many of the oldest messages were left out of the prompt.
    """

    def __init__(
        self,
        prefill: Prefill,
        *,
        prompt_tokens: int,
        limit: int,
        stop_ids: frozenset[int],
        text: ReplyText | None,
        cancelled: Callable[[], bool],
        devices: Sequence[torch.device],
        dropped_turns: int = 0,
    ) -> None:
        self._prefill = prefill
        self._limit = limit
        self._stop_ids = stop_ids
        self._reply_text = text
        self._cancelled = cancelled
        self._devices = devices
        self._dropped_turns = dropped_turns
        self._closed = False
        self._text: list[str] = []
        self._ids: list[int] = []
        self._finish: FinishReason = "cancelled"
        self._stats = GenerationStats(prompt_tokens=prompt_tokens)

    def __iter__(self) -> Iterator[str]:
        if self._reply_text is None:
            raise no_tokenizer()
        for text in self._reply_text.pieces(self.ids()):
            self._text.append(text)
            yield text

    def ids(self) -> Iterator[int]:
        """Generates the reply's ids, without the stop id.

        Raises:
            OutOfMemory: the device is full; `result` holds what was generated.
            EngineError: the model failed in another way.
        """
        try:
            yield from self._generate()
        except EngineError:
            self._finish = "error"
            raise

    def _generate(self) -> Iterator[int]:
        ids = self._ids
        started = time.perf_counter()
        decoding = self._prefill(self._stopped)
        prefilled = first = time.perf_counter()
        if decoding is None:
            return
        for token in decoding.tokens:
            if not ids:
                first = time.perf_counter()
            if token in self._stop_ids:
                self._finish = "stop"
                return
            ids.append(token)
            self._stats = replace(
                self._stats,
                reused_tokens=decoding.reused_tokens,
                generated_tokens=len(ids),
                prefill_seconds=prefilled - started,
                first_token_seconds=first - started,
                decode_seconds=time.perf_counter() - first,
            )
            yield token
            if len(ids) >= self._limit:
                self._finish = "length"
                return
            if self._stopped():
                return

    def _stopped(self) -> bool:
        return self._closed or self._cancelled()

    @property
    def result(self) -> Reply:
        stats = replace(self._stats, peak_memory=peak_memory(self._devices))
        text, ids = "".join(self._text), tuple(self._ids)
        reply = Reply(text, ids, self._finish, stats, self._dropped_turns)
        return self._reply_text.finish(reply) if self._reply_text else reply

    def close(self) -> None:
        self._closed = True


def no_tokenizer() -> UnsupportedModel:
    """The error for text from a model whose folder had no tokenizer files."""
    return UnsupportedModel(
        _("The model has no tokenizer files, so it can only continue token ids."),
        _("Copy the model's tokenizer files into its folder."),
    )
