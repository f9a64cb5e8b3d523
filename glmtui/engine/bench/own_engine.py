"""OwnEngine: glmtui's engine in a benchmark."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from glmtui import __version__
from glmtui.chat import SamplingParams
from glmtui.engine.bench.bench_engine import BenchTarget, EngineStart, TimedReply, time_reply
from glmtui.engine.bench.random_weights import random_model
from glmtui.engine.loading.loader import load
from glmtui.engine.nn.packed_weight import PackedWeight
from glmtui.engine.runtime.model_runner import LoadedModel


class OwnEngine:
    """A model loaded as the app loads it, except for two options.

    Only the KV cache of the last prompt is kept: a benchmark never returns to an earlier one, and
    the caches would count as memory of the engine. Prompt lookup is used only if it is asked for.
    """

    def __init__(self, target: BenchTarget) -> None:
        options = replace(target.options, cache_gb=0)
        if options.speculation == "auto":
            # replies to random prompts repeat themselves, unlike those to real questions
            options = replace(options, speculation="off")
        if target.model is not None:
            self._loaded = load(target.model, options)
        else:
            self._loaded = random_model(target.synthetic, options)
        torch.set_num_threads(target.threads)
        self._loaded.stop_ids = frozenset()  # so that every reply has the requested length
        info = self._loaded.info
        model = self._loaded.model
        marks = getattr(
            model.config, "markers", None
        )  # of ChatGLM-6B, whose prompts end with two ids
        self.start = EngineStart(
            engine="glmtui",
            device=info.device,
            dtype=info.dtype,
            quant=info.quant,
            version=f"{__version__}, torch {torch.__version__}",
            reuses=True,
            load_seconds=info.load_seconds,
            context_length=self._loaded.context_length,
            weight_bytes=info.weight_bytes,
            step_bytes=step_bytes(self._loaded),
            kv_bytes_per_token=info.kv_bytes_per_token,
            vocabulary=(
                getattr(model.config, "skipped_rows", 0),
                marks.mask if marks else model.vocab_size,
            ),
            prompt_end=(marks.gmask, marks.sop) if marks else (),
        )

    def generate(self, prompt: Sequence[int], tokens: int) -> TimedReply:
        params = SamplingParams(temperature=0, max_new_tokens=tokens)
        return time_reply(self._loaded.stream_ids(prompt, params).ids())

    def peak_memory(self) -> int | None:
        return self._loaded.peak_memory


def step_bytes(loaded: LoadedModel) -> int | None:
    """Bytes of weights that are read for every generated token; None if unknown.

    All but the embedding, of which one row is read, unless it is tied to the head.
    """
    embedding = getattr(loaded.model, "embedding", None)
    if embedding is None or loaded.info.weight_bytes is None:
        return None
    tables: list[Any] = [embedding.weight, loaded.model.get_submodule("head").weight]
    data = [table.q if isinstance(table, PackedWeight) else table for table in tables]
    is_tied = data[0].data_ptr() == data[1].data_ptr()
    return loaded.info.weight_bytes - (0 if is_tied else int(tables[0].nbytes))
