"""Overlapped decoding: the GPU takes the next step while Python still hears of the last token.

Where each token is read before the next step is launched, the GPU has a pause at every token. Here
a token is drawn where its logits are and goes straight into the next step; its number is copied to
the host on the way and read while that step runs. The step behind a reply's last token is taken in
vain: its token is not noted, and what was not noted the next prompt is read over. (vLLM calls this
async scheduling, SGLang the overlap scheduler.) Knows ids and devices, no model and no graph.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor

from glmtui.engine.runtime.sampling import DeviceSampler, broken_numbers


class Feeder(Protocol):
    """What reads ids: `generate.LoadedModel`."""

    def feed(self, ids: Tensor) -> Tensor:
        """Launches a step over ids, int64 [1, S]; returns logits after the last, [vocab]."""
        ...

    def note(self, ids: Sequence[int]) -> None:
        """Says which ids were fed, once they are known."""
        ...


def async_decode(
    feeder: Feeder, sampler: DeviceSampler, logits: Tensor, prompt: Sequence[int], room: int
) -> Iterator[int]:
    """The ids of a reply; each is told while the step over it runs.

    Args:
        logits: after the prompt, on the device; they are used before the next step is launched,
            which may write its own in their place.
        room: how many ids there will be at most; the last one is not fed.

    Raises:
        EngineError: the logits hold NaN or infinity.
    """
    mailbox = AsyncScalar(logits.device)
    drawn = sampler(logits)
    for left in reversed(range(max(room, 1))):
        mailbox.send(drawn)
        try:
            if left:
                # an id that no table has would be the end of all work on a GPU
                known = drawn.masked_fill(drawn < 0, prompt[-1])
                drawn = sampler(feeder.feed(known[None]))
        finally:  # where the step fails, the token is told all the same
            token = mailbox.receive()
            if token < 0:
                raise broken_numbers()
            yield token
        feeder.note([token])


class AsyncScalar:
    """Where numbers of a device arrive one by one, without anybody waiting when they are sent.

    The host's memory has to be pinned for that, and says nothing before the event has passed; see
    "A guide on good usage of non_blocking and pin_memory()" among PyTorch's tutorials.
    """

    def __init__(self, device: torch.device) -> None:
        on_gpu = device.type == "cuda"
        self._number = torch.empty(1, dtype=torch.int64, pin_memory=on_gpu)
        self._arrived: torch.cuda.Event | None = None
        if on_gpu:  # waiting sleeps and does not spin: the GPU has work for a whole step
            self._arrived = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]

    def send(self, number: Tensor) -> None:
        """Starts the way of an int64 [1]; the last one must have been received."""
        self._number.copy_(number, non_blocking=True)
        if self._arrived is not None:
            self._arrived.record(torch.cuda.current_stream(number.device))

    def receive(self) -> int:
        """The number that was sent, as soon as it is there."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return int(self._number)
