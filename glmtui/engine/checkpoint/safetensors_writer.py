"""SafetensorsWriter: writes a safetensors file tensor by tensor, with one of them in memory.

For tensors whose shapes are known only when they are made; see also `safetensors_header`.
"""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from glmtui.engine.checkpoint.safetensors_header import ALIGNMENT, METADATA

# Upper limit of a tensor's header entry without its name: two keys of dtype and shape, and two
# offsets of up to 20 digits.
ENTRY_BYTES = 160
CHUNK_BYTES = 8 << 20  # written at a time, so that a slow disk does not block for long

DTYPES = {  # as safetensors spells them
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


class SafetensorsWriter:
    """A safetensors file being written; a context manager.

    The header is at the start of the file, so space for it is reserved and filled in on exit. If
    the `with` block raises, the file stays without a header and is not valid.

    Args:
        names: of all tensors that may be added.

    Raises:
        OSError: the disk is full or not writable.
    """

    def __init__(self, path: Path, names: list[str]) -> None:
        self.nbytes = 0
        self._entries: dict[str, Any] = dict(METADATA)
        reserved = ENTRY_BYTES + sum(len(name.encode()) + ENTRY_BYTES for name in names)
        self._header_bytes = reserved + -reserved % ALIGNMENT
        self._file = path.open("wb")
        self._file.seek(8 + self._header_bytes)

    def add(self, name: str, tensor: Tensor) -> None:
        """Writes a tensor, which may be on any device."""
        start = self.nbytes
        data = tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data
        for at in range(0, len(data), CHUNK_BYTES):
            self._file.write(data[at : at + CHUNK_BYTES])
        self.nbytes += len(data)
        self._entries[name] = {
            "dtype": DTYPES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [start, self.nbytes],
        }

    def __enter__(self) -> SafetensorsWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with self._file as file:
            if kind is None:
                header = json.dumps(self._entries, separators=(",", ":")).encode()
                assert len(header) <= self._header_bytes, "a tensor was added that is not in names"
                file.seek(0)
                file.write(struct.pack("<Q", self._header_bytes) + header.ljust(self._header_bytes))
                file.flush()
                os.fsync(file.fileno())
