"""Asynchronous decoding: the GPU runs the next step while Python handles the last token.

If each token is read on the host before the next step is launched, the GPU idles between steps.
Here a token is sampled on the device and fed to the next step there; it is copied to the host and
read while that step runs. The step after a reply's last token is wasted; its token is not
committed, so the next prompt overwrites it. vLLM calls this async scheduling, SGLang the overlap
scheduler.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor

from glmtui.engine.runtime.sampling import DeviceSampler, non_finite_logits


class ForwardModel(Protocol):
    """What asynchronous decoding needs of `LoadedModel`."""

    def forward(self, ids: Tensor) -> Tensor:
        """Launches a step over ids, int64 [1, S]; returns logits after the last, [vocab]."""
        ...

    def commit(self, ids: Sequence[int]) -> None:
        """Records ids that were read, once they are known on the host."""
        ...


def async_decode(
    model: ForwardModel, sampler: DeviceSampler, logits: Tensor, prompt: Sequence[int], limit: int
) -> Iterator[int]:
    """The ids of a reply; each is yielded while the step over it runs.

    Args:
        logits: after the prompt, on the device. They are used before the next step is launched,
            which may overwrite them.
        limit: maximum number of ids; no step runs after the last one.

    Raises:
        EngineError: the logits hold NaN or infinity.
    """
    readback = TokenReadback(logits.device)
    sampled = sampler(logits)
    for steps_left in reversed(range(max(limit, 1))):
        readback.start(sampled)
        try:
            if steps_left:
                # a negative id would read outside the embedding, which ends the CUDA context
                valid = sampled.masked_fill(sampled < 0, prompt[-1])
                sampled = sampler(model.forward(valid[None]))
        finally:  # the token before a step that fails is valid
            token = readback.wait()
            if token < 0:
                raise non_finite_logits()
            yield token
        model.commit([token])


class TokenReadback:
    """Copies a token id from the device to the host without blocking the launch of more work.

    That needs pinned host memory, whose content is valid once an event has passed; see PyTorch's
    tutorial "A guide on good usage of non_blocking and pin_memory()".
    """

    def __init__(self, device: torch.device) -> None:
        on_gpu = device.type == "cuda"
        self._token = torch.empty(1, dtype=torch.int64, pin_memory=on_gpu)
        self._copied: torch.cuda.Event | None = None
        if on_gpu:  # `blocking`: the thread sleeps instead of spinning for most of a step
            self._copied = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]

    def start(self, token: Tensor) -> None:
        """Starts to copy an int64 [1]; the copy before must have been waited for."""
        self._token.copy_(token, non_blocking=True)
        if self._copied is not None:
            self._copied.record(torch.cuda.current_stream(token.device))

    def wait(self) -> int:
        """The id, once it has arrived."""
        if self._copied is not None:
            self._copied.synchronize()
        return int(self._token)
