"""LoadedModel: a decoder with its caches, and the work of a reply: prefix reuse, prefill, steps.

The reply itself, and when it ends, is a `TokenStream`. Knows no files and no screens.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from glmtui.chat import Message, SamplingParams
from glmtui.engine.api import (
    ChatFormat,
    LoadedInfo,
    LoadOptions,
    PrefillProgress,
    Tokenizer,
)
from glmtui.engine.hardware.heap import trim_heap
from glmtui.engine.hardware.memory import peak_memory
from glmtui.engine.nn.decoder import Decoder
from glmtui.engine.runtime.async_decode import async_decode
from glmtui.engine.runtime.autotune import ChunkPacer, ThreadPacer
from glmtui.engine.runtime.context_window import fit_prompt
from glmtui.engine.runtime.cuda_graph import GraphedSteps
from glmtui.engine.runtime.prefix_cache import PrefixCache, cache_budget
from glmtui.engine.runtime.prompt_lookup import GUESSES, PromptLookup
from glmtui.engine.runtime.sampling import DeviceSampler, make_sampler
from glmtui.engine.runtime.token_stream import TokenStream
from glmtui.errors import BadCheckpoint, PromptTooLong, UnsupportedModel, UsageError
from glmtui.language import _

PREFILL_CHUNK = {"cpu": (128, 512), "cuda": (2048, 2048)}  # tokens at once, from and to
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
        self._caches = PrefixCache(model, self.context_length, dtype, device, budget)
        self._speculation = options.speculation if model.rewinds else "off"
        graphed = model.rewinds and not model.layer_devices
        self._graphs = GraphedSteps(model) if device.type == "cuda" and graphed else None
        # guesses need each token at once, and were never measured faster there
        self._overlaps = self._graphs is not None and self._speculation != "on"
        self._pacer: ThreadPacer | None = None
        self._chunks = ChunkPacer(*PREFILL_CHUNK[device.type])

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

        Raises as `check_ids`.
        """
        self.check_ids(ids)
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
        """Starts a reply to prompt ids.

        Raises as `check_ids`, and UsageError where there are none.
        """
        self.check_ids(prompt)
        if not prompt:
            raise UsageError(_("There is no prompt: a reply needs at least one token to follow."))
        limit = min(params.max_length or self.context_length, self.context_length) - len(prompt)
        return TokenStream(
            self,
            list(prompt),
            params,
            min(params.max_new_tokens or limit, limit),
            cancelled,
            on_prefill,
        )

    def check_ids(self, ids: Sequence[int]) -> None:
        """Whether the model has a row for each id; one without would be read past its memory.

        Raises:
            TypeError: one is no whole number.
            UsageError: one is below zero, or the row of an image token that was left out.
            BadCheckpoint: one is above the vocabulary, as the tokenizer of another model gives it.
            PromptTooLong: there are more than the context length.
        """
        if len(ids) > self.context_length:
            raise PromptTooLong(
                _("The prompt is {long:,} tokens long; {most:,} fit into the context.").format(
                    long=len(ids), most=self.context_length
                ),
                _("Shorten it, or raise load.context_length if the model allows more."),
            )
        known = [operator.index(token) for token in ids]
        least, most = min(known, default=self.model.first_id), max(known, default=0)
        if most >= self.model.vocabulary:
            raise BadCheckpoint(
                _(
                    "The tokenizer of {model} gives the id {token}; the model knows {vocabulary}."
                ).format(model=self.info.name, token=most, vocabulary=self.model.vocabulary),
                _("Tokenizer and weights are not of the same model; fetch it again: glmtui pull"),
            )
        if least < 0:
            raise UsageError(
                _("{token} is no token id.").format(token=least),
                _("Ids of {model} are whole numbers from {first} to {last}.").format(
                    model=self.info.name,
                    first=self.model.first_id,
                    last=self.model.vocabulary - 1,
                ),
            )
        if least < self.model.first_id:
            raise UsageError(
                _(
                    "The id {token} is an image token of {model}, which was left out of memory."
                ).format(token=least, model=self.info.name),
                _("Set load.slim to false to keep image tokens."),
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
        cache.whole = len(prompt)
        reused = cache.offset
        logits = None
        on_prefill(PrefillProgress(0, len(prompt) - reused))
        while cache.offset < len(prompt):
            if cancelled():
                return None, reused
            part = prompt[cache.offset :]
            if self.model.causal:
                part = part[: self._chunks.tokens]
            with self._chunks.reading(len(part)):
                logits = self.step(part)
                if logits.is_cuda:  # what was launched is not done yet
                    torch.cuda.current_stream(logits.device).synchronize()
            on_prefill(PrefillProgress(cache.offset - reused, len(prompt) - reused))
        return logits, reused

    def draw(
        self, logits: Tensor, prompt: Sequence[int], params: SamplingParams, room: int
    ) -> Iterator[int]:
        """The ids of a reply as they are drawn; one counts as read when the next is asked for.

        Args:
            logits: after the prompt, which was read.
            room: how many ids there will be at most.
        """
        if self._overlaps:
            sampler = DeviceSampler(params, prompt, len(logits), logits.device)
            return async_decode(self, sampler, logits, prompt, room)
        return PromptLookup(self, prompt, room, self._speculation).draw(
            logits, make_sampler(params)
        )

    def step(self, ids: Sequence[int], *, last_only: bool = True) -> Tensor:
        """Feeds ids behind what is cached.

        Returns:
            Logits after the last, float32 [vocab], or after each, [len(ids), vocab].
        """
        logits = self.feed(torch.tensor([list(ids)], device=self.device), last_only=last_only)
        self.note(ids)
        return logits

    @torch.inference_mode()
    def feed(self, ids: Tensor, *, last_only: bool = True) -> Tensor:
        """As `step`, with ids, int64 [1, S], that may be known to the device alone so far.

        They count as read once `note` is told of them.
        """
        with self._paced(ids.shape[1]):
            decode = self._graphs or self.model
            logits: Tensor = decode(ids, self._caches.cache, last_only=last_only)[0]
        return logits[-1] if last_only else logits

    def note(self, ids: Sequence[int]) -> None:
        """Says what was fed."""
        self._caches.note(ids)

    def rewind(self, tokens: int) -> None:
        """Takes back the last ids that were fed."""
        self._caches.rewind(tokens)

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
        else:
            trim_heap()

    def close(self) -> None:
        """Gives the memory of weights and caches back."""
        self.forget()
        del self.model, self._caches, self._graphs
        trim_heap()
