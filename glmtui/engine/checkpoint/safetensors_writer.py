"""TensorFile: a safetensors file written tensor by tensor, one of them in memory at a time.

`safetensors.torch.save_file` would want them all at once. Knows the file format, no model.
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

ENTRY_BYTES = 160  # of a tensor's entry in the header, less its name
PIECE_BYTES = 8 << 20  # written at a time

DTYPES = {  # as the header spells them
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
    """A safetensors file that grows; a context manager, valid once it was left without an error.

    The format has its header in front, so room is kept for it and filled at the end.

    Args:
        names: of all tensors that may be added.

    Raises:
        OSError: the disk is full or may not be written.
    """

    def __init__(self, path: Path, names: list[str]) -> None:
        self.nbytes = 0
        self._entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
        self._room = ENTRY_BYTES + sum(len(name.encode()) + ENTRY_BYTES for name in names)
        self._room += -self._room % 8
        self._file = path.open("wb")
        self._file.seek(8 + self._room)

    def add(self, name: str, tensor: Tensor) -> None:
        """Writes a tensor, from whatever device it is on."""
        start = self.nbytes
        data = tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data
        for at in range(0, len(data), PIECE_BYTES):
            self._file.write(data[at : at + PIECE_BYTES])
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
                assert len(header) <= self._room, "names were not told of at the start"
                file.seek(0)
                file.write(struct.pack("<Q", self._room) + header.ljust(self._room))
                file.flush()
                os.fsync(file.fileno())
