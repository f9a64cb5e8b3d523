"""Any other chat model that transformers has built in, behind the same face as our own families.

Its decoder and KV cache are transformers'; tokens are picked, streamed and stopped as everywhere
else (`generate`), and prompts are made by the folder's chat template. Slower than a family of our
own. Code that comes with a checkpoint is never run.
"""

from __future__ import annotations

import inspect
import os
import time
from collections.abc import Iterator, Sequence
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

from glmtui.engine.api import LoadedInfo, Progress, ProgressHook
from glmtui.engine.catalog.families import left_to_transformers
from glmtui.engine.catalog.model_folder import MAX_PIECES_BYTES, read_small
from glmtui.engine.catalog.registry import Quant
from glmtui.engine.compatibility.length_scaling import LengthScaling
from glmtui.engine.compatibility.size_check import check_size, device_of, packable
from glmtui.engine.compatibility.transformers_cache import TransformersCache
from glmtui.engine.hardware.memory import out_of_memory
from glmtui.engine.loading.load_spec import LoadSpec
from glmtui.engine.nn.decoder import Decoder, common_prefix
from glmtui.engine.nn.kv_cache import KVCache
from glmtui.engine.nn.linear import KernelChoice, LinearLayer, make_linear
from glmtui.engine.nn.packed_weight import quantize
from glmtui.engine.runtime.model_runner import LoadedModel
from glmtui.engine.tokenization.bounded_tokenizer import BoundedTokenizer
from glmtui.engine.tokenization.hf_tokenizer import (
    TemplateFormat,
    TokenizerJson,
    hub_defaults,
    read_json,
    refuse_packed,
)
from glmtui.errors import BadCheckpoint, GlmtuiError, UnsupportedModel
from glmtui.language import N_, _

ELSEWHERE = N_("A server such as vLLM may run it: glmtui -m http://…/v1")
RESTART_CHUNK = 512  # tokens at once, of a text that is read again
CACHE_ARGUMENTS = ("cache", "past_key_values", "cache_params")  # since 5.24, and before it


def load(spec: LoadSpec, on_progress: ProgressHook) -> LoadedModel:
    """Loads a model with transformers; see `loader.load`.

    Packed weights are not read, so that a quantisation of "auto" means None here.

    Raises:
        UnsupportedModel: transformers cannot run it, it is no model to chat with, or none of its
            layers can be held as they are to be.
        BadCheckpoint: files are missing or damaged.
        EngineError: it was to be spread over several GPUs.
        OutOfMemory: the device has no room for it; known before it is read, or met on the way.
    """
    started = time.perf_counter()
    info, options, raw = spec.info, spec.options, spec.raw_config
    device, dtype, quant, choice = spec.device, spec.dtype, spec.quant, spec.kernels
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    refuse_packed(raw)
    # the tokenizer first: what it refuses is known before gigabytes are read
    with _refusals(info.path, device):
        tokenizer = TokenizerJson.load(info.path) or _converted_tokenizer(info.path)
    chat_format = TemplateFormat.load(tokenizer, info.path, raw)
    with _refusals(info.path, device):
        empty = empty_model(info.path, dtype)
        check_size(empty, info.nbytes or None, info.path / "config.json")
        if isinstance(quant, Quant) and not packable(empty, quant):
            raise UnsupportedModel(
                _("{model} has no linear layers that can be held in {bits} bits.").format(
                    model=type(empty).__name__, bits=quant.bits
                ),
                _('Set load.quant to "auto".'),
            )
        kv = kv_per_token(empty)
        device = device_of(
            options.device, device, empty, kv, info.stored, dtype, quant, spec.machine
        )
    on_progress(Progress(_("loading"), 0, info.nbytes))
    with _refusals(info.path, device):
        inner = _read(info.path, dtype)
        held = _pack(inner, quant, device, dtype, choice) if isinstance(quant, Quant) else ""
        model = Wrapped(inner.to(device))
        kv_bytes = model.kv_bytes_per_token(device)
    on_progress(Progress(_("loading"), info.nbytes, info.nbytes))
    context_length = min(options.context_length or info.context_length, info.context_length)
    loaded = LoadedInfo(
        name=info.name,
        device=str(device),
        dtype=str(dtype).removeprefix("torch."),
        quant=held,
        kernel=" + ".join(sorted(choice.used)),
        context_length=context_length,
        weight_bytes=model.nbytes,
        kv_bytes_per_token=kv_bytes,
        load_seconds=time.perf_counter() - started,
        defaults=hub_defaults(info.path),
        backend="compatibility",
        why_compatible=left_to_transformers(raw, info.path),
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
def _refusals(folder: Path, device: torch.device) -> Iterator[None]:
    """Turns whatever a model's own code in transformers raises into an error of ours."""
    try:
        yield
    except GlmtuiError:
        raise
    except torch.OutOfMemoryError as error:
        raise out_of_memory(device) from error
    except Exception as error:
        said = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UnsupportedModel(
            _("transformers cannot run {folder}: {said}").format(folder=folder, said=said),
            _(ELSEWHERE),
        ) from error


def _converted_tokenizer(folder: Path) -> TokenizerJson:
    """The tokenizer of a folder that has its files in an older form."""
    named = str(read_json(folder / "tokenizer_config.json").get("tokenizer_class") or "Llama")
    if "Llama" in named and (pieces := TokenizerJson.load_pieces(folder)):
        return pieces
    files = {*folder.glob("*.model"), *folder.glob("vocab.*")}
    if not files:  # transformers would make an empty one
        raise UnsupportedModel(
            _("{folder} has no tokenizer files.").format(folder=folder),
            _("Fetch the model again with: glmtui pull"),
        )
    nbytes = sum(len(read_small(path, MAX_PIECES_BYTES)) for path in files)
    where = os.fsencode(folder.absolute())

    def refused(error: str) -> UnsupportedModel:
        return UnsupportedModel(
            _("transformers cannot read the tokenizer of {folder}: {error}").format(
                folder=folder, error=error
            ),
            _("Put its tokenizer.json beside config.json."),
        )

    return TokenizerJson(BoundedTokenizer("transformers", lambda: where, refused, nbytes))


def empty_model(folder: Path, dtype: torch.dtype) -> PreTrainedModel:
    """The model on the meta device: its shapes, and no weights."""
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config, dtype=dtype, trust_remote_code=False)


