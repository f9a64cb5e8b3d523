"""The tensors of a folder: read by name whatever the files, refused where the files are wrong."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from glmtui.engine.catalog.model_folder import INDEXES, MAX_JSON_BYTES, weight_files
from glmtui.engine.checkpoint.checkpoint import Checkpoint, WeightSource, unpack_chatglm
from glmtui.engine.nn.packed_weight import PackedWeight, quantize
from glmtui.errors import BadCheckpoint
from support.goldens import GOLDEN, SHARED, read_json
from support.weights import random_weight

TENSORS = {
    "a.weight": random_weight(6, 8),
    "b.weight": random_weight(4, 8, seed=1).half(),
    "c.bias": random_weight(1, 5, seed=2)[0].bfloat16(),
}


def folder_of(folder: Path, tensors: dict[str, Tensor], *, ends: str, shards: int) -> Path:
    """A checkpoint of one file, or of several with an index."""
    stem = "model" if ends == "safetensors" else "pytorch_model"
    save = save_file if ends == "safetensors" else torch.save
    if shards == 1:
        save(tensors, folder / f"{stem}.{ends}")
        return folder
    weight_map = {}
    for n in range(shards):
        part = dict(list(tensors.items())[n::shards])
        save(part, folder / f"{stem}-{n}.{ends}")
        weight_map |= dict.fromkeys(part, f"{stem}-{n}.{ends}")
    (folder / f"{stem}.{ends}.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return folder


@pytest.fixture(params=["safetensors", "bin"])
def ends(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.parametrize("shards", [1, 2])
def test_tensors_come_back_as_they_were(tmp_path: Path, ends: str, shards: int) -> None:
    checkpoint = Checkpoint(folder_of(tmp_path, TENSORS, ends=ends, shards=shards), {})
    for name, tensor in TENSORS.items():
        assert name in checkpoint
        read = checkpoint.read_weight(name)
        assert isinstance(read, Tensor)
        assert read.dtype == tensor.dtype
        assert torch.equal(read, tensor)
    assert checkpoint.nbytes == sum(p.stat().st_size for p in tmp_path.glob(f"*.{ends}"))
    with pytest.raises(BadCheckpoint, match=r"no tensor d\.weight"):
        checkpoint.read_weight("d.weight")


def test_safetensors_are_taken_where_there_are_both(tmp_path: Path) -> None:
    folder_of(tmp_path, TENSORS, ends="safetensors", shards=1)
    folder_of(tmp_path, {"other": torch.ones(1)}, ends="bin", shards=1)
    assert "other" not in Checkpoint(tmp_path, {})


def test_one_parameter_may_be_made_of_several_tensors(tmp_path: Path, ends: str) -> None:
    checkpoint = Checkpoint(folder_of(tmp_path, TENSORS, ends=ends, shards=2), {})
    both = torch.cat((TENSORS["b.weight"], TENSORS["b.weight"]))
    whole = checkpoint.read_source(WeightSource("b.weight", "b.weight"))
    assert isinstance(whole, Tensor)
    assert whole.dtype == torch.float16
    assert torch.equal(whole, both)
    assert torch.equal(
        checkpoint.read_source(WeightSource("b.weight", "b.weight", start=5)), both[5:]
    )


def test_what_was_read_is_known(tmp_path: Path, ends: str) -> None:
    checkpoint = Checkpoint(folder_of(tmp_path, TENSORS, ends=ends, shards=2), {})
    assert checkpoint.names == set(TENSORS)
    assert {name for names in checkpoint.shards.values() for name in names} == set(TENSORS)
    assert checkpoint.names_read == set()
    checkpoint.read_weight("a.weight")
    assert checkpoint.names_read == {"a.weight"}


def test_files_let_go_of_are_opened_again(tmp_path: Path, ends: str) -> None:
    checkpoint = Checkpoint(folder_of(tmp_path, TENSORS, ends=ends, shards=1), {})
    first = checkpoint.read_tensor("a.weight")
    checkpoint.close()
    assert torch.equal(checkpoint.read_tensor("b.weight"), TENSORS["b.weight"])
    assert torch.equal(first, TENSORS["a.weight"])


# ---- packed weights


def test_prepared_weights_come_back_packed(tmp_path: Path) -> None:
    four, eight = quantize(random_weight(6, 64), 4, 32), quantize(random_weight(4, 64), 8)
    assert four.zero is not None
    stored = {
        "four": four.q,
        "four.scale": four.scale,
        "four.zero": four.zero,
        "eight": eight.q,
        "eight.scale": eight.scale,
        "whole": random_weight(2, 64),
    }
    checkpoint = Checkpoint(folder_of(tmp_path, stored, ends="safetensors", shards=2), {})
    for name, packed in (("four", four), ("eight", eight)):
        read = checkpoint.read_weight(name)
        assert isinstance(read, PackedWeight)
        assert read.kind == packed.kind
        assert torch.equal(read.dequantize(torch.float32), packed.dequantize(torch.float32))


def test_chatglm_packs_the_even_column_high() -> None:
    """GLM-SPEC: byte j is q[2j] << 4 | q[2j + 1], both in two's complement."""
    q = torch.tensor([[7, -7, 0, -1], [-8, 3, 1, -2]])
    theirs = (q[:, ::2] & 15) << 4 | q[:, 1::2] & 15
    weight = unpack_chatglm(theirs.to(torch.uint8).view(torch.int8), torch.tensor([0.5, 2.0]), 4)
    assert weight.dequantize(torch.float32).tolist() == [
        [3.5, -3.5, 0, -0.5],
        [-16, 6, 2, -4],
    ]
    whole = unpack_chatglm(q.to(torch.int8), torch.tensor([0.5, 2.0]), 8)
    assert whole.dequantize(torch.float32).tolist() == (q * torch.tensor([[0.5], [2]])).tolist()


