"""GraphedSteps: the decode step captured once as a CUDA graph, so that a token is one launch.

Step by step a GPU waits for Python to launch hundreds of small kernels. A graph has them all, at
fixed addresses and shapes: the step writes its keys at a position that lies in a tensor, and looks
at all the room of the cache under a mask. No graph is believed unproven: the first replay has to
give what the step gave that was run as ever, or graphs are left alone. Knows caches, no tokens.
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

BEFORE = 4  # steps in the same room of a cache before capturing pays
TOLERANCE = 1 / 16  # of the logits' deviation: what another order of the same sums explains

Record: TypeAlias = Callable[[Callable[[], Tensor]], tuple[Replay, Tensor]]
"""Captures a step: gives what runs it again, and the tensor that its result appears in."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Graph:
    """A captured step: what it reads, and where its logits appear."""

    ids: Tensor
    position: Tensor
    replay: Replay
    logits: Tensor


class GraphedSteps:
    """Calls a decoder; single tokens go through a graph once there is one that has proven itself.

    A graph belongs to the memory of one cache: to every tensor of `KVCache.tensors`, which a new
    prompt in the same cache leaves where they are. Another conversation, or a cache that has
    grown, takes a few plain steps and then gets its own.

    Args:
        record: how to capture; for tests.
    """

    def __init__(self, model: Decoder, record: Record | None = None) -> None:
        self._model = model
        self._record = record
        self._graph: _Graph | None = None
        # of the cache that the graph, or the count, is for; not kept alive for that
        self._memory: Sequence[weakref.ref[Tensor]] = ()
        self._steps = 0
        self.refused = ""

    def __call__(self, ids: Tensor, cache: KVCache, *, last_only: bool = True) -> Tensor:
        """Logits as the decoder gives them. Call it in inference mode, always on one thread."""
        if cache.offset >= cache.allocated_tokens:
            self.forget()  # the cache grows, and needs the memory
        if self.refused or ids.shape[1] != 1 or cache.offset >= cache.allocated_tokens:
            return self._plain(ids, cache, last_only)
        memory = cache.tensors()
        if not same(self._memory, memory):
            self.forget()
            self._memory = [weakref.ref(tensor) for tensor in memory]
        if self._graph is not None:
            cache.advance(1)
            return self._replayed(self._graph, ids, cache.offset - 1)
        logits = self._plain(ids, cache, last_only)
        self._steps += 1
        if self._steps >= BEFORE:
            self._try(ids, cache, logits)
        return logits

    def forget(self) -> None:
        """Lets go of the graph, with the memory of its intermediate results."""
        self._graph = None
        self._memory = ()
        self._steps = 0

    def _plain(self, ids: Tensor, cache: KVCache, last_only: bool) -> Tensor:
        logits: Tensor = self._model(ids, cache, last_only=last_only)
        return logits

    @staticmethod
    def _replayed(graph: _Graph, ids: Tensor, position: int) -> Tensor:
        graph.ids.copy_(ids)
        graph.position.fill_(position)
        graph.replay()
        return graph.logits

    def _try(self, ids: Tensor, cache: KVCache, expected: Tensor) -> None:
        """Captures the step that was just taken, and takes it again to see that it is right."""
        end = cache.offset
        position = torch.full((1,), end - 1, device=ids.device)
        static = ids.clone()

        def step() -> Tensor:
            cache.offset = end - 1
            return self._plain(static, cache, last_only=True)

        try:
            cache.position = position
            replay, logits = self._record(step) if self._record else capture(step, ids.device)
            cache.position = None
            graph = _Graph(static, position, replay, logits)
            logits.zero_()  # a graph that does nothing proves nothing
            wrong = (self._replayed(graph, ids, end - 1) - expected).abs().max()
            if bool(wrong <= TOLERANCE * expected[expected > expected.min()].std()):
                self._graph = graph
            else:
                self._refuse(f"its logits are off by {float(wrong):.3g}")
        except torch.OutOfMemoryError:
            self._refuse("there is no memory for it")
        except RuntimeError as error:  # whatever the driver, or a kernel that cannot be captured
            self._refuse(str(error).partition("\n")[0])
        finally:
            cache.position = None
            cache.offset = end

    def _refuse(self, why: str) -> None:
        self.refused = why
        self.forget()
        logger.warning("decoding goes on without a CUDA graph: %s", why)


def same(known: Sequence[weakref.ref[Tensor]], tensors: Sequence[Tensor]) -> bool:
    """Whether these are the very tensors that are known."""
    return len(known) == len(tensors) and all(
        ref() is tensor for ref, tensor in zip(known, tensors, strict=True)
    )
