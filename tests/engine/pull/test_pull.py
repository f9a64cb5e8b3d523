"""Pulling what is on the disk already: folders of the user's, and GGUF files."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest
from gguf import GGMLQuantizationType as Kind

from glmtui.engine.catalog import resolver
from glmtui.engine.progress import Progress
from glmtui.engine.pull import pull
from glmtui.engine.pull.staging import PullCancelled
from glmtui.errors import BadCheckpoint, DownloadError, ModelNotFound, UnsupportedModel
from support.checkpoints import llama_files, write_folder, write_gguf


@pytest.fixture(autouse=True)
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GLMTUI_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache" / "models"


def test_a_folder_is_noted_and_stays_where_it_is(tmp_path: Path, models: Path) -> None:
    folder = write_folder(tmp_path / "my-model", llama_files(shards=2))
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    info = pull(str(folder))
    assert (info.name, info.path, info.family) == ("my-model", folder, "llama")
    assert resolver.resolve("my-model") == info
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert [path.name for path in (models / "my-model").iterdir()] == ["manifest.json"]


def test_its_owner_may_train_on_in_it(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "m", llama_files())
    pull(str(folder))
    with (folder / "model.safetensors").open("ab") as file:
        file.write(b"longer")
    assert resolver.resolve("m") == resolver.installed_models()[0]


def test_folders_of_one_name_get_two(tmp_path: Path) -> None:
    first = write_folder(tmp_path / "a" / "model", llama_files())
    second = write_folder(tmp_path / "b" / "model", llama_files())
    assert pull(str(first)).name == "model"
    assert pull(str(second)).name == "model-2"
    assert pull(str(first)).name == "model"  # the same one again
    assert [info.path for info in resolver.installed_models()] == [first, second]


def test_a_checkpoint_lying_here_is_meant_rather_than_the_hubs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = write_folder(tmp_path / "chatglm3-6b", llama_files())
    info = pull("chatglm3-6b", endpoint="http://127.0.0.1:9")
    assert (info.name, info.path) == ("chatglm3-6b", folder)
    assert resolver.resolve("chatglm3-6b") == info


def test_odd_names_become_plain_ones(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "模型 [v2]; rm", llama_files())
    info = pull(str(folder))
    assert info.name == "模型-v2-rm"
    assert resolver.resolve(info.name) == info


def test_what_we_prepared_is_not_noted_twice(tmp_path: Path) -> None:
    info = pull(str(write_gguf(tmp_path / "tiny.gguf")))
    assert pull(str(info.path)) == info
    assert len(resolver.installed_models()) == 1


def test_a_prepared_folder_from_another_machine(tmp_path: Path, models: Path) -> None:
    there = pull(str(write_gguf(tmp_path / "tiny.gguf", Kind.Q4_0))).path
    copied = there.rename(tmp_path / "copied")
    info = pull(str(copied))
    assert (info.name, info.path, info.stored) == ("copied", copied, "int4 g32")


def test_a_gguf_file_is_prepared(tmp_path: Path, models: Path) -> None:
    path = write_gguf(tmp_path / "My.Model.Q4_0.gguf", Kind.Q4_0)
    seen: list[Progress] = []
    info = pull(str(path), on_progress=seen.append)
    assert (info.name, info.path, info.stored) == (
        "My.Model.Q4_0",
        models / "My.Model.Q4_0",
        "int4 g32",
    )
    assert {p.what for p in seen} == {"converting", "checking"}
    manifest = json.loads((info.path / "manifest.json").read_text())
    assert manifest["source"] == f"file:{path}"
    assert resolver.resolve("My.Model.Q4_0") == info


def test_a_gguf_file_is_known_by_what_is_in_it(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "tiny.gguf").rename(tmp_path / "download")
    assert pull(str(path)).name == "download"
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(BadCheckpoint, match="does not begin with GGUF"):
        pull(str(tmp_path / "notes.txt"))


def test_failures_leave_nothing(tmp_path: Path, models: Path) -> None:
    whole = write_gguf(tmp_path / "whole.gguf")
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(whole.read_bytes()[:-10_000])
    with pytest.raises(BadCheckpoint, match="it ends at byte"):
        pull(str(cut))
    with pytest.raises(UnsupportedModel, match="'bert'"):
        pull(str(write_gguf(tmp_path / "bert.gguf", architecture="bert")))
    with pytest.raises(BadCheckpoint, match=r"no config\.json"):
        pull(str(tmp_path))
    cancelled = threading.Event()
    cancelled.set()
    for ref in (str(whole), str(write_folder(tmp_path / "m", llama_files()))):
        with pytest.raises(PullCancelled):
            pull(ref, cancelled=cancelled)
    assert not models.exists() or list(models.iterdir()) == []


def test_nothing_of_that_name(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match="not a known model"):
        pull(str(tmp_path / "nowhere"))


def test_what_cannot_be_a_path() -> None:
    with pytest.raises(DownloadError, match="File name too long"):
        pull("x" * 5000)
