"""CudaGraphRunner: decode steps replayed as a CUDA graph, which takes one launch per token.

Without a graph a GPU waits for Python to launch hundreds of small kernels per step. A graph holds
them at fixed addresses and shapes: the step reads its position from a tensor, and attends to the
whole allocated cache under a mask. A graph is used only if its first replay gives the same logits
as the plain step before it.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from glmtui.engine.nn.cuda_capture import Replay, capture
from glmtui.engine.nn.decoder import Decoder
from glmtui.engine.nn.kv_cache import KVCache

# Plain steps with the same cache tensors before a graph is captured: shorter replies would not
# gain back the time of the capture.
WARMUP_STEPS = 4
# Greatest difference of logits, relative to their standard deviation. Adding the same numbers in
# another order explains less than this; a wrong graph is far above it.
TOLERANCE = 1 / 16

Capture: TypeAlias = Callable[[Callable[[], Tensor]], tuple[Replay, Tensor]]
"""Captures a step. Returns a function that replays it, and the tensor that holds its result."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Graph:
    """A captured step with its inputs (`ids`, `position`) and its output (`logits`)."""

    ids: Tensor
    position: Tensor
    replay: Replay
    logits: Tensor


class CudaGraphRunner:
    """Calls a decoder; steps over a single token are replayed from a graph where possible.

    A graph is bound to the tensors of one cache (`KVCache.tensors`), which stay in place when a new
    prompt is read into that cache. After a switch to another cache, or when a cache grows, a few
    plain steps run and a new graph is captured.

    Args:
        capture: replaces the capture of CUDA in tests.

    Attributes:
        disabled_reason: why graphs are no longer used; empty while they are.
    """

    def __init__(self, model: Decoder, capture: Capture | None = None) -> None:
        self._model = model
        self._capture_step = capture
        self._graph: _Graph | None = None
        # Tensors that the graph or the warm-up belongs to; weak, so that caches can be freed.
        self._cache_tensors: Sequence[weakref.ref[Tensor]] = ()
        self._steps = 0
        self.disabled_reason = ""

    def __call__(self, ids: Tensor, cache: KVCache, *, last_only: bool = True) -> Tensor:
        """Logits as the decoder returns them. Call it in inference mode, always on one thread."""
        if cache.offset >= cache.allocated_tokens:
            self.reset()  # the cache will grow, which needs the graph's memory
        if self.disabled_reason or ids.shape[1] != 1 or cache.offset >= cache.allocated_tokens:
            return self._plain_step(ids, cache, last_only)
        tensors = cache.tensors()
        if not _same_tensors(self._cache_tensors, tensors):
            self.reset()
            self._cache_tensors = [weakref.ref(tensor) for tensor in tensors]
        if self._graph is not None:
            cache.advance(1)
            return self._replay(self._graph, ids, cache.offset - 1)
        logits = self._plain_step(ids, cache, last_only)
        self._steps += 1
        if self._steps >= WARMUP_STEPS:
            self._capture(ids, cache, logits)
        return logits

    def reset(self) -> None:
        """Frees the graph and the memory of its intermediate results."""
        self._graph = None
        self._cache_tensors = ()
        self._steps = 0

    def _plain_step(self, ids: Tensor, cache: KVCache, last_only: bool) -> Tensor:
        logits: Tensor = self._model(ids, cache, last_only=last_only)
        return logits

    @staticmethod
    def _replay(graph: _Graph, ids: Tensor, position: int) -> Tensor:
        graph.ids.copy_(ids)
        graph.position.fill_(position)
        graph.replay()
        return graph.logits

    def _capture(self, ids: Tensor, cache: KVCache, expected: Tensor) -> None:
        """Captures the step that has just run, and replays it to compare its logits."""
        end = cache.offset
        position = torch.full((1,), end - 1, device=ids.device)
        static_ids = ids.clone()

        def step() -> Tensor:
            cache.offset = end - 1
            return self._plain_step(static_ids, cache, last_only=True)

        try:
            cache.position = position
            if self._capture_step is not None:
                replay, logits = self._capture_step(step)
            else:
                replay, logits = capture(step, ids.device)
            cache.position = None
            graph = _Graph(static_ids, position, replay, logits)
            logits.zero_()  # otherwise a graph that does nothing would pass
            difference = (self._replay(graph, ids, end - 1) - expected).abs().max()
            if bool(difference <= TOLERANCE * expected[expected > expected.min()].std()):
                self._graph = graph
            else:
                self._disable(f"its logits are off by {float(difference):.3g}")
        except torch.OutOfMemoryError:
            self._disable("there is not enough memory for it")
        except RuntimeError as error:  # of the driver, or of a kernel that cannot be captured
            self._disable(str(error).partition("\n")[0])
        finally:
            cache.position = None
            cache.offset = end

    def _disable(self, reason: str) -> None:
        self.disabled_reason = reason
        self.reset()
        logger.warning("decoding without a CUDA graph: %s", reason)


def _same_tensors(refs: Sequence[weakref.ref[Tensor]], tensors: Sequence[Tensor]) -> bool:
    return len(refs) == len(tensors) and all(
        ref() is tensor for ref, tensor in zip(refs, tensors, strict=True)
    )
