"""Split GGUF read_files, as llama-gguf-split and llama.cpp's converter write them."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from gguf import GGMLQuantizationType as Kind

from glmtui.engine.checkpoint.gguf import convert_gguf
from glmtui.engine.checkpoint.gguf.file import read_gguf
from glmtui.engine.pull import pull
from glmtui.errors import BadCheckpoint
from support.tiny_llama import write_gguf


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GLMTUI_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache" / "models"


def write_parts(folder: Path, small_first: bool = False, split: int = 5) -> list[Path]:
    folder.mkdir(exist_ok=True)
    write_gguf(folder / "tiny.gguf", Kind.Q8_0, split=split, small_first=small_first)
    return sorted(folder.glob("tiny-*.gguf"))


def read_files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("small_first", [False, True])
@pytest.mark.parametrize("named", [0, 1, -1])
def test_all_parts_are_read_from_any_of_them(tmp_path: Path, small_first: bool, named: int) -> None:
    whole = write_gguf(tmp_path / "whole.gguf", Kind.Q8_0)
    split = write_parts(tmp_path / "split", small_first)
    assert len(split) > 2
    for source, name in ((whole, "a"), (split[named], "b")):
        (tmp_path / name).mkdir()
        convert_gguf(source, tmp_path / name)
    assert read_files(tmp_path / "a") == read_files(tmp_path / "b")


def test_a_split_model_is_installed_once(tmp_path: Path, models: Path) -> None:
    split = write_parts(tmp_path / "split")
    infos = [pull(str(part)) for part in (split[-1], split[0])]
    assert {info.name for info in infos} == {"tiny"}
    assert [folder.name for folder in models.iterdir()] == ["tiny"]


def test_a_missing_part_is_named(tmp_path: Path, models: Path) -> None:
    first, second, *_ = write_parts(tmp_path / "split")
    second.unlink()
    with pytest.raises(BadCheckpoint, match=rf"folder \(1\): {second.name}") as caught:
        pull(str(first))
    assert "all parts into one folder" in caught.value.hint
    assert not list(models.glob("tiny*"))


def test_renamed_parts_get_a_hint(tmp_path: Path) -> None:
    first, *others = write_parts(tmp_path / "split")
    with pytest.raises(BadCheckpoint, match="its name does not say which") as caught:
        read_gguf(first.rename(tmp_path / "split" / "model.gguf"))
    assert f"NAME-00001-of-{len(others) + 1:05}.gguf" in caught.value.hint


def test_parts_of_different_files_do_not_mix(tmp_path: Path) -> None:
    first, second, *_ = write_parts(tmp_path / "split")
    shutil.copy(first, second)
    with pytest.raises(BadCheckpoint, match="part number in its name is wrong"):
        read_gguf(first)


def test_missing_tensors_are_noticed(tmp_path: Path) -> None:
    split = write_parts(tmp_path / "split")
    content = split[0].read_bytes()
    at = re.search(rb"split\.tensors\.count.{4}", content, re.DOTALL)
    assert at is not None
    split[0].write_bytes(content[: at.end()] + b"\x63" + content[at.end() + 1 :])
    with pytest.raises(BadCheckpoint, match="instead of 99"):
        read_gguf(split[0])
