"""read_gguf: the metadata and the tensors of a GGUF file, which is memory-mapped.

No number in the file is trusted: each count, length and offset is checked against the file's size
before it is used. (`gguf.GGUFReader` trusts them, and needs 3 s and 200 MB for 49,152 tokens.)
The format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from gguf.constants import GGML_QUANT_SIZES, GGUF_DEFAULT_ALIGNMENT, GGMLQuantizationType

from glmtui.engine.catalog.model_folder import LFS_POINTER
from glmtui.errors import BadCheckpoint, UnsupportedModel
from glmtui.language import N_, _

Bytes = npt.NDArray[np.uint8]
T = TypeVar("T")

VERSIONS = (2, 3)  # version 1 had 32-bit counts; such files are no longer in use
MAX_DIMENSIONS = 4  # GGML_MAX_DIMS
PART_NAME = re.compile(r"(?P<stem>.+)-\d{5}-of-(?P<count>\d{5})\.gguf")
PART_COUNT = "split.count"
MAX_PARTS = 1000  # a model of 1 TB has about 50
STRING, ARRAY = 8, 9  # types of metadata values
SCALARS = {  # the other types, as format characters of `struct`
    0: "B",
    1: "b",
    2: "H",
    3: "h",
    4: "I",
    5: "i",
    6: "f",
    7: "?",
    10: "Q",
    11: "q",
    12: "d",
}


@dataclass(frozen=True, slots=True)
class GGUFTensor:
    """A tensor in the file.

    Attributes:
        shape: in numpy's order, rows first (the file has the reverse order).
        data: uint8 [*shape[:-1], bytes per row]; a view of the mapped file.
    """

    name: str
    shape: tuple[int, ...]
    kind: GGMLQuantizationType
    data: Bytes


@dataclass(frozen=True, slots=True)
class GGUFFile:
    path: Path
    metadata: Mapping[str, Any]
    tensors: Mapping[str, GGUFTensor]

    def get(self, key: str, kind: type[T]) -> T | None:
        """The value of a metadata key; None if absent. Raises BadCheckpoint for another type."""
        value = self.metadata.get(key)
        if value is not None and not isinstance(value, kind):
            raise _damaged(
                self.path, _("{key} is not of type {kind}").format(key=key, kind=kind.__name__)
            )
        return value

    def require(self, key: str, kind: type[T]) -> T:
        """The value of a required metadata key. Raises BadCheckpoint if it is absent."""
        value = self.get(key, kind)
        if value is None:
            raise _damaged(self.path, _("{key} is missing").format(key=key))
        return value


def read_gguf(path: Path) -> GGUFFile:
    """Opens a GGUF file (version 2 or 3, little-endian), or all parts of a split one.

    Args:
        path: the file, or any part, named as llama-gguf-split does: NAME-00001-of-00003.gguf.

    Raises:
        BadCheckpoint: a part is missing or does not belong to the others, or as `read_part`.
        UnsupportedModel: as `read_part`.
    """
    file = read_part(path)
    count = file.get(PART_COUNT, int) or 1
    if count == 1:
        return file
    paths = split_paths(path)
    if len(paths) != count:
        raise BadCheckpoint(
            _(
                "{path} is one of {count} parts of a split file, but its name does not say which."
            ).format(path=path, count=count),
            _("Give the parts their original names: NAME-00001-of-{count:05}.gguf.").format(
                count=count
            ),
        )
    missing = [part.name for part in paths if not part.is_file()]
    if missing:
        named = ", ".join(missing[:3]) + (", …" if missing[3:] else "")
        raise BadCheckpoint(
            _("{path} is one of {count} parts. Missing in its folder ({missing}): {named}.").format(
                path=path, count=count, missing=len(missing), named=named
            ),
            _("Download all parts into one folder, and pull any of them."),
        )
    parts = [read_part(part) for part in paths]
    tensors: dict[str, GGUFTensor] = {}
    for number, part in enumerate(parts):
        if (part.get(PART_COUNT, int), part.get("split.no", int)) != (count, number):
            raise _damaged(part.path, _("the part number in its name is wrong"))
        duplicate = min(tensors.keys() & part.tensors.keys(), default=None)
        if duplicate is not None:
            raise _damaged(
                part.path, _("there are two tensors named {name}").format(name=duplicate)
            )
        tensors |= part.tensors
    total = parts[0].get("split.tensors.count", int)
    if total not in (None, len(tensors)):
        raise _damaged(
            paths[0],
            _("its parts have {count} tensors instead of {total}").format(
                count=len(tensors), total=total
            ),
        )
    return GGUFFile(path, parts[0].metadata, tensors)


def split_paths(path: Path) -> list[Path]:
    """The paths of all parts of a split file; only `path` if it is not named as a part."""
    named = PART_NAME.fullmatch(path.name)
    if named is None or int(named["count"]) > MAX_PARTS:
        return [path]
    stem, count = named["stem"], int(named["count"])
    return [path.with_name(f"{stem}-{n:05}-of-{count:05}.gguf") for n in range(1, count + 1)]


def model_name(path: Path) -> str:
    """The file name without its suffix and part number."""
    named = PART_NAME.fullmatch(path.name)
    return named["stem"] if named else path.stem


def read_part(path: Path) -> GGUFFile:
    """Opens one GGUF file.

    Raises:
        BadCheckpoint: it is unreadable, not a GGUF file, truncated or inconsistent.
        UnsupportedModel: the version or a tensor type is unknown.
    """
    try:
        if path.stat().st_size == 0:
            raise _damaged(path, _("it is empty"))
        mapped: Bytes = np.memmap(path, dtype=np.uint8, mode="r")
    except OSError as error:
        raise BadCheckpoint(
            _("Cannot read {path}: {reason}.").format(path=path, reason=error.strerror)
        ) from error
    header = _Header(path, mapped)
    if mapped[: len(LFS_POINTER)].tobytes() == LFS_POINTER:
        raise _damaged(
            path,
            _("it is a git-lfs pointer, not the file itself"),
            _("Download the file itself, for example with: git lfs pull"),
        )
    if header.read_bytes(4) != b"GGUF":
        raise _damaged(path, _("it does not begin with GGUF"), _("Check that this is a GGUF file."))
    version = header.read_scalar("I")
    if version not in VERSIONS:
        raise UnsupportedModel(
            _("{path}: GGUF version {version} is not supported, only 2 and 3.").format(
                path=path, version=version
            )
        )
    n_tensors, n_keys = header.read_scalar("Q"), header.read_scalar("Q")
    metadata = {
        header.read_string(): header.read_value(header.read_scalar("I")) for _key in range(n_keys)
    }
    descriptions = [header.read_tensor_info() for _tensor in range(n_tensors)]
    alignment = metadata.get("general.alignment", GGUF_DEFAULT_ALIGNMENT)
    if not isinstance(alignment, int) or alignment < 1:
        raise _damaged(path, _("its alignment is {number!r}").format(number=alignment))
    start = -(-header.at // alignment) * alignment
    tensors = {}
    for name, shape, number, offset in descriptions:
        if name in tensors:
            raise _damaged(path, _("there are two tensors named {name}").format(name=name))
        tensors[name] = _locate(path, mapped, name, shape, number, start + offset)
    return GGUFFile(path, metadata, tensors)


def _locate(
    path: Path, mapped: Bytes, name: str, shape: tuple[int, ...], number: int, start: int
) -> GGUFTensor:
    try:
        kind = GGMLQuantizationType(number)
    except ValueError:
        raise UnsupportedModel(
            _("{path}: tensor {name} has unknown type {number}.").format(
                path=path, name=name, number=number
            )
        ) from None
    per_block, block_bytes = GGML_QUANT_SIZES[kind]
    if shape[-1] % per_block:
        raise _damaged(
            path,
            _("rows of {count} columns in {name} do not divide into {kind} blocks").format(
                count=shape[-1], name=name, kind=kind.name
            ),
        )
    stored = (*shape[:-1], shape[-1] // per_block * block_bytes)
    end = start + prod(stored)
    if end > mapped.size:
        raise _damaged(
            path,
            _("it ends at byte {size:,}, before the end of {name} at {end:,}").format(
                size=mapped.size, name=name, end=end
            ),
            _(TRUNCATED),
        )
    return GGUFTensor(name, shape, kind, mapped[start:end].reshape(stored))


class _Header:
    """Reads the header of a file from start to end, and never beyond the end of the file."""

    def __init__(self, path: Path, mapped: Bytes) -> None:
        self.path = path
        self.mapped = mapped
        self.at = 0

    def read_bytes(self, count: int) -> bytes:
        end = self.at + count
        if end > self.mapped.size:
            raise _damaged(self.path, _("it ends inside its header"), _(TRUNCATED))
        piece = self.mapped[self.at : end].tobytes()
        self.at = end
        return piece

    def read_scalar(self, code: str) -> Any:
        return struct.unpack("<" + code, self.read_bytes(struct.calcsize("<" + code)))[0]

    def read_string(self) -> str:
        try:
            return self.read_bytes(self.read_scalar("Q")).decode("utf-8")
        except UnicodeDecodeError:
            raise _damaged(
                self.path, _("the bytes before {at:,} are not UTF-8 text").format(at=self.at)
            ) from None

    def read_value(self, kind: int) -> Any:
        if kind == STRING:
            return self.read_string()
        if kind in SCALARS:
            return self.read_scalar(SCALARS[kind])
        if kind != ARRAY:
            raise _damaged(
                self.path,
                _("a value before byte {at:,} has unknown type {kind}").format(
                    at=self.at, kind=kind
                ),
            )
        item, count = self.read_scalar("I"), self.read_scalar("Q")
        if item == STRING:
            return [self.read_string() for _ in range(count)]
        if item not in SCALARS:
            raise _damaged(
                self.path,
                _("a list before byte {at:,} has unknown type {kind}").format(
                    at=self.at, kind=item
                ),
            )
        code = np.dtype(SCALARS[item]).newbyteorder("<")
        return np.frombuffer(self.read_bytes(count * code.itemsize), code)

    def read_tensor_info(self) -> tuple[str, tuple[int, ...], int, int]:
        """Name, shape (rows first), type number, and offset from the start of the data."""
        name = self.read_string()
        n_dimensions = self.read_scalar("I")
        if not 1 <= n_dimensions <= MAX_DIMENSIONS:
            raise _damaged(
                self.path,
                _("tensor {name!r} has {count} dimensions").format(name=name, count=n_dimensions),
            )
        shape = struct.unpack(f"<{n_dimensions}Q", self.read_bytes(8 * n_dimensions))
        if 0 in shape:
            raise _damaged(self.path, _("tensor {name!r} is empty").format(name=name))
        return name, shape[::-1], self.read_scalar("I"), self.read_scalar("Q")


TRUNCATED = N_("The file is truncated. Copy or download it again.")


def _damaged(path: Path, what: str, hint: str = "") -> BadCheckpoint:
    return BadCheckpoint(
        _("{path} is damaged or not a GGUF file: {what}.").format(path=path, what=what), hint
    )
