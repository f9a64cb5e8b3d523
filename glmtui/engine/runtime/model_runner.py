"""LoadedModel: a decoder in memory with its KV caches, and the steps of a reply.

A reply is prefill, then decode; `TokenStream` turns it into text and decides when it ends.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor

from glmtui.chat import Message, SamplingParams
from glmtui.engine.api import PrefillProgress
from glmtui.engine.hardware.host_memory import trim_heap
from glmtui.engine.hardware.memory import is_out_of_memory, out_of_memory, peak_memory
from glmtui.engine.model_info import LoadedInfo, LoadOptions
from glmtui.engine.nn.decoder import Decoder
from glmtui.engine.runtime.async_decode import async_decode
from glmtui.engine.runtime.autotune import ChunkTuner, ThreadTuner
from glmtui.engine.runtime.context_window import fit_messages
from glmtui.engine.runtime.cuda_graph import CudaGraphRunner
from glmtui.engine.runtime.prefix_cache import PrefixCache, cache_budget
from glmtui.engine.runtime.prompt_lookup import MAX_DRAFT, PromptLookup
from glmtui.engine.runtime.sampling import DeviceSampler, make_sampler
from glmtui.engine.runtime.token_stream import Decoding, ReplyText, TokenStream, no_tokenizer
from glmtui.engine.tokenization.protocols import ChatFormat, Tokenizer
from glmtui.errors import (
    BadCheckpoint,
    EngineError,
    PromptTooLong,
    UsageError,
)
from glmtui.language import _

# Tokens per chunk of a prompt, least and most. A CPU starts small, because a cancel is only seen
# between chunks; a GPU is fast enough for 2048 and slower per token with fewer.
PREFILL_CHUNK = {"cpu": (128, 512), "cuda": (2048, 2048)}
REPLY_ROOM = 256  # tokens kept free for the reply when old messages are dropped from the prompt


class LoadedModel:
    """A model in memory: an `api.ChatModel`. The loader makes it; only one thread may use it.

    Args:
        model: with its weights, and prepared.
        tokenizer, chat_format: None if the folder had no tokenizer files; then only ids work.
        stop_ids: ids that end a reply.
        device: where input ids go.
        devices: all devices that hold a part of the model; empty means `device` alone.
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
        self._prefix_cache = PrefixCache(model, self.context_length, dtype, device, budget)
        self._speculation = options.speculation if model.supports_rewind else "off"
        can_capture = device.type == "cuda" and model.supports_rewind and not model.layer_devices
        self._cuda_graph = CudaGraphRunner(model) if can_capture else None
        # Speculation needs each token on the host at once, so it excludes asynchronous decoding.
        # On one GPU it never measured faster, and is used only if the options demand it.
        self._decodes_async = can_capture and self._speculation != "on"
        self._thread_tuner: ThreadTuner | None = None
        self._chunk_tuner = ChunkTuner(*PREFILL_CHUNK[device.type])

    @property
    def tokenizer(self) -> Tokenizer:
        """Raises UnsupportedModel if the folder had no tokenizer files."""
        if self._tokenizer is None:
            raise no_tokenizer()
        return self._tokenizer

    @property
    def chat_format(self) -> ChatFormat:
        """Raises UnsupportedModel if the folder had no tokenizer files."""
        if self._chat_format is None:
            raise no_tokenizer()
        return self._chat_format

    @property
    def context_length(self) -> int:
        assert self.info.context_length is not None
        return self.info.context_length

    @property
    def peak_memory(self) -> int | None:
        """Peak memory use in bytes; see `hardware.memory.peak_memory`."""
        return peak_memory(self._devices)

    @torch.inference_mode()
    def logits(self, ids: Sequence[int]) -> Tensor:
        """Logits after each of these ids, computed without a cache.

        Returns:
            float32 [len(ids), vocab], on the CPU.

        Raises as `check_ids`.
        """
        self.check_ids(ids)
        batch = torch.tensor([list(ids)], device=self.device)
        logits: Tensor = self.model(batch)[0]
        return logits.float().cpu()

    # ---- a reply

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
        params = (params or SamplingParams()).with_defaults(self.info.defaults)
        limit = self._max_length(params)
        room = min(params.max_new_tokens or REPLY_ROOM, REPLY_ROOM, max(limit // 4, 1))
        prompt, dropped = fit_messages(self.chat_format, messages, limit - room, limit - 1)
        text = ReplyText(
            self.tokenizer,
            self.chat_format,
            continues=bool(messages) and messages[-1].role == "assistant",
            tools_declared=any(message.tools for message in messages),
        )
        return self._start(prompt, params, text, cancelled, on_prefill, dropped_turns=dropped)

    def stream_ids(
        self,
        prompt: Sequence[int],
        params: SamplingParams,
        *,
        cancelled: Callable[[], bool] = lambda: False,
        on_prefill: Callable[[PrefillProgress], None] = lambda progress: None,
    ) -> TokenStream:
        """Starts a reply to prompt ids.

        Raises as `check_ids`, and UsageError if `prompt` is empty.
        """
        text = None
        if self._tokenizer is not None and self._chat_format is not None:
            text = ReplyText(self._tokenizer, self._chat_format)
        return self._start(list(prompt), params, text, cancelled, on_prefill)

    def _start(
        self,
        prompt: list[int],
        params: SamplingParams,
        text: ReplyText | None,
        cancelled: Callable[[], bool],
        on_prefill: Callable[[PrefillProgress], None],
        *,
        dropped_turns: int = 0,
    ) -> TokenStream:
        self.check_ids(prompt)
        if not prompt:
            raise UsageError(_("The prompt is empty: a reply needs at least one token to follow."))
        room = self._max_length(params) - len(prompt)
        limit = min(params.max_new_tokens or room, room)

        def prefill(stopped: Callable[[], bool]) -> Decoding | None:
            logits, reused = self.prefill(prompt, stopped, on_prefill)
            if logits is None:
                return None
            return Decoding(reused, self.decode(logits, prompt, params, limit))

        return TokenStream(
            prefill,
            prompt_tokens=len(prompt),
            limit=limit,
            stop_ids=self.stop_ids,
            text=text,
            cancelled=cancelled,
            devices=self._devices,
            dropped_turns=dropped_turns,
        )

    def _max_length(self, params: SamplingParams) -> int:
        """Tokens of prompt and reply together."""
        return min(params.max_length or self.context_length, self.context_length)

    def check_ids(self, ids: Sequence[int]) -> None:
        """Checks that the embedding has a row for each id; others would read past its memory.

        Raises:
            TypeError: an id is not an integer.
            UsageError: an id is negative, or is an image token that was left out of memory.
            BadCheckpoint: an id is beyond the vocabulary; the tokenizer is of another model.
            PromptTooLong: there are more ids than the context length.
        """
        if len(ids) > self.context_length:
            raise PromptTooLong(
                _("The prompt is {long:,} tokens long; {most:,} fit into the context.").format(
                    long=len(ids), most=self.context_length
                ),
                _("Shorten it, or raise load.context_length if the model allows more."),
            )
        numbers = [operator.index(token) for token in ids]
        least, most = min(numbers, default=self.model.first_token_id), max(numbers, default=0)
        if most >= self.model.vocab_size:
            raise BadCheckpoint(
                _(
                    "The tokenizer of {model} gives token id {token}, but the model has "
                    "{vocabulary} tokens."
                ).format(model=self.info.name, token=most, vocabulary=self.model.vocab_size),
                _(
                    "Tokenizer and weights belong to different models. Download the model again: "
                    "glmtui pull"
                ),
            )
        if least < 0:
            raise UsageError(
                _("{token} is not a token id.").format(token=least),
                _("Ids of {model} are integers from {first} to {last}.").format(
                    model=self.info.name,
                    first=self.model.first_token_id,
                    last=self.model.vocab_size - 1,
                ),
            )
        if least < self.model.first_token_id:
            raise UsageError(
                _("Token id {token} is an image token of {model}, which was not loaded.").format(
                    token=least, model=self.info.name
                ),
                _("Set load.slim to false to keep image tokens."),
            )

    # ---- prefill and decode

    @torch.inference_mode()
    def prefill(
        self,
        prompt: list[int],
        stopped: Callable[[], bool],
        on_prefill: Callable[[PrefillProgress], None],
    ) -> tuple[Tensor | None, int]:
        """Reads in chunks what is not in the KV cache yet; `stopped` is asked before each chunk.

        Returns:
            Logits after the last id, float32 [vocab], or None if stopped; and how many ids were in
            the cache before.

        Raises:
            OutOfMemory, EngineError: the model failed.
        """
        logits = None
        with self._engine_errors():
            cache = self._prefix_cache.open(prompt)
            cache.prompt_length = len(prompt)
            reused = cache.offset
            on_prefill(PrefillProgress(0, len(prompt) - reused))
            while cache.offset < len(prompt):
                if stopped():
                    return None, reused
                chunk = prompt[cache.offset :]
                if self.model.causal:
                    chunk = chunk[: self._chunk_tuner.tokens]
                with self._chunk_tuner.time(len(chunk)):
                    logits = self.step(chunk)
                    if logits.is_cuda:  # kernels are launched, but have not run yet
                        torch.cuda.current_stream(logits.device).synchronize()
                on_prefill(PrefillProgress(cache.offset - reused, len(prompt) - reused))
        return logits, reused

    def decode(
        self, logits: Tensor, prompt: Sequence[int], params: SamplingParams, limit: int
    ) -> Iterator[int]:
        """Samples the ids of a reply; an id is read when the next one is requested.

        Args:
            logits: after the prompt.
            limit: maximum number of ids that will be requested.

        Raises:
            OutOfMemory, EngineError: the model failed.
        """
        with self._engine_errors():
            if self._decodes_async:
                device_sampler = DeviceSampler(params, prompt, len(logits), logits.device)
                yield from async_decode(self, device_sampler, logits, prompt, limit)
            else:
                lookup = PromptLookup(self, prompt, limit, self._speculation)
                yield from lookup.decode(logits, make_sampler(params))

    @contextmanager
    def _engine_errors(self) -> Iterator[None]:
        """Turns errors of torch into errors for users. When memory is full, clears the caches."""
        try:
            yield
        except (RuntimeError, MemoryError) as error:
            if is_out_of_memory(error):
                self.clear_cache()
                raise out_of_memory(self.device) from error
            raise EngineError(
                _("The model failed: {error}").format(error=str(error).splitlines()[0]),
                _("Try again. If it fails again, reload the model or use another device."),
            ) from error

    def step(self, ids: Sequence[int], *, last_only: bool = True) -> Tensor:
        """Reads ids, after those in the cache.

        Returns:
            Logits after the last id, float32 [vocab]; or after each, [len(ids), vocab].
        """
        logits = self.forward(torch.tensor([list(ids)], device=self.device), last_only=last_only)
        self.commit(ids)
        return logits

    @torch.inference_mode()
    def forward(self, ids: Tensor, *, last_only: bool = True) -> Tensor:
        """As `step`, for ids that may exist only on the device, int64 [1, S].

        The cache counts them as read once they are passed to `commit`.
        """
        with self._tuned_threads(ids.shape[1]):
            forward = self._cuda_graph or self.model
            logits: Tensor = forward(ids, self._prefix_cache.cache, last_only=last_only)[0]
        return logits[-1] if last_only else logits

    def commit(self, ids: Sequence[int]) -> None:
        """Records ids that `forward` has read."""
        self._prefix_cache.commit(ids)

    def rewind(self, tokens: int) -> None:
        """Removes the last ids from the cache."""
        self._prefix_cache.rewind(tokens)

    def _tuned_threads(self, tokens: int) -> AbstractContextManager[None]:
        """On a CPU, sets the number of threads for a step over this many tokens."""
        if self.device.type != "cpu":
            return nullcontext()
        if self._thread_tuner is None:
            self._thread_tuner = ThreadTuner(torch.get_num_threads(), torch.set_num_threads)
        if tokens == 1:
            return self._thread_tuner.time_step()
        if tokens > 1 + MAX_DRAFT:
            self._thread_tuner.use_all_threads()
        return nullcontext()

    # ---- memory

    def clear_cache(self) -> None:
        """Frees the memory of all KV caches; the next prompt is read from its start."""
        self._prefix_cache.clear()
        if self._cuda_graph is not None:
            self._cuda_graph.reset()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        else:
            trim_heap()

    def close(self) -> None:
        """Frees the memory of weights and caches; the model cannot be used after it."""
        self.clear_cache()
        del self.model, self._prefix_cache, self._cuda_graph
        trim_heap()
