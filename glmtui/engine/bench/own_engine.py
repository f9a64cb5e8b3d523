"""Our own engine as a bench sees it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from glmtui import __version__
from glmtui.chat import SamplingParams
from glmtui.engine.bench.clock import time_reply
from glmtui.engine.bench.plan import BenchTarget, EngineStart, TimedReply
from glmtui.engine.bench.synthetic import random_model
from glmtui.engine.loading.loader import load
from glmtui.engine.nn.packed_weight import PackedWeight
from glmtui.engine.runtime.model_runner import LoadedModel


class OwnEngine:
    """glmtui's engine, loaded as the app loads it; it reads ahead only if asked to.

    It keeps the cache of the last prompt alone: no other serves a later one here, and they would
    count as memory that the engine needs.
    """

    def __init__(self, target: BenchTarget) -> None:
        options = replace(target.options, cache_gb=0)
        if options.speculation == "auto":
            # random prompts make replies that repeat themselves, which no question does
            options = replace(options, speculation="off")
        if target.model is not None:
            self._loaded = load(target.model, options)
        else:
            self._loaded = random_model(target.synthetic, options)
        torch.set_num_threads(target.threads)
        self._loaded.stop_ids = frozenset()  # every reply has the length it is to have
        info = self._loaded.info
        model = self._loaded.model
        marks = getattr(model.config, "marks", None)  # ChatGLM-6B's prompts have to end with two
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
                getattr(model.config, "cut", 0),
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
    """Bytes of weights that every generated token reads.

    All but the embedding, of which it reads a row; unless the head is the same table.
    """
    embedding = getattr(loaded.model, "embedding", None)
    if embedding is None or loaded.info.weight_bytes is None:
        return None
    tables: list[Any] = [embedding.weight, loaded.model.get_submodule("head").weight]
    held = [table.q if isinstance(table, PackedWeight) else table for table in tables]
    shared = held[0].data_ptr() == held[1].data_ptr()
    return loaded.info.weight_bytes - (0 if shared else int(tables[0].nbytes))