def kv_per_token(empty: PreTrainedModel) -> int | None:
    """`Wrapped.kv_bytes_per_token` of a model without weights; None where it asks for numbers."""
    model = Wrapped(empty.eval())
    try:
        return model.kv_bytes_per_token(torch.device("meta"))
    except Exception:  # of the model's own code, whatever it raises; the real one will tell
        return None


def _read(folder: Path, dtype: torch.dtype) -> PreTrainedModel:
    model, found = AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=dtype,
        trust_remote_code=False,
        local_files_only=True,
        output_loading_info=True,
    )
    if missing := sorted(found["missing_keys"]):
        # transformers would go on with random numbers in their place
        raise BadCheckpoint(
            _("{folder} lacks {count} tensors of its model, such as {name}.").format(
                folder=folder, count=len(missing), name=missing[0]
            ),
            _("Fetch the model again with: glmtui pull"),
        )
    return model.eval().requires_grad_(False)


def _pack(
    model: PreTrainedModel,
    quant: Quant,
    device: torch.device,
    dtype: torch.dtype,
    choice: KernelChoice,
) -> str:
    """Puts packed linear layers in place of the model's own.

    Returns:
        How weights are held now, as `LoadedInfo.quant`; with the share of all weights that was
        packed where others than embedding and head stay whole, such as experts in one tensor.
    """
    kinds, count = set(), 0
    total = sum(parameter.numel() for parameter in model.parameters())
    for path, module in packable(model, quant).items():
        packed = quantize(module.weight.to(device), quant.bits, quant.group)
        bias = None if module.bias is None else module.bias.to(device)
        kinds.add(packed.kind)
        count += module.weight.numel()
        parent, _dot, name = path.rpartition(".")
        setattr(model.get_submodule(parent), name, make_linear(packed, bias, dtype, choice))
    held = " + ".join(sorted(kinds))
    tables = {
        id(table.weight)
        for table in (model.get_input_embeddings(), model.get_output_embeddings())
        if table is not None
    }
    whole = sum(p.numel() for p in model.parameters() if p.dim() > 1 and id(p) not in tables)
    if not whole:
        return held
    return _("{held} ({share:.0%} of weights)").format(held=held, share=count / total)


class Wrapped(Decoder):
    """A model of transformers' as our engine wants it.

    Raises:
        UnsupportedModel: it keeps its state in no cache that transformers shares between models.
    """

    rewinds = False  # caches of windows and states do not

    def __init__(self, inner: PreTrainedModel) -> None:
        super().__init__()
        self.inner = inner
        self.config = inner.config
        # models that keep one state instead of a key per token can neither go back nor on in chunks
        self.causal = not getattr(inner, "_is_stateful", False)
        takes = inspect.signature(inner.forward).parameters
        named = [name for name in CACHE_ARGUMENTS if name in takes]
        if not named:
            raise UnsupportedModel(
                _("{kind} keeps its state in a way of its own, which is not driven.").format(
                    kind=type(inner).__name__
                ),
                _(ELSEWHERE),
            )
        self._cache_argument = named[0]
        self._can_skip_logits = "logits_to_keep" in takes
        self._scaling = LengthScaling.find(inner)

    @property
    def vocabulary(self) -> int:
        """As many as the embedding has rows."""
        return int(self.inner.get_input_embeddings().weight.shape[0])

    def prepare(self, length: int, dtype: torch.dtype, device: torch.device) -> None:
        """Nothing: transformers computes its position tables as it goes."""

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
        assert padding is None, "batches of different lengths are not needed here"
        new = ids.shape[1]
        if isinstance(cache, TransformersCache) and cache.restarts_with(new):
            ids = torch.cat((*cache.read, ids), dim=1)
            cache.trim(0)
            cache.whole = ids.shape[1]
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
            self._scaling.begin(end, max(end, cache.whole if cache is not None else 0))
        try:
            logits: Tensor = self.inner(input_ids=ids, **options).logits
        except BaseException:
            if cache is not None:
                cache.trim(0)  # some of its layers may have the new tokens and some not
            raise
        if isinstance(cache, TransformersCache):
            cache.keep(ids)
        if cache is not None:
            cache.advance(ids.shape[1])
        return (logits[:, -1:] if last_only else logits).float()

    @property
    def nbytes(self) -> int:
        """Memory of the weights, packed ones among them."""
        nbytes: int = sum(parameter.nbytes for parameter in self.inner.parameters())
        return nbytes + sum(m.nbytes for m in self.inner.modules() if isinstance(m, LinearLayer))

    @torch.inference_mode()
    def kv_bytes_per_token(self, device: torch.device) -> int | None:
        """What a token takes in the cache, as one does; None where it is not so much per token."""
        cache = TransformersCache(self.config, 1)
        self(torch.zeros((1, 1), dtype=torch.long, device=device), cache)
        return cache.nbytes if self.causal else None
