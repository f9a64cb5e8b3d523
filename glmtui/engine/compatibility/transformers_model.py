"""Loads chat models that transformers has built in, as a `LoadedModel`.

Decoder and KV cache are transformers'; sampling, streaming and stop rules are ours, and prompts
come from the folder's chat template. Slower than a family of our own. Code that comes with a
checkpoint is never run.
"""

from __future__ import annotations

import inspect
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    PreTrainedModel,
)
from transformers.utils import logging as transformers_logging

from glmtui.engine.catalog.families import transformers_reason
from glmtui.engine.catalog.model_folder import MAX_VOCABULARY_BYTES, read_model_file
from glmtui.engine.catalog.quants import Quant
from glmtui.engine.compatibility.length_scaling import LengthScaling
from glmtui.engine.compatibility.size_check import check_size, choose_device, packable_layers
from glmtui.engine.compatibility.transformers_cache import TransformersCache
from glmtui.engine.hardware.memory import out_of_memory
from glmtui.engine.loading.load_spec import LoadSpec
from glmtui.engine.model_info import LoadedInfo
from glmtui.engine.nn.decoder import Decoder, common_prefix
from glmtui.engine.nn.kv_cache import KVCache
from glmtui.engine.nn.linear import KernelChoice, LinearLayer, make_linear
from glmtui.engine.nn.packed_weight import quantize
from glmtui.engine.progress import Progress, ProgressHook
from glmtui.engine.runtime.model_runner import LoadedModel
from glmtui.engine.tokenization.generation_config import read_sampling_defaults
from glmtui.engine.tokenization.hf_tokenizer import HFTokenizer
from glmtui.engine.tokenization.sandboxed_tokenizer import SandboxedTokenizer
from glmtui.engine.tokenization.template_format import TemplateFormat
from glmtui.engine.tokenization.tokenizer_config import TokenizerConfig
from glmtui.errors import BadCheckpoint, GlmtuiError, UnsupportedModel
from glmtui.language import N_, _

SERVER_HINT = N_(
    "A server such as vLLM may be able to run it. Connect to it with: glmtui -m http://…/v1"
)
RESTART_CHUNK = 512  # tokens per call when a text is read again; limits the memory it needs
# Names of the cache argument of `forward`: since transformers 5.24, and before.
CACHE_ARGUMENTS = ("cache", "past_key_values", "cache_params")


def load(spec: LoadSpec, on_progress: ProgressHook) -> LoadedModel:
    """Loads a model with transformers; see `loader.load`.

    Packed weights are not read, so that a quantisation of "auto" means None here.

    Raises:
        UnsupportedModel: transformers cannot run it, it is not a chat model, or none of its layers
            can be quantised as requested.
        BadCheckpoint: files are missing or damaged.
        EngineError: the options ask to split it over several GPUs.
        OutOfMemory: the device is too small, either by the estimate or while loading.
    """
    started = time.perf_counter()
    info, options, raw = spec.info, spec.options, spec.raw_config
    device, dtype, quant, choice = spec.device, spec.dtype, spec.quant, spec.kernels
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    _refuse_quantized(raw)
    # the tokenizer first, because it can fail before gigabytes are read
    with _transformers_errors(info.path, device):
        tokenizer = HFTokenizer.load(info.path) or _converted_tokenizer(info.path)
    chat_format = TemplateFormat.load(tokenizer, info.path, raw)
    with _transformers_errors(info.path, device):
        empty = empty_model(info.path, dtype)
        check_size(empty, info.nbytes or None, info.path / "config.json")
        if isinstance(quant, Quant) and not packable_layers(empty, quant):
            raise UnsupportedModel(
                _("{model} has no linear layers that can be quantised to {bits} bits.").format(
                    model=type(empty).__name__, bits=quant.bits
                ),
                _('Set load.quant to "auto".'),
            )
        kv_bytes = kv_bytes_per_token(empty)
        device = choose_device(
            options.device, device, empty, kv_bytes, info.stored, dtype, quant, spec.machine
        )
    on_progress(Progress(_("loading"), 0, info.nbytes))
    with _transformers_errors(info.path, device):
        inner = _load_weights(info.path, dtype)
        quant_format = ""
        if isinstance(quant, Quant):
            quant_format = _quantize_layers(inner, quant, device, dtype, choice)
        model = TransformersDecoder(inner.to(device))
        kv_bytes = model.kv_bytes_per_token(device)
    on_progress(Progress(_("loading"), info.nbytes, info.nbytes))
    context_length = min(options.context_length or info.context_length, info.context_length)
    loaded = LoadedInfo(
        name=info.name,
        device=str(device),
        dtype=str(dtype).removeprefix("torch."),
        quant=quant_format,
        kernel=" + ".join(sorted(choice.selected)),
        context_length=context_length,
        weight_bytes=model.nbytes,
        kv_bytes_per_token=kv_bytes,
        load_seconds=time.perf_counter() - started,
        defaults=read_sampling_defaults(info.path),
        backend="compatibility",
        compatibility_reason=transformers_reason(raw, info.path),
    )
    return LoadedModel(
        model,
        tokenizer,
        chat_format,
        chat_format.stop_ids,
        loaded,
        dtype=dtype,
        device=device,
        options=options,
    )


