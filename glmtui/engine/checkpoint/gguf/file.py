"""What is in a GGUF file: its metadata, and where each tensor's bytes are.

The file is mapped, never read whole, and nothing in it is believed: every count, length and offset
is held against the size of the file before it is used, so that a header of 100 bytes that claims
a terabyte is an error and not an allocation. (`gguf.GGUFReader` believes them: it loops over a
claimed array length until memory is gone, and takes 3 s and 200 MB for a tokenizer of 49,152
tokens. Block sizes and names of the types are that library's.)

The format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. Nothing here knows a model.
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

from glmtui.errors import BadCheckpoint, UnsupportedModel
from glmtui.language import N_, _

Bytes = npt.NDArray[np.uint8]
T = TypeVar("T")

VERSIONS = (2, 3)  # version 1 counted in 32 bits; no file in the wild still has it
MAX_DIMENSIONS = 4  # GGML_MAX_DIMS
PART_NAME = re.compile(r"(?P<stem>.+)-\d{5}-of-(?P<count>\d{5})\.gguf")
PART_COUNT = "split.count"
MAX_PARTS = 1000  # a model of a terabyte has some fifty
LFS_POINTER = b"version https://git-lfs"  # what git leaves where it did not fetch a large file
STRING, ARRAY = 8, 9
SCALARS = {
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
    """A tensor as it lies in the file.

    Attributes:
        shape: in numpy's order, rows first (the file has it the other way round).
        data: uint8 [*shape[:-1], bytes of a row]; a view of the mapped file.
    """

    name: str
    shape: tuple[int, ...]
    kind: GGMLQuantizationType
    data: Bytes


@dataclass(frozen=True, slots=True)
class GGUFFile:
    """A GGUF file, open."""

    path: Path
    metadata: Mapping[str, Any]
    tensors: Mapping[str, GGUFTensor]

    def get(self, key: str, kind: type[T]) -> T | None:
        """The value of a metadata key, None if it is absent. Raises BadCheckpoint: another type."""
        value = self.metadata.get(key)
        if value is not None and not isinstance(value, kind):
            raise _bad(
                self.path, _("its {key} is not of type {kind}").format(key=key, kind=kind.__name__)
            )
        return value

    def need(self, key: str, kind: type[T]) -> T:
        """The value of a metadata key that must be there. Raises BadCheckpoint."""
        value = self.get(key, kind)
        if value is None:
            raise _bad(self.path, _("it has no {key}").format(key=key))
        return value


def read_gguf(path: Path) -> GGUFFile:
    """Opens a GGUF file (version 2 or 3, little-endian), or all parts of one that was split.

    Args:
        path: the file, or any part as llama-gguf-split names them: NAME-00001-of-00003.gguf.

    Raises:
        BadCheckpoint: a part is missing; or as `read_part`.
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
                "{path} is one of {count} parts of a split file, and its name does not say so."
            ).format(path=path, count=count),
            _("Name the parts as before: NAME-00001-of-{count:05}.gguf.").format(count=count),
        )
    missing = [part.name for part in paths if not part.is_file()]
    if missing:
        named = ", ".join(missing[:3]) + (", …" if missing[3:] else "")
        raise BadCheckpoint(
            _(
                "{path} is one of {count} parts. Missing from its folder ({missing}): {named}."
            ).format(path=path, count=count, missing=len(missing), named=named),
            _("Put all parts into one folder, from where this one came, and pull any of them."),
        )
    parts = [read_part(part) for part in paths]
    tensors: dict[str, GGUFTensor] = {}
    for number, part in enumerate(parts):
        if (part.get(PART_COUNT, int), part.get("split.no", int)) != (count, number):
            raise _bad(part.path, _("it is another part than its name says"))
        twice = min(tensors.keys() & part.tensors.keys(), default=None)
        if twice is not None:
            raise _bad(part.path, _("it holds two tensors named {name}").format(name=twice))
        tensors |= part.tensors
    total = parts[0].get("split.tensors.count", int)
    if total not in (None, len(tensors)):
        raise _bad(
            paths[0],
            _("its parts hold {count} tensors instead of {total}").format(
                count=len(tensors), total=total
            ),
        )
    return GGUFFile(path, parts[0].metadata, tensors)


def split_paths(path: Path) -> list[Path]:
    """Where the parts of a split file lie; the file alone where its name is not of a part."""
    named = PART_NAME.fullmatch(path.name)
    if named is None or int(named["count"]) > MAX_PARTS:
        return [path]
    stem, count = named["stem"], int(named["count"])
    return [path.with_name(f"{stem}-{n:05}-of-{count:05}.gguf") for n in range(1, count + 1)]


def model_name(path: Path) -> str:
    """The name without its ending, and without which part it is."""
    named = PART_NAME.fullmatch(path.name)
    return named["stem"] if named else path.stem


