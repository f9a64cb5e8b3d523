"""GGUF files in parts, as llama-gguf-split and llama.cpp's converter write them."""

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
from support.checkpoints import write_gguf


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GLMTUI_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache" / "models"


def parts(folder: Path, small_first: bool = False, split: int = 5) -> list[Path]:
    folder.mkdir(exist_ok=True)
    write_gguf(folder / "tiny.gguf", Kind.Q8_0, split=split, small_first=small_first)
    return sorted(folder.glob("tiny-*.gguf"))


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("small_first", [False, True])
@pytest.mark.parametrize("named", [0, 1, -1])
def test_all_parts_are_read_whichever_is_named(
    tmp_path: Path, small_first: bool, named: int
) -> None:
    whole = write_gguf(tmp_path / "whole.gguf", Kind.Q8_0)
    split = parts(tmp_path / "split", small_first)
    assert len(split) > 2
    for source, name in ((whole, "a"), (split[named], "b")):
        (tmp_path / name).mkdir()
        convert_gguf(source, tmp_path / name)
    assert files(tmp_path / "a") == files(tmp_path / "b")


def test_a_model_in_parts_is_taken_in_once(tmp_path: Path, models: Path) -> None:
    split = parts(tmp_path / "split")
    infos = [pull(str(part)) for part in (split[-1], split[0])]
    assert {info.name for info in infos} == {"tiny"}
    assert [folder.name for folder in models.iterdir()] == ["tiny"]


def test_a_missing_part_is_named(tmp_path: Path, models: Path) -> None:
    first, second, *_ = parts(tmp_path / "split")
    second.unlink()
    with pytest.raises(BadCheckpoint, match=rf"folder \(1\): {second.name}") as caught:
        pull(str(first))
    assert "all parts into one folder" in caught.value.hint
    assert not list(models.glob("tiny*"))


def test_parts_that_were_renamed_say_how_they_are_named(tmp_path: Path) -> None:
    first, *others = parts(tmp_path / "split")
    with pytest.raises(BadCheckpoint, match="its name does not say so") as caught:
        read_gguf(first.rename(tmp_path / "split" / "model.gguf"))
    assert f"NAME-00001-of-{len(others) + 1:05}.gguf" in caught.value.hint


def test_parts_of_different_files_do_not_mix(tmp_path: Path) -> None:
    first, second, *_ = parts(tmp_path / "split")
    shutil.copy(first, second)
    with pytest.raises(BadCheckpoint, match="another part than its name says"):
        read_gguf(first)


def test_too_few_tensors_in_all_are_noticed(tmp_path: Path) -> None:
    split = parts(tmp_path / "split")
    content = split[0].read_bytes()
    at = re.search(rb"split\.tensors\.count.{4}", content, re.DOTALL)
    assert at is not None
    split[0].write_bytes(content[: at.end()] + b"\x63" + content[at.end() + 1 :])
    with pytest.raises(BadCheckpoint, match="instead of 99"):
        read_gguf(split[0])
