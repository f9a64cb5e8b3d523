"""One reply from a model in memory: prompt, prefix reuse, chunked prefill, decode loop.

`LoadedModel` holds a decoder and its caches; `TokenStream` is one reply, as ids or as text.
Neither knows files or screens.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace

import torch
from torch import Tensor

from glmtui.chat import FinishReason, GenerationStats, Message, SamplingParams
from glmtui.engine.api import (
    ChatFormat,
    LoadedInfo,
    LoadOptions,
    PrefillProgress,
    Reply,
    Tokenizer,
    ToolChatFormat,
)
from glmtui.engine.caches import CacheShelf, cache_budget
from glmtui.engine.cuda_graph import GraphedSteps
from glmtui.engine.decoder import Decoder
from glmtui.engine.detokenizer import Detokenizer
from glmtui.engine.lookahead import GUESSES, Lookahead
from glmtui.engine.no_memory import is_out_of_memory, out_of_memory
from glmtui.engine.pacing import ThreadPacer
from glmtui.engine.peak import peak_memory
from glmtui.engine.prompt import fit_prompt
from glmtui.engine.sampling import make_sampler
from glmtui.errors import BadCheckpoint, EngineError, UnsupportedModel
from glmtui.language import _

PREFILL_CHUNK = {"cpu": 512, "cuda": 2048}
REPLY_ROOM = 256  # tokens kept free for the reply when old turns have to leave the prompt


class LoadedModel:
    """A model in memory that chats: an `api.ChatModel`. Made by the loader; one thread's own.

    Args:
        model: filled and prepared.
        tokenizer, chat_format: None where the folder had no tokenizer files; then only ids work.
        stop_ids: ids that end a reply.
        device: where ids go in.
        devices: all that hold a part of it; left out, `device` alone.
        options: how it was asked to be held.
    """

    def __init__(
        self,
        model: Decoder,
        tokenizer: Tokenizer | None,
        chat_format: ChatFormat | None,
        stop_ids: frozenset[int],
        info: LoadedInfo,
        *,
        dtype: torch.dtype,
        device: torch.device,
        devices: Sequence[torch.device] = (),
        options: LoadOptions = LoadOptions(),
    ) -> None:
        self.model = model
        self._tokenizer = tokenizer
        self._chat_format = chat_format
        self.stop_ids = stop_ids
        self.info = info
        self.dtype = dtype
        self.device = device
        self._devices = devices or (device,)
        budget = cache_budget(options.cache_gb, device)
        self._caches = CacheShelf(model, self.context_length, dtype, device, budget)
        self._speculation = options.speculation if model.rewinds else "off"
        graphed = model.rewinds and not model.spread
        self._graphs = GraphedSteps(model) if device.type == "cuda" and graphed else None
        self._pacer: ThreadPacer | None = None

    @property
    def tokenizer(self) -> Tokenizer:
        """Raises UnsupportedModel where the folder had no tokenizer files."""
        if self._tokenizer is None:
            raise UnsupportedModel(
                _("{model} came without tokenizer files, so it knows ids but no text.").format(
                    model=self.info.name
                ),
                _("Put the model's own tokenizer file into its folder."),
            )
        return self._tokenizer

    @property
    def chat_format(self) -> ChatFormat:
        """Raises UnsupportedModel where the folder had no tokenizer files."""
        if self._chat_format is None:
            raise UnsupportedModel(
                _("{model} came without tokenizer files, so it can only go on from ids.").format(
                    model=self.info.name
                ),
                _("Put the model's own tokenizer file into its folder."),
            )
        return self._chat_format

    @property
    def context_length(self) -> int:
        assert self.info.context_length is not None
        return self.info.context_length

    @torch.inference_mode()
    def logits(self, ids: Sequence[int]) -> Tensor:
        """What the model thinks after each of these ids, without a cache.

        Returns:
            float32 [len(ids), vocab], on the CPU.
        """
        batch = torch.tensor([list(ids)], device=self.device)
        logits: Tensor = self.model(batch)[0]
        return logits.float().cpu()

    def stream(
        self,
        messages: Sequence[Message],
        params: SamplingParams | None = None,
        *,
        cancelled: Callable[[], bool] = lambda: False,
        on_prefill: Callable[[PrefillProgress], None] = lambda progress: None,
    ) -> TokenStream:
        """Starts a reply; see `api.ChatModel.stream`.

        Raises:
            PromptTooLong: the last question alone does not fit.
        """
        params = (params or SamplingParams()).over(self.info.defaults)
        limit = min(params.max_length or self.context_length, self.context_length)
        room = min(params.max_new_tokens or REPLY_ROOM, REPLY_ROOM, max(limit // 4, 1))
        prompt, dropped = fit_prompt(self.chat_format, messages, limit - room, limit - 1)
        stream = self.stream_ids(prompt, params, cancelled=cancelled, on_prefill=on_prefill)
        stream.dropped_turns = dropped
        stream.goes_on = bool(messages) and messages[-1].role == "assistant"
        stream.tools_declared = any(message.tools for message in messages)
        return stream

    def stream_ids(
        self,
        prompt: Sequence[int],
        params: SamplingParams,
        *,
        cancelled: Callable[[], bool] = lambda: False,
        on_prefill: Callable[[PrefillProgress], None] = lambda progress: None,
    ) -> TokenStream:
        """Starts a reply to prompt ids, which must be fewer than the context length.

        Raises BadCheckpoint if the model does not know one of them.
        """
        if max(prompt, default=0) >= self.model.vocabulary:  # on a GPU, the end of all work there
            raise BadCheckpoint(
                _(
                    "The tokenizer of {model} gives the id {token}; the model knows {vocabulary}."
                ).format(model=self.info.name, token=max(prompt), vocabulary=self.model.vocabulary),
                _("Tokenizer and weights are not of the same model; fetch it again: glmtui pull"),
            )
        limit = min(params.max_length or self.context_length, self.context_length) - len(prompt)
        return TokenStream(
            self,
            list(prompt),
            params,
            min(params.max_new_tokens or limit, limit),
            cancelled,
            on_prefill,
        )

    @torch.inference_mode()
    def read(
        self,
        prompt: list[int],
        cancelled: Callable[[], bool],
        on_prefill: Callable[[PrefillProgress], None],
    ) -> tuple[Tensor | None, int]:
        """Prefills what of the prompt is not in the cache yet, in chunks.

        Returns:
            Logits after the last id, float32 [vocab], or None if cancelled; and how many ids were
            still in the cache.
        """
        cache = self._caches.open(prompt)
        reused = cache.offset
        chunk = PREFILL_CHUNK.get(self.device.type, 512) if self.model.causal else len(prompt)
        logits = None
        on_prefill(PrefillProgress(0, len(prompt) - reused))
        while cache.offset < len(prompt):
            if cancelled():
                return None, reused
            part = prompt[cache.offset : cache.offset + chunk]
            logits = self.step(part)
            on_prefill(PrefillProgress(cache.offset - reused, len(prompt) - reused))
        return logits, reused

    @torch.inference_mode()
    def step(self, ids: Sequence[int], *, last_only: bool = True) -> Tensor:
        """Feeds ids behind what is cached.

        Returns:
            Logits after the last, float32 [vocab], or after each, [len(ids), vocab].
        """
        batch = torch.tensor([list(ids)], device=self.device)
        with self._paced(len(ids)):
            decode = self._graphs or self.model
            logits: Tensor = decode(batch, self._caches.cache, last_only=last_only)[0]
        self._caches.note(ids)
        return logits[-1] if last_only else logits

    def rewind(self, tokens: int) -> None:
        """Takes back the last ids that were fed."""
        self._caches.rewind(tokens)

    def lookahead(self, prompt: Sequence[int], room: int) -> Lookahead:
        """The decode steps of one reply of at most `room` tokens to a prompt that was read."""
        return Lookahead(self, prompt, room, self._speculation)

    def _paced(self, tokens: int) -> AbstractContextManager[None]:
        """On a CPU: the number of threads that suits a step of so many tokens."""
        if self.device.type != "cpu":
            return nullcontext()
        if self._pacer is None:
            self._pacer = ThreadPacer(torch.get_num_threads(), torch.set_num_threads)
        if tokens == 1:
            return self._pacer.step()
        if tokens > 1 + GUESSES:
            self._pacer.all_threads()
        return nullcontext()

    @property
    def peak_memory(self) -> int | None:
        """Most bytes that were ever in use; see `peak.peak_memory`."""
        return peak_memory(self._devices)

    def forget(self) -> None:
        """Gives the memory of all KV caches back; the next prompt is read from its start."""
        self._caches.clear()
        if self._graphs is not None:
            self._graphs.forget()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def close(self) -> None:
        """Gives the memory of weights and caches back."""
        self.forget()
        del self.model, self._caches, self._graphs


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
        sampler = make_sampler(self._params)
        stop_ids = loaded.stop_ids
        started = time.perf_counter()
        logits, reused = loaded.read(self._prompt, self._stopped, self._on_prefill)
        prefilled = first = time.perf_counter()
        ahead = loaded.lookahead(self._prompt, self._limit)
        while logits is not None:
            token = sampler(logits, self._prompt + ids if self._penalizes else ())
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
            logits = ahead.step(token)

    def _explained(self, error: RuntimeError | MemoryError) -> EngineError:
        if is_out_of_memory(error):
            self._loaded.forget()
            return out_of_memory(self._loaded.device)
        return EngineError(
            _("The model failed at its work: {error}").format(error=str(error).splitlines()[0]),
            _("Ask again; if it stays, load the model again or on another device."),
        )

    @property
    def _penalizes(self) -> bool:
        return self._params.repetition_penalty not in (None, 1)

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
