"""random_model: a model with the shape of a released one and random weights.

Its replies are noise, but its speed and memory are those of the real model, because the loader's
own `WeightFiller` fills it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from glmtui.engine.bench.shapes import SHAPES
from glmtui.engine.catalog.quants import Quant
from glmtui.engine.checkpoint.checkpoint import Checkpoint, WeightSource
from glmtui.engine.loading.load_spec import pick_device, pick_dtype, pick_quant
from glmtui.engine.loading.model_parts import VOCAB_MODULES
from glmtui.engine.loading.weight_filler import WeightFiller
from glmtui.engine.model_info import LoadedInfo, LoadOptions
from glmtui.engine.models.model_family import import_family
from glmtui.engine.nn.packed_weight import PackedWeight
from glmtui.engine.runtime.model_runner import LoadedModel

# Random numbers that are generated per tensor; a larger tensor repeats them. Not a multiple of any
# row length, so that rows differ.
BLOCK = 2**20 + 7


def random_model(key: str, options: LoadOptions) -> LoadedModel:
    """A model of the shape `SHAPES[key]`, without a tokenizer: it works with token ids only.

    Raises:
        UsageError, EngineError: an option has an unknown value, or asks for a missing device.
    """
    started = time.perf_counter()
    shape = SHAPES[key]
    device = pick_device(options.device)
    dtype = pick_dtype(options.dtype, device)
    quant = pick_quant(options.quant, device, dtype)
    family = import_family(shape.family)
    config = family.load_config(shape.config)
    with torch.device("meta"):
        model = family.Model(config)
    sources = {
        name: WeightSource("+".join(r.names)) for name, r in family.weight_sources(config).items()
    }
    weights = RandomWeights(
        {sources[name].names[0]: p.shape for name, p in model.named_parameters()},
        {
            rows.names[0]
            for name, rows in sources.items()
            if name.partition(".")[0] in VOCAB_MODULES
        },
        device=device,
        dtype=dtype,
        quant=quant if isinstance(quant, Quant) else None,
    )
    filler = WeightFiller(model, weights, device, dtype, quant)
    filler.fill(sources, lambda progress: None)
    length = min(options.context_length or config.context_length, config.context_length)
    model.prepare(length, dtype, device)
    info = LoadedInfo(
        name=key,
        device=str(device),
        dtype=str(dtype).removeprefix("torch."),
        quant=" + ".join(sorted(filler.packed_kinds)),
        context_length=length,
        weight_bytes=filler.nbytes,
        kv_bytes_per_token=model.new_cache(1, dtype, torch.device("meta")).nbytes,
        load_seconds=time.perf_counter() - started,
    )
    return LoadedModel(
        model, None, None, frozenset(), info, dtype=dtype, device=device, options=options
    )


class RandomWeights(Checkpoint):
    """A checkpoint without files: each tensor is generated on the device when it is read.

    Args:
        shapes: of all tensors, by name.
        tables: names of the embedding and the head, which are never packed.
        quant: how the other matrices are packed; None for matrices in `dtype`.
    """

    def __init__(
        self,
        shapes: Mapping[str, torch.Size],
        tables: set[str],
        *,
        device: torch.device,
        dtype: torch.dtype,
        quant: Quant | None,
    ) -> None:
        self.folder = Path("random weights")
        self.bits = 0
        self.names_read = set()
        self._shards = dict.fromkeys(shapes, self.folder)
        self._open = {}
        self._shapes = shapes
        self._tables = tables
        self._device = device
        self._dtype = dtype
        self._quant = quant

    @property
    def nbytes(self) -> int:
        """Size of the files with 16-bit weights."""
        return sum(2 * shape.numel() for shape in self._shapes.values())

    def read_weight(self, name: str, start: int = 0) -> Tensor | PackedWeight:
        assert not start, "the shapes are those after skipping rows"
        self.names_read.add(name)
        shape = self._shapes[name]
        if len(shape) == 1:  # a norm's weight, or a bias
            fill = 1.0 if name.endswith("weight") else 0.0
            return torch.full(shape, fill, device=self._device)
        if name in self._tables:
            return random_matrix(shape, torch.float16, self._device)
        if self._quant is None:
            return random_matrix(shape, self._dtype, self._device)
        return random_packed(shape, self._quant, self._device)


def random_matrix(shape: torch.Size, dtype: torch.dtype, device: torch.device) -> Tensor:
    """[out, in] with normally distributed numbers, scaled so that activations keep their size."""
    count = shape.numel()
    block = torch.randn(min(count, BLOCK), device=device).mul_(shape[1] ** -0.5).to(dtype)
    matrix = torch.empty(count, dtype=dtype, device=device)
    for start in range(0, count, BLOCK):
        part = matrix[start : start + BLOCK]
        part.copy_(block[: len(part)])
    return matrix.view(shape)


def random_packed(shape: torch.Size, quant: Quant, device: torch.device) -> PackedWeight:
    """[out, in] with random integers, and scales that give the weights of `random_matrix`."""
    rows, columns = shape
    width = columns if quant.bits == 8 else columns // 2
    words = torch.empty(-(-rows * width // 8), dtype=torch.int64, device=device)
    words.random_(-(2**63), None)  # 8 bytes per random number are much faster than 1
    integers = torch.int8 if quant.bits == 8 else torch.uint8
    q = words.view(integers)[: rows * width].view(rows, width)
    deviation = 2**quant.bits / math.sqrt(12)  # standard deviation of uniform integers
    groups = columns // math.gcd(quant.group or 0, columns)
    scale = torch.full((rows, groups), columns**-0.5 / deviation, dtype=torch.half, device=device)
    return PackedWeight(q, scale, None if quant.bits == 8 else scale * -7.5)