@contextmanager
def _transformers_errors(folder: Path, device: torch.device) -> Iterator[None]:
    """Turns any exception of transformers and its models into a GlmtuiError."""
    try:
        yield
    except GlmtuiError:
        raise
    except torch.OutOfMemoryError as error:
        raise out_of_memory(device) from error
    except Exception as error:
        message = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UnsupportedModel(
            _("transformers cannot run {folder}: {error}").format(folder=folder, error=message),
            _(SERVER_HINT),
        ) from error


def _refuse_quantized(raw: Mapping[str, Any]) -> None:
    """Raises UnsupportedModel if config.json says that another program quantised the weights."""
    quantization = raw.get("quantization_config")
    if quantization:
        is_table = isinstance(quantization, dict)
        method = quantization.get("quant_method") if is_table else quantization
        raise UnsupportedModel(
            _("The checkpoint is quantised with {method}, which glmtui cannot read.").format(
                method=method
            ),
            _("Use the original model and set load.quant to int8 or int4."),
        )


def _converted_tokenizer(folder: Path) -> HFTokenizer:
    """The tokenizer of a folder without tokenizer.json, converted by transformers if necessary."""
    kind = str(TokenizerConfig(folder).settings.get("tokenizer_class") or "Llama")
    if "Llama" in kind and (pieces := HFTokenizer.load_sentencepiece(folder)):
        return pieces
    files = {*folder.glob("*.model"), *folder.glob("vocab.*")}
    if not files:  # transformers would make an empty tokenizer
        raise UnsupportedModel(
            _("{folder} has no tokenizer files.").format(folder=folder),
            _("Download the model again with: glmtui pull"),
        )
    nbytes = sum(len(read_model_file(path, MAX_VOCABULARY_BYTES)) for path in files)
    location = os.fsencode(folder.absolute())

    def unreadable(error: str) -> UnsupportedModel:
        return UnsupportedModel(
            _("transformers cannot read the tokenizer of {folder}: {error}").format(
                folder=folder, error=error
            ),
            _("Put its tokenizer.json beside config.json."),
        )

    return HFTokenizer(SandboxedTokenizer("transformers", lambda: location, unreadable, nbytes))


def empty_model(folder: Path, dtype: torch.dtype) -> PreTrainedModel:
    """The model on the meta device: shapes without weights."""
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config, dtype=dtype, trust_remote_code=False)


def kv_bytes_per_token(empty: PreTrainedModel) -> int | None:
    """KV bytes per token of a model on the meta device; None if it cannot run there."""
    model = TransformersDecoder(empty.eval())
    try:
        return model.kv_bytes_per_token(torch.device("meta"))
    except Exception:  # any exception of the model's code; loading it will report real problems
        return None


def _load_weights(folder: Path, dtype: torch.dtype) -> PreTrainedModel:
    model, found = AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=dtype,
        trust_remote_code=False,
        local_files_only=True,
        output_loading_info=True,
    )
    if missing := sorted(found["missing_keys"]):
        # transformers would use random numbers instead
        raise BadCheckpoint(
            _("{folder} lacks {count} tensors of its model, such as {name}.").format(
                folder=folder, count=len(missing), name=missing[0]
            ),
            _("Download the model again with: glmtui pull"),
        )
    return model.eval().requires_grad_(False)


def _quantize_layers(
    model: PreTrainedModel,
    quant: Quant,
    device: torch.device,
    dtype: torch.dtype,
    choice: KernelChoice,
) -> str:
    """Replaces the model's linear layers by quantised ones.

    Returns:
        A text for `LoadedInfo.quant`. It has the share of weights that were quantised if others
        than embedding and head were not, such as experts that are stored in one tensor.
    """
    kinds, count = set(), 0
    total = sum(parameter.numel() for parameter in model.parameters())
    for path, module in packable_layers(model, quant).items():
        packed = quantize(module.weight.to(device), quant.bits, quant.group)
        bias = None if module.bias is None else module.bias.to(device)
        kinds.add(packed.kind)
        count += module.weight.numel()
        parent, _dot, name = path.rpartition(".")
        setattr(model.get_submodule(parent), name, make_linear(packed, bias, dtype, choice))
    quant_format = " + ".join(sorted(kinds))
    tables = {
        id(table.weight)
        for table in (model.get_input_embeddings(), model.get_output_embeddings())
        if table is not None
    }
    others = sum(p.numel() for p in model.parameters() if p.dim() > 1 and id(p) not in tables)
    if not others:
        return quant_format
    return _("{format} ({share:.0%} of weights)").format(format=quant_format, share=count / total)