@pytest.mark.parametrize(
    "folder", ["v1_int4", "v1_int8", "v1_int4_qe", "v2_int4", "v2_int8", "v3_int4", "v3_int8"]
)
def test_chatglm_packing_is_read_without_loss(folder: str) -> None:
    """Against the matrices that the original code unpacks."""
    config = read_json("models", folder, "config.json")
    path = SHARED / "fixtures" / "models" / folder
    checkpoint = Checkpoint(path, config)
    expected = load_file(path / "dequant_layer0.safetensors")
    for name, theirs in expected.items():
        ours = checkpoint.read_weight(name)
        assert isinstance(ours, PackedWeight)
        assert ours.bits == config["quantization_bit"]
        assert torch.equal(ours.dequantize(torch.float32), theirs), name


@pytest.mark.parametrize("folder", ["v1_int4_qe", "v1_int8", "v2_int4", "v3_int8"])
def test_chatglm_scales_are_found(folder: str) -> None:
    config = json.loads((GOLDEN / folder / "config.json").read_bytes())
    checkpoint = Checkpoint(GOLDEN / folder, config)
    stored = load_file(GOLDEN / folder / "model.safetensors")
    scaled = [name for name in stored if f"{name}_scale" in stored]
    assert scaled
    for name in scaled:
        weight = checkpoint.read_weight(name)
        assert isinstance(weight, PackedWeight)
        assert torch.equal(weight.scale[:, 0], stored[f"{name}_scale"])


# ---- what is wrong with files


def test_a_folder_without_weights(tmp_path: Path) -> None:
    with pytest.raises(BadCheckpoint, match="contains no weights"):
        Checkpoint(tmp_path, {})


def test_a_missing_shard(tmp_path: Path, ends: str) -> None:
    folder_of(tmp_path, TENSORS, ends=ends, shards=2)
    next(tmp_path.glob(f"*-1.{ends}")).unlink()
    with pytest.raises(
        BadCheckpoint, match=rf"1 of 2 weight files are missing in .*: .*-1\.{ends}"
    ):
        Checkpoint(tmp_path, {})


