"""Recorder: records decode steps and replays them as a CUDA graph does, on any device.

A CUDA graph launches the kernels of a step again, at the same addresses, without running Python.
A recording keeps the aten operations of a step and runs them again. Tensors that the step reads but
did not create are referenced weakly, because a graph does not keep their memory alive either.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map
from torch.utils.weak import TensorWeakRef

from glmtui.engine.runtime.cuda_graph import Replay

HOST_READS = ("_local_scalar_dense", "nonzero", "equal", "unique", "is_nonzero")


class Recording(TorchDispatchMode):
    """Records the operations that run inside it.

    Attributes:
        inputs: tensors that were read or written but not created, in order of first use.
        replays: number of replays.
    """

    def __init__(self) -> None:
        super().__init__()
        self._calls: list[tuple[Any, Any, Any, Any]] = []
        self._created: dict[int, Tensor] = {}
        self._inputs: dict[int, TensorWeakRef] = {}
        self.replays = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func.overloadpacket.__name__ in HOST_READS:
            raise RuntimeError(f"{func} reads on the host while a step is captured")
        kwargs = kwargs or {}
        recorded_args = tree_map(self._weaken, (tuple(args), kwargs))
        result = func(*args, **kwargs)
        for tensor in tensors_of(result):
            if not self._is_input(tensor):  # an in-place operation returns its input
                self._created.setdefault(id(tensor), tensor)
        self._calls.append((func, *recorded_args, tree_map(self._weaken, result)))
        return result

    @property
    def inputs(self) -> list[Tensor]:
        return [_alive(ref) for ref in self._inputs.values()]

    def replay(self) -> None:
        """Runs the operations again, on the same tensors.

        Raises:
            RuntimeError: a tensor that the step reads is freed; a GPU would read freed memory.
        """
        self.replays += 1
        with torch.inference_mode():
            for func, args, kwargs, result in self._calls:
                args, kwargs, result = tree_map(_alive, (args, kwargs, result))
                again = func(*args, **kwargs)
                for old, new in zip(tensors_of(result), tensors_of(again), strict=True):
                    if old.data_ptr() != new.data_ptr():  # neither a view nor in place
                        old.copy_(new)

    def _weaken(self, value: Any) -> Any:
        """The argument, with tensors that were not created here as weak references."""
        if not isinstance(value, Tensor) or id(value) in self._created:
            return value
        if not self._is_input(value):
            self._inputs[id(value)] = TensorWeakRef(value)
        return self._inputs[id(value)]

    def _is_input(self, tensor: Tensor) -> bool:
        ref = self._inputs.get(id(tensor))
        return ref is not None and ref() is tensor  # ids of freed tensors are reused


class Recorder:
    """A `cuda_graph.Capture` that records every captured step."""

    def __init__(self) -> None:
        self.recordings: list[Recording] = []

    def __call__(self, step: Callable[[], Tensor]) -> tuple[Replay, Tensor]:
        step()  # as `cuda_capture.capture` does
        recording = Recording()
        with recording:
            logits = step()
        self.recordings.append(recording)
        return recording.replay, logits

    @property
    def replays(self) -> int:
        return sum(recording.replays for recording in self.recordings)


def tensors_of(result: Any) -> Sequence[Tensor]:
    return [value for value in tree_flatten(result)[0] if isinstance(value, Tensor)]


def _alive(value: Any) -> Any:
    if not isinstance(value, TensorWeakRef):
        return value
    tensor = value()
    if tensor is None:
        raise RuntimeError("the captured step reads a tensor whose memory has been freed")
    return tensor
