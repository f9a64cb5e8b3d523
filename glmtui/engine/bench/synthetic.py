"""A model of released shape with random weights, made on the device that holds it.

Its replies are noise; its speed and its memory are the real model's, since the loader's own
`WeightFiller` lays the weights out.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from glmtui.engine.bench.shapes import SHAPES
from glmtui.engine.catalog.registry import Quant
from glmtui.engine.checkpoint.checkpoint import Checkpoint, WeightSource
from glmtui.engine.loading.loader import family_module, pick_device, pick_dtype, pick_quant
from glmtui.engine.loading.weight_filler import VOCAB_MODULES, WeightFiller
from glmtui.engine.model_info import LoadedInfo, LoadOptions
from glmtui.engine.nn.packed_weight import PackedWeight
from glmtui.engine.runtime.model_runner import LoadedModel

BLOCK = 2**20 + 7  # random numbers drawn anew; a larger tensor repeats them


def random_model(key: str, options: LoadOptions) -> LoadedModel:
    """A model of the shape `SHAPES[key]`, without tokenizer: it knows ids but no text.

    Raises:
        UsageError, EngineError: the options ask for what is not there.
    """
    started = time.perf_counter()
    shape = SHAPES[key]
    device = pick_device(options.device)
    dtype = pick_dtype(options.dtype, device)
    quant = pick_quant(options.quant, device, dtype)
    family = family_module(shape.family)
    config = family.load_config(shape.config)
    with torch.device("meta"):
        model = family.Model(config)
    sources = {name: WeightSource("+".join(r.names)) for name, r in family.sources(config).items()}
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
    placer = WeightFiller(model, weights, device, dtype, quant)
    placer.place_all(sources, lambda progress: None)
    length = min(options.context_length or config.context_length, config.context_length)
    model.prepare(length, dtype, device)
    info = LoadedInfo(
        name=key,
        device=str(device),
        dtype=str(dtype).removeprefix("torch."),
        quant=" + ".join(sorted(placer.quants)),
        context_length=length,
        weight_bytes=placer.nbytes,
        kv_bytes_per_token=model.new_cache(1, dtype, torch.device("meta")).nbytes,
        load_seconds=time.perf_counter() - started,
    )
    return LoadedModel(
        model, None, None, frozenset(), info, dtype=dtype, device=device, options=options
    )


class RandomWeights(Checkpoint):
    """A checkpoint that is nowhere: each tensor is drawn when it is asked for, on the device.

    Args:
        shapes: of every tensor, by name.
        tables: names of embedding and head, which are never packed.
        quant: how the other matrices come packed; None for whole ones in `dtype`.
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
        """Of all of them at 16 bits, as they would be released."""
        return sum(2 * shape.numel() for shape in self._shapes.values())

    def read_weight(self, name: str, start: int = 0) -> Tensor | PackedWeight:
        assert not start, "the shapes are without rows left out"
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
    """[out, in], normal around 0, scaled so that what passes through keeps its size."""
    count = shape.numel()
    block = torch.randn(min(count, BLOCK), device=device).mul_(shape[1] ** -0.5).to(dtype)
    matrix = torch.empty(count, dtype=dtype, device=device)
    for start in range(0, count, BLOCK):
        part = matrix[start : start + BLOCK]
        part.copy_(block[: len(part)])
    return matrix.view(shape)


def random_packed(shape: torch.Size, quant: Quant, device: torch.device) -> PackedWeight:
    """[out, in] of random integers, with scales that make them as large as `random_matrix`'s."""
    rows, columns = shape
    width = columns if quant.bits == 8 else columns // 2
    words = torch.empty(-(-rows * width // 8), dtype=torch.int64, device=device)
    words.random_(-(2**63), None)  # eight bytes at a time
    integers = torch.int8 if quant.bits == 8 else torch.uint8
    q = words.view(integers)[: rows * width].view(rows, width)
    spread = 2**quant.bits / math.sqrt(12)  # standard deviation of equally likely integers
    groups = columns // math.gcd(quant.group or 0, columns)
    scale = torch.full((rows, groups), columns**-0.5 / spread, dtype=torch.half, device=device)
    return PackedWeight(q, scale, None if quant.bits == 8 else scale * -7.5)
