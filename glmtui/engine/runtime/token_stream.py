"""TokenStream: one reply as it is generated, as ids or as text; when it ends, and what it took.

Knows limits, stop ids and clocks; how a token comes about is the model's business.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from glmtui.chat import FinishReason, GenerationStats, SamplingParams
from glmtui.engine.api import PrefillProgress, Reply
from glmtui.engine.hardware.memory import is_out_of_memory, out_of_memory
from glmtui.engine.tokenization.detokenizer import Detokenizer
from glmtui.engine.tokenization.protocols import ToolChatFormat
from glmtui.errors import EngineError
from glmtui.language import _

if TYPE_CHECKING:
    from glmtui.engine.runtime.model_runner import LoadedModel


class TokenStream:
    """A reply as it is generated: iterate for text, or call `ids` to iterate token ids.

    Attributes:
        dropped_turns: how many of the oldest messages were left out of the prompt.
        goes_on: whether the reply continues one, so that its first space is meant.
        tools_declared: whether the prompt offers tools.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        prompt: list[int],
        params: SamplingParams,
        limit: int,
        cancelled: Callable[[], bool],
        on_prefill: Callable[[PrefillProgress], None],
    ) -> None:
        self._loaded = loaded
        self._prompt = prompt
        self._params = params
        self._limit = limit
        self._cancelled = cancelled
        self._on_prefill = on_prefill
        self._closed = False
        self._text: list[str] = []
        self._ids: list[int] = []
        self._finish: FinishReason = "cancelled"
        self._stats = GenerationStats(prompt_tokens=len(prompt))
        self.dropped_turns = 0
        self.goes_on = False
        self.tools_declared = False

    def __iter__(self) -> Iterator[str]:
        tokenizer = self._loaded.tokenizer
        detokenizer = Detokenizer(
            tokenizer.token_bytes,
            strips_leading_space=tokenizer.strips_leading_space and not self.goes_on,
        )
        # what calls tools begins with a line of metadata, which is empty for plain talk
        begun = self.goes_on or not isinstance(self._loaded.chat_format, ToolChatFormat)
        for token in self.ids():
            text = detokenizer.feed(token)
            text = text if begun else text.lstrip()
            if text:
                begun = True
                self._text.append(text)
                yield text
        if text := detokenizer.flush():
            self._text.append(text)
            yield text

    def ids(self) -> Iterator[int]:
        """Generates the reply's ids, stop ids left out.

        Raises:
            OutOfMemory: no room on the device; what was generated is kept in `result`.
            EngineError: the model failed otherwise.
        """
        try:
            yield from self._generate()
        except EngineError:
            self._finish = "error"
            raise
        except (RuntimeError, MemoryError) as error:  # torch's, out of memory among them
            self._finish = "error"
            raise self._explained(error) from error

    def _generate(self) -> Iterator[int]:
        loaded, ids = self._loaded, self._ids
        stop_ids = loaded.stop_ids
        started = time.perf_counter()
        logits, reused = loaded.read(self._prompt, self._stopped, self._on_prefill)
        prefilled = first = time.perf_counter()
        if logits is None:
            return
        for token in loaded.draw(logits, self._prompt, self._params, self._limit):
            if not ids:
                first = time.perf_counter()
            if token in stop_ids:
                self._finish = "stop"
                return
            ids.append(token)
            self._stats = replace(
                self._stats,
                reused_tokens=reused,
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

    def _explained(self, error: RuntimeError | MemoryError) -> EngineError:
        if is_out_of_memory(error):
            self._loaded.forget()
            return out_of_memory(self._loaded.device)
        return EngineError(
            _("The model failed at its work: {error}").format(error=str(error).splitlines()[0]),
            _("Ask again; if it stays, load the model again or on another device."),
        )

    def _stopped(self) -> bool:
        return self._closed or self._cancelled()

    @property
    def result(self) -> Reply:
        text = "".join(self._text)
        stats = replace(self._stats, peak_memory=self._loaded.peak_memory)
        reply = Reply(text, tuple(self._ids), self._finish, stats, self.dropped_turns)
        if self.goes_on or not text:
            return reply
        chat_format = self._loaded.chat_format
        whole = self._finish == "stop"
        if not isinstance(chat_format, ToolChatFormat):
            return replace(reply, text=chat_format.postprocess(text)) if whole else reply
        # the pieces of a stream have a space where the text after a special token begins
        text = self._loaded.tokenizer.decode(self._ids)
        said = chat_format.messages(text)
        last = replace(said[-1], content=chat_format.postprocess(text))
        call = chat_format.tool_call(last, declared=self.tools_declared) if whole else None
        return replace(reply, text=last.content, messages=(*said[:-1], last), call=call)

    def close(self) -> None:
        self._closed = True