@pytest.mark.parametrize("shard", ["../model-0.safetensors", "/etc/passwd", "sub/x.safetensors"])
def test_an_index_that_leads_out_of_its_folder(tmp_path: Path, shard: str) -> None:
    folder = tmp_path / "model"
    (folder / "sub").mkdir(parents=True)
    for place in (tmp_path / "model-0.safetensors", folder / "sub" / "x.safetensors"):
        save_file(TENSORS, place)
    index = {"weight_map": {"a.weight": shard}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(BadCheckpoint, match="outside its folder"):
        Checkpoint(folder, {})


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"weight_map": 5}', '{"weight_map": {"a": ', "[" * 100_000]
)
def test_an_index_that_is_none(tmp_path: Path, content: str) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(content)
    with pytest.raises(BadCheckpoint, match=r"is not valid JSON|JSON object|lists no weights"):
        Checkpoint(tmp_path, {})


def test_an_index_too_large_to_be_one(tmp_path: Path) -> None:
    with (tmp_path / "model.safetensors.index.json").open("wb") as file:
        file.truncate(MAX_JSON_BYTES + 1)
    with pytest.raises(BadCheckpoint, match="too large"):
        Checkpoint(tmp_path, {})


def test_an_index_that_names_what_its_shard_has_not(tmp_path: Path, ends: str) -> None:
    folder_of(tmp_path, TENSORS, ends=ends, shards=2)
    path = next(tmp_path.glob("*.index.json"))
    index = json.loads(path.read_text())
    index["weight_map"]["d.weight"] = index["weight_map"]["a.weight"]
    path.write_text(json.dumps(index))
    with pytest.raises(BadCheckpoint, match=r"no readable tensor d\.weight"):
        Checkpoint(tmp_path, {}).read_weight("d.weight")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def overwrite(path: Path) -> None:
    path.write_bytes(b"<html>404 not found</html>" * 20)


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [cut, overwrite, empty])
def test_a_damaged_file(tmp_path: Path, ends: str, damage: Callable[[Path], None]) -> None:
    folder_of(tmp_path, TENSORS, ends=ends, shards=1)
    damage(next(tmp_path.iterdir()))
    with pytest.raises(BadCheckpoint, match=r"not a whole safetensors|read as plain|is empty"):
        Checkpoint(tmp_path, {})


class Malice:
    def __reduce__(self) -> tuple[object, ...]:
        return Path("harm").write_text, ("done",)


def test_code_in_a_bin_file_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"a.weight": Malice()}, tmp_path / "pytorch_model.bin")
    with pytest.raises(BadCheckpoint, match="cannot be read as plain weights"):
        Checkpoint(tmp_path, {})
    assert not (tmp_path / "harm").exists()


def test_code_in_an_old_bin_file_is_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "pytorch_model.bin"
    state = {"a.weight": Malice()}
    torch.save(state, path, _use_new_zipfile_serialization=False)
    with pytest.raises(BadCheckpoint, match="cannot be read as plain weights"):
        Checkpoint(tmp_path, {})
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize("shards", [1, 2])
def test_bin_files_of_before_pytorch_1_6(tmp_path: Path, shards: int) -> None:
    folder_of(tmp_path, TENSORS, ends="bin", shards=shards)
    for path in tmp_path.glob("*.bin"):
        state = torch.load(path, weights_only=True)
        torch.save(state, path, _use_new_zipfile_serialization=False)
    checkpoint = Checkpoint(tmp_path, {})
    for name, tensor in TENSORS.items():
        read = checkpoint.read_weight(name)
        assert isinstance(read, Tensor)
        assert read.dtype == tensor.dtype
        assert torch.equal(read, tensor)


def test_a_bin_file_of_before_pytorch_0_1_10_says_how_to_save_it_again(tmp_path: Path) -> None:
    (tmp_path / "storages").write_bytes(b"x" * 100)
    with tarfile.open(tmp_path / "pytorch_model.bin", "w") as archive:
        for name in ("storages", "tensors", "pickle"):
            archive.add(tmp_path / "storages", name)
    with pytest.raises(BadCheckpoint, match="cannot be read as plain weights") as caught:
        Checkpoint(tmp_path, {})
    assert "safetensors.torch.save_file" in caught.value.hint


