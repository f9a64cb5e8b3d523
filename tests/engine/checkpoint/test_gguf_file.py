"""Reading GGUF files: what a sound one says, and that no damaged one is believed."""

from __future__ import annotations

import random
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGMLQuantizationType as Kind
from gguf import GGUFReader

from glmtui.engine.checkpoint.gguf import convert_gguf
from glmtui.engine.checkpoint.gguf.file import read_gguf
from glmtui.errors import BadCheckpoint, GlmtuiError, UnsupportedModel
from support.checkpoints import HIDDEN, write_gguf


def test_it_agrees_with_the_gguf_library(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "tiny.gguf", Kind.Q4_1)
    ours, theirs = read_gguf(path), GGUFReader(path)
    assert list(ours.tensors) == [tensor.name for tensor in theirs.tensors]
    for tensor in theirs.tensors:
        mine = ours.tensors[tensor.name]
        assert mine.kind == tensor.tensor_type
        assert mine.shape == tuple(reversed(tensor.shape.tolist()))
        assert mine.data.tobytes() == tensor.data.tobytes()
    assert ours.metadata
    for key, value in ours.metadata.items():
        field = theirs.fields[key].contents()
        assert (value.tolist() if isinstance(value, np.ndarray) else value) == field


def header(n_tensors: int = 0, n_keys: int = 0, version: int = 3) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, n_tensors, n_keys)


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


def tensor(name: str, shape: tuple[int, ...], kind: int = 0, offset: int = 0) -> bytes:
    return (
        text(name)
        + struct.pack("<I", len(shape))
        + struct.pack(f"<{len(shape)}Q", *shape)
        + struct.pack("<IQ", kind, offset)
    )


TERA = 1 << 40
DAMAGED: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "it is empty"),
    "other file": (b"PK\x03\x04" + bytes(100), "does not begin with GGUF"),
    "a note of git's": (b"version https://git-lfs.github.com/spec/v1\n", "a git-lfs pointer"),
    "cut in its header": (header()[:20], "ends inside its header"),
    "a tera of keys": (header(n_keys=TERA) + bytes(80), "ends inside its header"),
    "a tera of tensors": (header(TERA) + tensor("w", (1,)), "ends inside its header"),
    "a text of a tera": (header(n_keys=1) + struct.pack("<Q", TERA) + bytes(80), "inside its head"),
    "a list of a tera": (
        header(n_keys=1) + text("a") + struct.pack("<IIQ", 9, 0, TERA) + bytes(80),
        "ends inside its header",
    ),
    "texts by the tera": (
        header(n_keys=1) + text("a") + struct.pack("<IIQ", 9, 8, TERA) + bytes(80),
        "ends inside its header",
    ),
    "lists of lists": (
        header(n_keys=1) + text("a") + struct.pack("<IIQ", 9, 9, 2) + bytes(80),
        "unknown type 9",
    ),
    "a value of no type": (header(n_keys=1) + text("a") + struct.pack("<I", 77), "unknown type 77"),
    "no text": (header(n_keys=1) + struct.pack("<Q", 2) + b"\xff\xfe", "no text"),
    "a tensor of a tera": (header(1) + tensor("w", (TERA, TERA)) + bytes(64), "it ends at byte"),
    "a tensor far away": (header(1) + tensor("w", (8,), offset=TERA) + bytes(64), "it ends at"),
    "a tensor of nothing": (header(1) + tensor("w", (0, 8)) + bytes(64), "'w' is empty"),
    "many dimensions": (header(1) + tensor("w", (1,) * 9) + bytes(64), "9 dimensions"),
    "half a block": (header(1) + tensor("w", (20, 2), kind=3) + bytes(640), "do not divide"),
    "twice the same": (header(2) + tensor("w", (1,)) * 2 + bytes(64), "two tensors named w"),
    "odd alignment": (
        header(n_keys=1) + text("general.alignment") + struct.pack("<II", 4, 0),
        "alignment is 0",
    ),
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_damage_is_named_and_nothing_is_allocated(tmp_path: Path, kind: str) -> None:
    content, said = DAMAGED[kind]
    path = tmp_path / "bad.gguf"
    path.write_bytes(content)
    tracemalloc.start()
    try:
        with pytest.raises(BadCheckpoint, match=said) as caught:
            read_gguf(path)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
    assert str(path) in caught.value.message


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (header(version=1) + bytes(8), "version 1"),
        (header(1) + tensor("w", (1,), kind=999) + bytes(64), "unknown type 999"),
    ],
)
def test_what_is_newer_than_us_is_not_called_damaged(
    tmp_path: Path, content: bytes, said: str
) -> None:
    path = tmp_path / "new.gguf"
    path.write_bytes(content)
    with pytest.raises(UnsupportedModel, match=said):
        read_gguf(path)


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(BadCheckpoint, match="Cannot read"):
        read_gguf(tmp_path)


def test_metadata_of_another_type_is_damage(tmp_path: Path) -> None:
    file = read_gguf(write_gguf(tmp_path / "tiny.gguf"))
    assert file.need("llama.embedding_length", int) == HIDDEN
    assert file.get("nothing", str) is None
    with pytest.raises(BadCheckpoint, match=r"llama\.embedding_length is not of type str"):
        file.get("llama.embedding_length", str)
    with pytest.raises(BadCheckpoint, match="it has no nothing"):
        file.need("nothing", str)


def outcome(path: Path, folder: Path) -> Any:
    """How a conversion ends: None, or the error a user sees. Anything else is a bug."""
    folder.mkdir()
    try:
        convert_gguf(path, folder)
    except GlmtuiError as error:
        return error
    return None


def test_every_truncation_is_noticed(tmp_path: Path) -> None:
    content = write_gguf(tmp_path / "whole.gguf").read_bytes()
    last = max(t.data_offset + t.n_bytes for t in GGUFReader(tmp_path / "whole.gguf").tensors)
    rng = random.Random(0)
    cuts = [4, 8, 23, 24, last - 1, *(rng.randrange(last) for _ in range(60))]
    for n, cut in enumerate(cuts):
        path = tmp_path / f"cut{n}.gguf"
        path.write_bytes(content[:cut])
        assert isinstance(outcome(path, tmp_path / str(n)), BadCheckpoint), cut


def test_no_changed_byte_of_a_header_crashes(tmp_path: Path) -> None:
    whole = write_gguf(tmp_path / "whole.gguf")
    content = whole.read_bytes()
    size = GGUFReader(whole).data_offset
    rng = random.Random(1)
    errors = 0
    for n in range(150):
        changed = bytearray(content)
        for _ in range(rng.choice((1, 1, 4))):
            changed[rng.randrange(size)] = rng.choice((0, 1, 0x7F, 0xFF, rng.randrange(256)))
        path = tmp_path / f"changed{n}.gguf"
        path.write_bytes(changed)
        errors += outcome(path, tmp_path / str(n)) is not None
    assert errors > 20  # else the changes hit nothing that matters