class TransformersDecoder(Decoder):
    """A transformers model with the interface of our decoders.

    Raises:
        UnsupportedModel: the model does not use one of transformers' general caches.
    """

    supports_rewind = False  # caches with sliding windows or recurrent states cannot be rewound

    def __init__(self, inner: PreTrainedModel) -> None:
        super().__init__()
        self.inner = inner
        self.config = inner.config
        # recurrent models have one state instead of keys per token: no reuse, and no chunks
        self.causal = not getattr(inner, "_is_stateful", False)
        parameters = inspect.signature(inner.forward).parameters
        cache_arguments = [name for name in CACHE_ARGUMENTS if name in parameters]
        if not cache_arguments:
            raise UnsupportedModel(
                _("{kind} does not use a kind of cache that glmtui supports.").format(
                    kind=type(inner).__name__
                ),
                _(SERVER_HINT),
            )
        self._cache_argument = cache_arguments[0]
        self._can_skip_logits = "logits_to_keep" in parameters
        self._scaling = LengthScaling.find(inner)

    @property
    def vocab_size(self) -> int:
        """Number of rows of the embedding."""
        return int(self.inner.get_input_embeddings().weight.shape[0])

    def prepare(self, length: int, dtype: torch.dtype, device: torch.device) -> None:
        """Does nothing: transformers computes position tables in each step."""

    def _make_cache(
        self, capacity: int, dtype: torch.dtype, device: torch.device, batch: int
    ) -> TransformersCache:
        return TransformersCache(self.config, capacity, self._scaling)

    def reusable_prefix(self, old: Sequence[int], new: Sequence[int]) -> int:
        return common_prefix(old, new) if self.causal else 0

    def forward(
        self,
        ids: Tensor,
        cache: KVCache | None = None,
        *,
        last_only: bool = False,
        padding: Tensor | None = None,
    ) -> Tensor:
        assert padding is None, "batches of different lengths are not supported"
        new = ids.shape[1]
        if isinstance(cache, TransformersCache) and cache.must_restart(new):
            ids = torch.cat((*cache.ids, ids), dim=1)
            cache.trim(0)
            cache.prompt_length = ids.shape[1]
        size = RESTART_CHUNK if ids.shape[1] > new else new
        parts = [self._step(part, cache, last_only) for part in torch.split(ids, size, dim=1)]
        return parts[-1] if last_only else torch.cat(parts, dim=1)[:, -new:]

    def _step(self, ids: Tensor, cache: KVCache | None, last_only: bool) -> Tensor:
        options: dict[str, Any] = {"use_cache": cache is not None}
        if last_only and self._can_skip_logits:
            options["logits_to_keep"] = 1
        if isinstance(cache, TransformersCache):
            options[self._cache_argument] = cache.inner
        if self._scaling is not None:
            end = ids.shape[1] + (cache.offset if cache is not None else 0)
            self._scaling.begin_call(end, max(end, cache.prompt_length if cache is not None else 0))
        try:
            logits: Tensor = self.inner(input_ids=ids, **options).logits
        except BaseException:
            if cache is not None:
                cache.trim(0)  # only some of its layers may have the new tokens
            raise
        if isinstance(cache, TransformersCache):
            cache.record(ids)
        if cache is not None:
            cache.advance(ids.shape[1])
        return (logits[:, -1:] if last_only else logits).float()

    @property
    def nbytes(self) -> int:
        """Memory of the weights, including quantised ones."""
        nbytes: int = sum(parameter.nbytes for parameter in self.inner.parameters())
        return nbytes + sum(m.nbytes for m in self.inner.modules() if isinstance(m, LinearLayer))

    @torch.inference_mode()
    def kv_bytes_per_token(self, device: torch.device) -> int | None:
        """KV bytes per token, measured with one token; None if memory does not grow per token."""
        cache = TransformersCache(self.config, 1)
        self(torch.zeros((1, 1), dtype=torch.long, device=device), cache)
        return cache.nbytes if self.causal else None
