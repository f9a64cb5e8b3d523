"""AllocationLog: what torch allocates while it is on, by device, as a caching allocator counts it.

Works on real tensors, on the meta device and on fake CUDA tensors, whose storages have sizes though
no data. A storage counts from the operation that makes it until Python lets go of it.
"""

from __future__ import annotations

import weakref
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves

from glmtui.engine.checkpoint.checkpoint import Checkpoint

ALIGNMENT = 512  # bytes; CUDA's caching allocator hands out multiples


class AllocationLog(TorchDispatchMode):
    """Counts the bytes of storages by the device of the tensors on them.

    Attributes:
        live: bytes held now.
        peak: most bytes ever held.
        made: bytes of every storage, in order, with the operation that made it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live: defaultdict[str, int] = defaultdict(int)
        self.peak: defaultdict[str, int] = defaultdict(int)
        self.made: list[tuple[int, str]] = []
        self._known: dict[int, weakref.ref[Any]] = {}

    def reset_peak(self) -> None:
        """Lets the peak begin with what is held now."""
        self.peak = defaultdict(int, self.live)

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        for tensor in _tensors((args, kwargs)):
            self._meet(tensor, None)
        result = self.run(func, args, kwargs or {})
        for tensor in _tensors(result):
            self._meet(tensor, str(func))
        return result

    def run(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Calls the operation; a composite one as the operations it is made of."""
        if func.namespace == "aten":
            with self:
                whole = func.decompose(*args, **kwargs)
            if whole is not NotImplemented:
                return whole
        return func(*args, **kwargs)

    def _meet(self, tensor: Tensor, made_by: str | None) -> None:
        """Counts a storage seen for the first time, unless it was there before the log began."""
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._known:
            return
        if made_by is None:  # an argument that nothing here has made
            self._known[key] = weakref.ref(storage, lambda _: self._known.pop(key, None))
            return
        nbytes = -(-storage.nbytes() // ALIGNMENT) * ALIGNMENT
        device = str(tensor.device)
        self._known[key] = weakref.ref(storage, lambda _: self._drop(key, device, nbytes))
        self.made.append((storage.nbytes(), made_by))
        self.live[device] += nbytes
        self.peak[device] = max(self.peak[device], self.live[device])

    def _drop(self, key: int, device: str, nbytes: int) -> None:
        self._known.pop(key, None)
        self.live[device] -= nbytes


class MappedCheckpoint(Checkpoint):
    """A checkpoint that can be read under a log: what lies mapped in its files is not counted."""

    def _tensor(self, name: str) -> Tensor:
        with _disable_current_modes():
            return super()._tensor(name)


def _tensors(values: Any) -> Iterator[Tensor]:
    return (leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor))
