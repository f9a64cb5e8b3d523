"""Model folders: weight files, incomplete folders, and manifests."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from glmtui.engine.catalog.model_folder import Manifest, inspect_folder
from glmtui.errors import BadCheckpoint, ModelNotFound
from support.checkpoints import llama_files, write_folder


def test_shards_are_counted(tmp_path: Path) -> None:
    files = llama_files(shards=3)
    folder = write_folder(tmp_path / "m", files)
    weights = [content for name, content in files.items() if name.endswith(".safetensors")]
    assert inspect_folder(folder).nbytes == sum(map(len, weights))


def test_bin_files_are_weights_too(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "m", llama_files(shards=2, ends="bin"))
    assert inspect_folder(folder).nbytes > 0


def test_missing_shards_are_named(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "m", llama_files(shards=3))
    (folder / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(
        BadCheckpoint, match=r"1 of 3 weight files are missing in .*: model-00002-of-00003"
    ):
        inspect_folder(folder)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.model"])
def test_a_git_lfs_pointer_is_not_the_file(tmp_path: Path, name: str) -> None:
    folder = write_folder(tmp_path / "m", llama_files())
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n"
    (folder / name).write_text(pointer)
    with pytest.raises(BadCheckpoint, match=f"{name} is a git-lfs pointer") as caught:
        inspect_folder(folder)
    assert "git lfs pull" in caught.value.hint


NO_WEIGHTS: dict[str, bytes | None] = {"model.safetensors": None}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"config.json": None}, "no config.json"),
        ({"config.json": b"{"}, "config.json is not valid JSON"),
        ({"config.json": b"\xff\xfe\x00"}, "config.json is not valid JSON"),
        ({"config.json": b"[" * 100_000}, "config.json is not valid JSON"),
        ({"config.json": b"[1]"}, "does not contain a JSON object"),
        ({"config.json": b'{"model_type": "llama"}'}, "does not give the context length"),
        ({"model.safetensors": None}, "contains no weights"),
        ({"model.safetensors": b""}, "model.safetensors is empty"),
        ({**NO_WEIGHTS, "model.safetensors.index.json": b'{"weight_map": 1}'}, "lists no weights"),
        (
            {**NO_WEIGHTS, "model.safetensors.index.json": b'{"weight_map": {"a": "../b"}}'},
            "outside its folder",
        ),
    ],
)
def test_a_damaged_folder_is_refused(
    tmp_path: Path, change: dict[str, bytes | None], message: str
) -> None:
    files = {**llama_files(), **change}
    folder = write_folder(tmp_path / "m", {k: v for k, v in files.items() if v is not None})
    with pytest.raises(BadCheckpoint, match=message):
        inspect_folder(folder)


def test_a_config_of_a_gigabyte_is_not_read(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "m", llama_files())
    with (folder / "config.json").open("r+b") as file:
        file.truncate(1 << 30)  # sparse
    with pytest.raises(BadCheckpoint, match="too large"):
        inspect_folder(folder)


def test_no_folder_and_a_folder_with_gguf_files(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match="Folder not found"):
        inspect_folder(tmp_path / "nowhere")
    (tmp_path / "a.gguf").write_bytes(b"GGUF")
    with pytest.raises(BadCheckpoint) as caught:
        inspect_folder(tmp_path)
    assert "glmtui pull FILE.gguf" in caught.value.hint


def test_for_a_gguf_file_beside_a_config_the_hint_is_pull(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "m", llama_files())
    (folder / "model.safetensors").rename(folder / "model.gguf")
    with pytest.raises(BadCheckpoint, match="contains no weights") as caught:
        inspect_folder(folder)
    assert "glmtui pull FILE.gguf" in caught.value.hint


@pytest.mark.parametrize("length", ["256.0", "256"])
def test_a_context_length_may_be_written_as_a_fraction(tmp_path: Path, length: str) -> None:
    folder = write_folder(tmp_path / "m", llama_files())
    config = json.loads((folder / "config.json").read_text())
    config["max_position_embeddings"] = json.loads(length)
    (folder / "config.json").write_text(json.dumps(config))
    found = inspect_folder(folder).context_length
    assert (found, type(found)) == (256, int)


def test_a_truncated_weight_file_differs_from_the_size_in_the_manifest(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "m", llama_files())
    weights = folder / "model.safetensors"
    files = {"model.safetensors": {"size": weights.stat().st_size}}
    Manifest("m", "llama", "M", "test", "float16", files).write(folder)
    assert inspect_folder(folder).name == "m"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(BadCheckpoint, match="bytes, but should have"):
        inspect_folder(folder)


def test_the_format_of_the_weights_is_read_from_config_json(tmp_path: Path) -> None:
    for n, (config, stored) in enumerate(
        [
            ({"torch_dtype": "float16"}, "float16"),
            ({"dtype": "bfloat16"}, "bfloat16"),
            ({"torch_dtype": "float16", "quantization_bit": 4}, "int4"),
            ({"torch_dtype": "float16", "quantization_bit": 0}, "float16"),
            ({}, "float32"),
        ]
    ):
        config = {"model_type": "llama", "max_position_embeddings": 64, **config}
        files = {**llama_files(), "config.json": json.dumps(config).encode()}
        assert inspect_folder(write_folder(tmp_path / str(n), files)).stored == stored