# ---- files of several kinds side by side

OTHER = {name: tensor + 1 for name, tensor in TENSORS.items()}


def read_all(folder: Path) -> dict[str, Tensor]:
    checkpoint = Checkpoint(folder, {})
    return {name: checkpoint.read_tensor(name) for name in checkpoint.names}


def same(read: dict[str, Tensor], wanted: dict[str, Tensor]) -> bool:
    return read.keys() == wanted.keys() and all(torch.equal(read[n], wanted[n]) for n in wanted)


@pytest.mark.parametrize(
    "index",
    [
        {"weight_map": {"a.weight": "model-00001-of-00002.safetensors"}},
        {"weight_map": {}},
        {"weight_map": {"a.weight": "../model.safetensors"}},
    ],
)
def test_an_index_left_over_beside_whole_weights(
    tmp_path: Path, ends: str, index: dict[str, object]
) -> None:
    folder_of(tmp_path, TENSORS, ends=ends, shards=1)
    for name in INDEXES:
        (tmp_path / name).write_text(json.dumps(index))
    assert same(read_all(tmp_path), TENSORS)
    assert [path.suffix for path in weight_files(tmp_path)] == [f".{ends}"]


def numbered(folder: Path, tensors: dict[str, Tensor], total: int) -> None:
    for n in range(total):
        part = dict(list(tensors.items())[n::total])
        save_file(part, folder / f"model-{n + 1:05}-of-{total:05}.safetensors")


def test_shards_without_an_index_are_read(tmp_path: Path) -> None:
    numbered(tmp_path, TENSORS, 3)
    assert same(read_all(tmp_path), TENSORS)


def test_of_two_sets_of_shards_the_whole_one_is_read(tmp_path: Path) -> None:
    numbered(tmp_path, OTHER, 2)
    (tmp_path / "model-00001-of-00002.safetensors").unlink()
    numbered(tmp_path, TENSORS, 3)
    index = {"weight_map": dict.fromkeys(TENSORS, "model-00001-of-00002.safetensors")}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert same(read_all(tmp_path), TENSORS)


@pytest.mark.parametrize("damage", [b"", b"version https://git-lfs.github.com/spec/v1\noid x"])
def test_what_is_not_whole_leaves_the_other_kind(tmp_path: Path, damage: bytes) -> None:
    folder_of(tmp_path, TENSORS, ends="bin", shards=2)
    (tmp_path / "model.safetensors").write_bytes(damage)
    assert same(read_all(tmp_path), TENSORS)


def test_a_missing_shard_without_an_index_is_named(tmp_path: Path) -> None:
    numbered(tmp_path, TENSORS, 3)
    (tmp_path / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(
        BadCheckpoint, match=r"1 of 3 weight files are missing in .*: model-00002-of-00003"
    ):
        Checkpoint(tmp_path, {})


def test_a_bin_file_of_something_else(tmp_path: Path) -> None:
    torch.save([torch.ones(1)], tmp_path / "pytorch_model.bin")
    with pytest.raises(BadCheckpoint, match="holds a list, not tensors"):
        Checkpoint(tmp_path, {})


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int32])
def test_whole_numbers_without_scales_are_no_weight(tmp_path: Path, dtype: torch.dtype) -> None:
    save_file({"a.weight": torch.ones(4, 8, dtype=dtype)}, tmp_path / "model.safetensors")
    with pytest.raises(BadCheckpoint, match=r"a\.weight .* without scales"):
        Checkpoint(tmp_path, {}).read_weight("a.weight")


def test_packed_weights_of_another_dtype(tmp_path: Path) -> None:
    stored = {"a": torch.ones(4, 8, dtype=torch.int32), "a.scale": torch.ones(4, 1)}
    save_file(stored, tmp_path / "model.safetensors")
    with pytest.raises(BadCheckpoint, match="int32"):
        Checkpoint(tmp_path, {}).read_weight("a")