def read_part(path: Path) -> GGUFFile:
    """Opens one GGUF file.

    Raises:
        BadCheckpoint: it cannot be read, is no GGUF file, ends early, or contradicts itself.
        UnsupportedModel: a version or a tensor type this program does not know.
    """
    try:
        if path.stat().st_size == 0:
            raise _bad(path, _("it is empty"))
        mapped: Bytes = np.memmap(path, dtype=np.uint8, mode="r")
    except OSError as error:
        raise BadCheckpoint(
            _("Cannot read {path}: {reason}.").format(path=path, reason=error.strerror)
        ) from error
    header = _Header(path, mapped)
    if mapped[: len(LFS_POINTER)].tobytes() == LFS_POINTER:
        raise _bad(
            path,
            _("it is a git-lfs pointer, not the file itself"),
            _("Fetch the file itself, such as with: git lfs pull"),
        )
    if header.take(4) != b"GGUF":
        raise _bad(path, _("it does not begin with GGUF"), _("Is it another kind of file?"))
    version = header.scalar("I")
    if version not in VERSIONS:
        raise UnsupportedModel(
            _("{path}: GGUF version {version} (2 and 3 are known).").format(
                path=path, version=version
            )
        )
    n_tensors, n_keys = header.scalar("Q"), header.scalar("Q")
    metadata = {header.string(): header.value(header.scalar("I")) for _key in range(n_keys)}
    described = [header.tensor() for _tensor in range(n_tensors)]
    alignment = metadata.get("general.alignment", GGUF_DEFAULT_ALIGNMENT)
    if not isinstance(alignment, int) or alignment < 1:
        raise _bad(path, _("its alignment is {number!r}").format(number=alignment))
    start = -(-header.at // alignment) * alignment
    tensors = {}
    for name, shape, number, offset in described:
        if name in tensors:
            raise _bad(path, _("it holds two tensors named {name}").format(name=name))
        tensors[name] = _locate(path, mapped, name, shape, number, start + offset)
    return GGUFFile(path, metadata, tensors)


def _locate(
    path: Path, mapped: Bytes, name: str, shape: tuple[int, ...], number: int, start: int
) -> GGUFTensor:
    try:
        kind = GGMLQuantizationType(number)
    except ValueError:
        raise UnsupportedModel(
            _("{path}: tensor {name} is of the unknown type {number}.").format(
                path=path, name=name, number=number
            )
        ) from None
    per_block, block_bytes = GGML_QUANT_SIZES[kind]
    if shape[-1] % per_block:
        raise _bad(
            path,
            _("rows of {count} in {name} do not divide into {kind} blocks").format(
                count=shape[-1], name=name, kind=kind.name
            ),
        )
    stored = (*shape[:-1], shape[-1] // per_block * block_bytes)
    end = start + prod(stored)
    if end > mapped.size:
        raise _bad(
            path,
            _("it ends at byte {size:,} and {name} at {end:,}").format(
                size=mapped.size, name=name, end=end
            ),
            _(TRUNCATED),
        )
    return GGUFTensor(name, shape, kind, mapped[start:end].reshape(stored))


class _Header:
    """Reads the part before the tensors, front to back, never past the end."""

    def __init__(self, path: Path, mapped: Bytes) -> None:
        self.path = path
        self.mapped = mapped
        self.at = 0

    def take(self, count: int) -> bytes:
        end = self.at + count
        if end > self.mapped.size:
            raise _bad(self.path, _("it ends inside its header"), _(TRUNCATED))
        piece = self.mapped[self.at : end].tobytes()
        self.at = end
        return piece

    def scalar(self, code: str) -> Any:
        return struct.unpack("<" + code, self.take(struct.calcsize("<" + code)))[0]

    def string(self) -> str:
        try:
            return self.take(self.scalar("Q")).decode("utf-8")
        except UnicodeDecodeError:
            raise _bad(
                self.path, _("there is no text before byte {at:,}").format(at=self.at)
            ) from None

    def value(self, kind: int) -> Any:
        if kind == STRING:
            return self.string()
        if kind in SCALARS:
            return self.scalar(SCALARS[kind])
        if kind != ARRAY:
            raise _bad(
                self.path,
                _("a value before byte {at:,} is of the unknown type {kind}").format(
                    at=self.at, kind=kind
                ),
            )
        item, count = self.scalar("I"), self.scalar("Q")
        if item == STRING:
            return [self.string() for _ in range(count)]
        if item not in SCALARS:
            raise _bad(
                self.path,
                _("a list before byte {at:,} is of the unknown type {kind}").format(
                    at=self.at, kind=item
                ),
            )
        code = np.dtype(SCALARS[item]).newbyteorder("<")
        return np.frombuffer(self.take(count * code.itemsize), code)

    def tensor(self) -> tuple[str, tuple[int, ...], int, int]:
        """Name, shape (rows first), number of the type, and offset from where the data starts."""
        name = self.string()
        n_dimensions = self.scalar("I")
        if not 1 <= n_dimensions <= MAX_DIMENSIONS:
            raise _bad(
                self.path,
                _("tensor {name!r} has {count} dimensions").format(name=name, count=n_dimensions),
            )
        shape = struct.unpack(f"<{n_dimensions}Q", self.take(8 * n_dimensions))
        if 0 in shape:
            raise _bad(self.path, _("tensor {name!r} is empty").format(name=name))
        return name, shape[::-1], self.scalar("I"), self.scalar("Q")


TRUNCATED = N_("The file was cut short: copy or download it again.")


def _bad(path: Path, what: str, hint: str = "") -> BadCheckpoint:
    return BadCheckpoint(
        _("{path} is damaged or no GGUF file: {what}.").format(path=path, what=what), hint
    )
