"""FakeCuda: devices, streams, events and graphs of CUDA with a simulated clock.

As strict as CUDA: work is queued on the current stream of its device and done later, the time of an
event cannot be read before it has passed, captured work is not done, and a default stream cannot be
captured. `torch.cuda.graph` itself is torch's.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

LAUNCH = 10e-6  # seconds of Python per launch


class FakeCuda:
    """Replaces devices, streams, events and graphs of `torch.cuda`.

    Attributes:
        now: time of the host, in seconds.
        done: name and device of all work that was queued rather than captured.
    """

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        self.device = 0
        self.done: list[tuple[str, int]] = []
        self._default = {i: Stream(self, i) for i in range(4)}
        self._current = dict(self._default)
        patch.setattr(torch.cuda, "device", self._on_device)
        patch.setattr(torch.cuda, "stream", self._on_stream)
        patch.setattr(torch.cuda, "Stream", lambda device=None: Stream(self, self.index(device)))
        patch.setattr(torch.cuda, "current_stream", lambda d=None: self._current[self.index(d)])
        patch.setattr(torch.cuda, "Event", lambda **kinds: Event(self, **kinds))
        patch.setattr(torch.cuda, "CUDAGraph", lambda: Graph(self))
        patch.setattr(torch.cuda, "synchronize", self.synchronize)
        patch.setattr(torch.cuda, "empty_cache", lambda: None)
        patch.setattr(torch._C, "_host_emptyCache", lambda: None, raising=False)
        patch.setattr(torch.cuda.graph, "default_capture_stream", None)

    def index(self, device: torch.device | int | None) -> int:
        if isinstance(device, torch.device):
            device = device.index
        return self.device if device is None else device

    def launch(self, device: int, seconds: float, name: str = "work") -> None:
        """Launches a kernel on tensors of a device, whichever device is current."""
        self.now += LAUNCH
        stream = self._current[device]
        if stream.capturing is not None:
            stream.capturing.work.append((name, seconds))
        else:
            stream.queue(seconds)
            self.done.append((name, device))

    def synchronize(self, device: torch.device | int | None = None) -> None:
        where = self.index(device)
        for stream in {self._default[where], self._current[where]}:
            stream.synchronize()

    @contextmanager
    def _on_device(self, device: torch.device | int) -> Iterator[None]:
        before, self.device = self.device, self.index(device)
        yield
        self.device = before

    @contextmanager
    def _on_stream(self, stream: Stream) -> Iterator[None]:
        before = self._current[stream.index]
        self._current[stream.index] = stream
        with self._on_device(stream.index):
            yield
        self._current[stream.index] = before


class Stream:
    def __init__(self, cuda: FakeCuda, index: int) -> None:
        self._cuda = cuda
        self.index = index
        self.ends = 0.0  # when all that was queued is done
        self.capturing: Graph | None = None

    def queue(self, seconds: float) -> None:
        self.ends = max(self.ends, self._cuda.now) + seconds

    def wait_stream(self, other: Stream) -> None:
        self.ends = max(self.ends, other.ends)

    def synchronize(self) -> None:
        if self.capturing is not None:
            raise RuntimeError("operation not permitted when stream is capturing")
        self._cuda.now = max(self._cuda.now, self.ends)


class Event:
    def __init__(self, cuda: FakeCuda, *, enable_timing: bool = False) -> None:
        self._cuda = cuda
        self._timed = enable_timing
        self._at: tuple[int, float] | None = None

    def record(self, stream: Stream | None = None) -> None:
        stream = stream or self._cuda._current[self._cuda.device]
        if stream.capturing is not None:
            raise RuntimeError("an event of a captured stream has no time")
        self._at = stream.index, max(stream.ends, self._cuda.now)

    def synchronize(self) -> None:
        if self._at is not None:
            self._cuda.now = max(self._cuda.now, self._at[1])

    def elapsed_time(self, end: Event) -> float:
        """In milliseconds."""
        if self._at is None or end._at is None or not (self._timed and end._timed):
            raise ValueError("Both events must be recorded before calculating elapsed time.")
        if self._at[0] != end._at[0]:
            raise RuntimeError("invalid resource handle")
        if max(self._at[1], end._at[1]) > self._cuda.now:
            raise RuntimeError("device not ready")
        return 1000 * (end._at[1] - self._at[1])


class Graph:
    def __init__(self, cuda: FakeCuda) -> None:
        self._cuda = cuda
        self._stream: Stream | None = None
        self.work: list[tuple[str, float]] = []

    def capture_begin(self, *args: Any, **kwargs: Any) -> None:
        stream = self._cuda._current[self._cuda.device]
        if stream is self._cuda._default[stream.index]:
            raise RuntimeError("CUDA graphs must be captured on a non-default stream.")
        self._stream, stream.capturing = stream, self

    def capture_end(self) -> None:
        assert self._stream is not None
        self._stream.capturing = None

    def replay(self) -> None:
        """One launch of all the work, on the device of the capture."""
        assert self._stream is not None
        self._cuda.now += LAUNCH
        index = self._stream.index
        self._cuda._current[index].queue(sum(seconds for _name, seconds in self.work))
        self._cuda.done += [(name, index) for name, _seconds in self.work]
