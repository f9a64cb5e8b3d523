"""The header of a safetensors file, for writers that know all tensors before they write the first.

`safetensors.torch.save_file` needs every tensor in memory at once. Imports no torch.
The format: https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

METADATA = {"__metadata__": {"format": "pt"}}
ALIGNMENT = 8  # bytes; the format asks for tensor data that starts at a multiple of this


class TensorEntry(NamedTuple):
    """One tensor of a file.

    Attributes:
        dtype: as safetensors spells it, such as "BF16".
        nbytes: of its data.
    """

    name: str
    dtype: str
    shape: Sequence[int]
    nbytes: int


def encode_header(tensors: Iterable[TensorEntry]) -> bytes:
    """The bytes before the data of these tensors, which must follow in the same order."""
    header: dict[str, Any] = dict(METADATA)
    end = 0
    for tensor in tensors:
        start, end = end, end + tensor.nbytes
        header[tensor.name] = {
            "dtype": tensor.dtype,
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    return struct.pack("<Q", len(text)) + text
