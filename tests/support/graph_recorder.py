"""`Tape`: a recorder for captured decode steps that behaves as a CUDA graph does, on any device.

A CUDA graph launches the kernels of a step again, on the addresses that they had; Python does not
run. So the tape keeps the aten operations of a step and runs those again. Whatever a step reads
that it did not make itself is held by weak references: a graph does not keep memory alive either.
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


class Tape(TorchDispatchMode):
    """Records the operations that run inside it.

    Attributes:
        inputs: the tensors that were read or written and made elsewhere, in order of first use.
        replayed: how often the operations ran again.
    """

    def __init__(self) -> None:
        super().__init__()
        self._calls: list[tuple[Any, Any, Any, Any]] = []
        self._made: dict[int, Tensor] = {}
        self._found: dict[int, TensorWeakRef] = {}
        self.replayed = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func.overloadpacket.__name__ in HOST_READS:
            raise RuntimeError(f"{func} reads on the host while a step is captured")
        kwargs = kwargs or {}
        noted = tree_map(self._note, (tuple(args), kwargs))
        result = func(*args, **kwargs)
        for tensor in tensors_of(result):
            if not self._is_input(tensor):  # which an operation in place returns
                self._made.setdefault(id(tensor), tensor)
        self._calls.append((func, *noted, tree_map(self._note, result)))
        return result

    @property
    def inputs(self) -> list[Tensor]:
        return [_alive(found) for found in self._found.values()]

    def replay(self) -> None:
        """Runs the operations on the tensors of the recording, results included.

        Raises:
            RuntimeError: a tensor that the step read is gone; a GPU would read freed memory.
        """
        self.replayed += 1
        with torch.inference_mode():
            for func, args, kwargs, result in self._calls:
                args, kwargs, result = tree_map(_alive, (args, kwargs, result))
                again = func(*args, **kwargs)
                for kept, new in zip(tensors_of(result), tensors_of(again), strict=True):
                    if kept.data_ptr() != new.data_ptr():  # neither a view nor in place
                        kept.copy_(new)

    def _note(self, value: Any) -> Any:
        """What is kept of an argument: tensors made elsewhere by weak reference."""
        if not isinstance(value, Tensor) or id(value) in self._made:
            return value
        if not self._is_input(value):
            self._found[id(value)] = TensorWeakRef(value)
        return self._found[id(value)]

    def _is_input(self, tensor: Tensor) -> bool:
        known = self._found.get(id(tensor))
        return known is not None and known() is tensor  # ids are used again


class Recorder:
    """A `cuda_graph.Capture` that makes a tape of every captured step."""

    def __init__(self) -> None:
        self.tapes: list[Tape] = []

    def __call__(self, step: Callable[[], Tensor]) -> tuple[Replay, Tensor]:
        step()  # as `cuda_graph.capture` does
        tape = Tape()
        with tape:
            logits = step()
        self.tapes.append(tape)
        return tape.replay, logits

    @property
    def replayed(self) -> int:
        return sum(tape.replayed for tape in self.tapes)


def tensors_of(result: Any) -> Sequence[Tensor]:
    return [value for value in tree_flatten(result)[0] if isinstance(value, Tensor)]


def _alive(value: Any) -> Any:
    if not isinstance(value, TensorWeakRef):
        return value
    tensor = value()
    if tensor is None:
        raise RuntimeError("the captured step reads a tensor whose memory has been freed")
    return tensor
