"""AllocationLog: counts what torch allocates on each device, as a caching allocator does.

Works with real tensors, on the meta device and with fake CUDA tensors, which have sizes but
no data. A storage counts from the operation that creates it until Python frees it.
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

ALIGNMENT = 512  # bytes; CUDA's caching allocator rounds up to a multiple


class AllocationLog(TorchDispatchMode):
    """Counts the bytes of storages by the device of the tensors on them.

    Attributes:
        live: bytes allocated now.
        peak: most bytes allocated so far.
        created: bytes of every storage, in order, with the operation that created it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live: defaultdict[str, int] = defaultdict(int)
        self.peak: defaultdict[str, int] = defaultdict(int)
        self.created: list[tuple[int, str]] = []
        self._known: dict[int, weakref.ref[Any]] = {}

    def reset_peak(self) -> None:
        """Starts the peak again at what is allocated now."""
        self.peak = defaultdict(int, self.live)

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        for tensor in _tensors((args, kwargs)):
            self._track(tensor, None)
        result = self.run(func, args, kwargs or {})
        for tensor in _tensors(result):
            self._track(tensor, str(func))
        return result

    def run(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Runs the operation; a composite one as the operations that it consists of."""
        if func.namespace == "aten":
            with self:
                whole = func.decompose(*args, **kwargs)
            if whole is not NotImplemented:
                return whole
        return func(*args, **kwargs)

    def _track(self, tensor: Tensor, created_by: str | None) -> None:
        """Counts a new storage, unless it existed before the log started."""
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._known:
            return
        if created_by is None:  # an argument from before the log started
            self._known[key] = weakref.ref(storage, lambda _: self._known.pop(key, None))
            return
        nbytes = -(-storage.nbytes() // ALIGNMENT) * ALIGNMENT
        device = str(tensor.device)
        self._known[key] = weakref.ref(storage, lambda _: self._drop(key, device, nbytes))
        self.created.append((storage.nbytes(), created_by))
        self.live[device] += nbytes
        self.peak[device] = max(self.peak[device], self.live[device])

    def _drop(self, key: int, device: str, nbytes: int) -> None:
        self._known.pop(key, None)
        self.live[device] -= nbytes


class MappedCheckpoint(Checkpoint):
    """A checkpoint that an `AllocationLog` can watch: tensors mapped from files are not counted."""

    def read_tensor(self, name: str) -> Tensor:
        with _disable_current_modes():
            return super().read_tensor(name)


def _tensors(values: Any) -> Iterator[Tensor]:
    return (leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor))
