"""``glmtui slim``: what it makes, what it checks, and what is left when it is stopped."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from glmtui.chat import SamplingParams
from glmtui.cli.main import main
from glmtui.engine.checkpoint.checkpoint import Checkpoint
from glmtui.engine.convert import slim_check
from glmtui.engine.convert.slim import VOCAB_TENSORS, SlimCancelled, convert_to_slim
from glmtui.engine.progress import Progress
from glmtui.errors import BadCheckpoint, DownloadError, ModelError, UnsupportedModel
from support.goldens import GOLDEN, SHARED, TOLERANCE, load, tokenizer_file

TWIN = GOLDEN / "v1_twin_orig"
IMAGE_ROWS = 64  # of the twin
SHARED_SLIM = "5e974d9a69c242ce014c88c2b26089270f6198f3c0b700a887666cd3e816f17e"


def read(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "config.json").read_bytes()))


def tensors(folder: Path) -> dict[str, Tensor]:
    checkpoint = Checkpoint(folder, read(folder))
    return {
        name: checkpoint.read_tensor(name) for names in checkpoint.shards.values() for name in names
    }


def original_of(slim_folder: Path, folder: Path, rows: int, safetensors: bool = False) -> Path:
    """The model of the original vocabulary that a Slim one could have been made of."""
    shutil.copytree(slim_folder, folder)
    config = read(folder)
    for key in ("vocab_size", *(key for key in config if key.endswith("token_id"))):
        config[key] += rows
    (folder / "config.json").write_text(json.dumps(config))
    for path in (*folder.glob("model*.safetensors"), *folder.glob("*.bin")):
        is_bin = path.suffix == ".bin"
        part = torch.load(path, weights_only=True) if is_bin else load_file(path)
        for name in VOCAB_TENSORS:
            if name in part:
                image = torch.ones_like(part[name][:1]).expand(rows, *part[name].shape[1:])
                part[name] = torch.cat((image, part[name]))
        torch.save(part, path) if is_bin else save_file(part, path)
    return folder


# ---- what it makes


def test_the_twin_gives_the_originals_numbers(tmp_path: Path) -> None:
    made = convert_to_slim(TWIN, tmp_path / "slim")
    model = load(made.folder)
    golden = load_file(TWIN / "golden.safetensors")
    for name in (key[4:] for key in golden if key.startswith("ids.")):
        ids = (golden[f"ids.{name}"] - IMAGE_ROWS).tolist()
        off = (model.logits(ids) - golden[f"logits.{name}"][:, IMAGE_ROWS:]).abs().max()
        assert float(off) <= TOLERANCE["v1"], name
        if f"greedy.{name}" in golden:
            wanted = [i - IMAGE_ROWS for i in golden[f"greedy.{name}"].tolist()]
            params = SamplingParams(temperature=0, max_new_tokens=len(wanted))
            said = list(model.stream_ids(ids, params).ids())
            assert said == [i for i in wanted if i not in model.stop_ids]
    assert made.saved_bytes == 2 * IMAGE_ROWS * 32 * 2  # float16
    assert made.nbytes == (made.folder / "model.safetensors").stat().st_size - header_bytes(
        made.folder / "model.safetensors"
    )
    assert made.checked.worst == 0
    assert "knows ids only" in made.summary


def header_bytes(path: Path) -> int:
    return 8 + int.from_bytes(path.read_bytes()[:8], "little")


@pytest.mark.parametrize("name", ["v1_tiny_sharded_fp16", "v1_int8", "v1_int4_qe"])
def test_slimming_undoes_the_image_rows_of_every_layout(tmp_path: Path, name: str) -> None:
    source = original_of(GOLDEN / name, tmp_path / "original", rows=50)
    made = convert_to_slim(source, tmp_path / "slim")
    wanted, got = tensors(GOLDEN / name), tensors(made.folder)
    assert got.keys() == wanted.keys()
    for key, tensor in wanted.items():
        assert got[key].dtype == tensor.dtype
        assert torch.equal(got[key], tensor), key
    assert read(made.folder) == read(GOLDEN / name)
    shards = len(list((GOLDEN / name).glob("*.bin"))) or 1
    assert len(list(made.folder.glob("*.safetensors"))) == shards
    assert all(load_file(path) for path in made.folder.glob("*.safetensors"))


def test_the_first_releases_config_becomes_complete(tmp_path: Path) -> None:
    source = original_of(GOLDEN / "v1_int8", tmp_path / "original", rows=20_000)
    raw = read(source)
    raw |= {"vocab_size": raw["vocab_size"], "bos_token_id": 150_004, "eos_token_id": 150_005}
    for key in ("mask_token_id", "gmask_token_id", "pad_token_id"):
        del raw[key]
    # ids as released, rows for as many text tokens
    text = 130_528
    for path in source.glob("*.safetensors"):
        part = load_file(path)
        for name in VOCAB_TENSORS:
            if name in part:
                part[name] = part[name].new_ones(20_000 + text, *part[name].shape[1:])
        save_file(part, path)
    raw["vocab_size"] = 20_000 + text
    (source / "config.json").write_text(json.dumps(raw))
    made = read(convert_to_slim(source, tmp_path / "slim").folder)
    marks = ("pad", "bos", "eos", "mask", "gmask")
    assert [made[f"{mark}_token_id"] for mark in marks] == [3, 130004, 130005, 130000, 130001]
    assert made["vocab_size"] == text


def test_the_tokenizer_is_the_released_slim_one_to_the_byte(tmp_path: Path) -> None:
    source = SHARED / "fixtures" / "models" / "v1_realvocab_orig"
    original = tokenizer_file("chatglm-6b", "ice_text.original.model")
    if not source.is_dir():
        pytest.skip("the golden set lies in ../shared, which is not here")
    folder = tmp_path / "original"
    shutil.copytree(source, folder)
    shutil.copyfile(original, folder / "ice_text.model")
    (folder / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    (folder / "generation_config.json").write_text('{"eos_token_id": 150005, "top_p": 0.7}')
    (folder / "MODEL_LICENSE").write_text("licence")
    (folder / "quantization.py").write_text("code")
    made = convert_to_slim(folder, tmp_path / "slim")
    tokenizer = (made.folder / "ice_text.model").read_bytes()
    assert hashlib.sha256(tokenizer).hexdigest() == SHARED_SLIM
    settings = json.loads((made.folder / "tokenizer_config.json").read_bytes())
    assert settings == {"do_lower_case": False, "num_image_tokens": 0}
    generation = json.loads((made.folder / "generation_config.json").read_bytes())
    assert generation == {"eos_token_id": 130005, "top_p": 0.7}
    assert (made.folder / "MODEL_LICENSE").read_text() == "licence"
    assert (made.folder / "quantization.py").read_text() == "code"
    assert "2 prompts give the same logits" in made.summary
    text = "第一行\n\tsecond 4  spaces，，🎉"
    before, after = load(folder).tokenizer, load(made.folder).tokenizer
    assert [i - 20_000 for i in before.encode(text)] == after.encode(text)


def test_the_released_numbers_of_the_larger_set(tmp_path: Path) -> None:
    models = SHARED / "fixtures" / "models"
    if not models.is_dir():
        pytest.skip("the golden set lies in ../shared, which is not here")
    for kind in ("v1_twin", "v1_realvocab"):
        made = convert_to_slim(models / f"{kind}_orig", tmp_path / kind)
        wanted = tensors(models / f"{kind}_slim")
        got = tensors(made.folder)
        assert all(torch.equal(got[name], tensor) for name, tensor in wanted.items())
        theirs, ours = read(models / f"{kind}_slim"), read(made.folder)
        assert {key: ours[key] for key in theirs} == theirs


# ---- what it refuses


def test_what_is_slim_already_is_refused(tmp_path: Path) -> None:
    made = convert_to_slim(TWIN, tmp_path / "slim")
    for folder in (made.folder, GOLDEN / "v1_int8"):
        with pytest.raises(UnsupportedModel, match="slim already"):
            convert_to_slim(folder, tmp_path / "again")
    assert not (tmp_path / "again").exists()


def test_other_models_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModel, match="no ChatGLM-6B"):
        convert_to_slim(GOLDEN / "v2_int4", tmp_path / "slim")
    folder = tmp_path / "broken"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "chatglm", "inner_hidden_size": 4}')
    with pytest.raises(BadCheckpoint, match="has no hidden_size"):
        convert_to_slim(folder, tmp_path / "slim")


def test_weights_of_another_vocabulary_are_refused(tmp_path: Path) -> None:
    source = tmp_path / "original"
    shutil.copytree(TWIN, source)
    raw = read(source) | {"vocab_size": 300}
    (source / "config.json").write_text(json.dumps(raw))
    with pytest.raises(BadCheckpoint, match="has 288 rows"):
        convert_to_slim(source, tmp_path / "slim")


def test_nothing_is_written_over(tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for name in ("full", "file"):
        with pytest.raises(ModelError, match="is there already"):
            convert_to_slim(TWIN, tmp_path / name)
    (tmp_path / "empty").mkdir()
    assert convert_to_slim(TWIN, tmp_path / "empty").folder.is_dir()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "file", "full"]


def test_a_full_disk_is_seen_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(DownloadError, match="Not enough disk space for the Slim model") as failed:
        convert_to_slim(TWIN, tmp_path / "slim")
    assert "another disk" in failed.value.hint
    assert not list(tmp_path.iterdir())


# ---- what it checks


def test_a_model_that_answers_otherwise_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    embedded = slim_check.StreamedModel._embedded

    def other(self: slim_check.StreamedModel, ids: Tensor) -> Tensor:
        return embedded(self, ids if self.cut else (ids + 1).clamp_max(223))

    monkeypatch.setattr(slim_check.StreamedModel, "_embedded", other)
    with pytest.raises(BadCheckpoint, match="does not answer as"):
        convert_to_slim(TWIN, tmp_path / "slim")
    assert not list(tmp_path.iterdir())


def test_bytes_that_do_not_read_back_are_noticed(tmp_path: Path) -> None:
    def damage(progress: Progress) -> None:
        if progress.what.startswith("writing") and progress.done * 2 == progress.total:
            (path,) = tmp_path.rglob("model.safetensors")
            with path.open("r+b") as file:
                file.seek(-1, os.SEEK_END)
                last = file.read(1)
                file.seek(-1, os.SEEK_END)
                file.write(bytes([last[0] ^ 1]))

    with pytest.raises(BadCheckpoint, match="did not read back"):
        convert_to_slim(TWIN, tmp_path / "slim", on_progress=damage)
    assert not list(tmp_path.iterdir())


def test_the_streamed_model_says_what_the_engine_says() -> None:
    streamed = slim_check.StreamedModel(TWIN)
    streamed._dtype = torch.float32  # that of the golden numbers
    golden = load_file(TWIN / "golden.safetensors")
    name = next(key[7:] for key in golden if key.startswith("greedy."))
    prompt = (golden[f"ids.{name}"] - IMAGE_ROWS).tolist()
    fractions: list[float] = []
    logits = streamed.greedy_logits([prompt, prompt[2:]], 3, fractions.append)[0]
    wanted = golden[f"logits.{name}"][:, IMAGE_ROWS:]
    assert float((logits[: len(prompt)] - wanted).abs().max()) <= TOLERANCE["v1"]
    greedy = logits[len(prompt) - 1 :].argmax(-1) + IMAGE_ROWS
    assert greedy.tolist() == golden[f"greedy.{name}"][:3].tolist()
    assert fractions == sorted(fractions)
    assert fractions[0] == 0
    assert fractions[-1] < 1


# ---- stopped


@pytest.mark.parametrize("at", ["writing", "reading", "comparing"])
def test_stopped_it_leaves_nothing(tmp_path: Path, at: str) -> None:
    stopped = threading.Event()
    seen: list[str] = []

    def stop(progress: Progress) -> None:
        seen.append(progress.what.split()[0])
        if seen[-1] == at:
            stopped.set()

    with pytest.raises(SlimCancelled):
        convert_to_slim(TWIN, tmp_path / "slim", on_progress=stop, cancelled=stopped)
    assert seen[-1] == at
    assert not list(tmp_path.iterdir())


KILLED = """
import os, signal, sys
from pathlib import Path
from glmtui.engine.convert.slim import convert_to_slim

def kill(progress):
    if progress.what.startswith("reading"):
        os.kill(os.getpid(), signal.SIGKILL)

convert_to_slim(Path(sys.argv[1]), Path(sys.argv[2]), on_progress=kill)
"""


def test_killed_it_leaves_no_folder_and_the_next_run_clears_up(tmp_path: Path) -> None:
    target = tmp_path / "slim"
    run = subprocess.run([sys.executable, "-c", KILLED, str(TWIN), str(target)], check=False)
    assert run.returncode == -signal.SIGKILL
    assert not target.exists()
    (stray,) = tmp_path.iterdir()
    assert list(stray.rglob("model.safetensors"))
    convert_to_slim(TWIN, target)
    assert list(tmp_path.iterdir()) == [target]


MEASURED = """
import sys
from pathlib import Path
from glmtui.engine.convert.slim import convert_to_slim

def peak():
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024

convert_to_slim(Path(sys.argv[1]), Path(sys.argv[3], "small"))
before = peak()
convert_to_slim(Path(sys.argv[2]), Path(sys.argv[3], "large"))
print(peak() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
def test_memory_stays_under_one_and_a_fifth_of_the_largest_shard(tmp_path: Path) -> None:
    source = tmp_path / "original"
    shutil.copytree(TWIN, source)
    wide = write_large(source, shards=2)
    run = subprocess.run(
        [sys.executable, "-c", MEASURED, str(TWIN), str(source), str(tmp_path)],
        check=True,
        capture_output=True,
        text=True,
    )
    assert int(run.stdout) < 1.2 * wide


def write_large(folder: Path, shards: int) -> int:
    """A model of some 200 MB in place of the one in `folder`; returns its largest shard's size."""
    hidden, layers, text = 1024, 6, 400
    raw = read(folder) | {"hidden_size": hidden, "inner_hidden_size": 4 * hidden}
    raw |= {"num_layers": layers, "num_attention_heads": 8, "vocab_size": IMAGE_ROWS + text}
    (folder / "config.json").write_text(json.dumps(raw))
    (folder / "model.safetensors").unlink()
    table = torch.full((IMAGE_ROWS + text, hidden), 0.01).half()
    found = dict.fromkeys(("transformer.word_embeddings.weight", "lm_head.weight"), table)
    for prefix in ("final_layernorm", *(f"layers.{n}" for n in range(layers))):
        norms = (
            [""]
            if prefix == "final_layernorm"
            else [".input_layernorm", ".post_attention_layernorm"]
        )
        for norm in norms:
            found[f"transformer.{prefix}{norm}.weight"] = torch.ones(hidden)
            found[f"transformer.{prefix}{norm}.bias"] = torch.zeros(hidden)
    for n in range(layers):
        for name, rows, columns in (
            ("attention.query_key_value", 3 * hidden, hidden),
            ("attention.dense", hidden, hidden),
            ("mlp.dense_h_to_4h", 4 * hidden, hidden),
            ("mlp.dense_4h_to_h", hidden, 4 * hidden),
        ):
            found[f"transformer.layers.{n}.{name}.weight"] = torch.full(
                (rows, columns), 0.01
            ).half()
            found[f"transformer.layers.{n}.{name}.bias"] = torch.zeros(rows).half()
    weight_map = {}
    for n in range(shards):
        name = f"pytorch_model-{n + 1}.bin"
        part = {key: found[key].clone() for key in sorted(found)[n::shards]}
        torch.save(part, folder / name)
        weight_map |= dict.fromkeys(part, name)
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    return max(path.stat().st_size for path in folder.glob("*.bin"))


# ---- the command


def test_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GLMTUI_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(signal, "signal", lambda number, handler: None)
    assert main(["slim", str(TWIN), str(tmp_path / "slim")]) == 0
    said = capsys.readouterr()
    assert f"{tmp_path / 'slim'} is ready" in said.out
    assert "the same first 4 tokens" in said.out
    assert main(["slim", str(tmp_path / "slim"), str(tmp_path / "again")]) == 1
    assert "slim already" in capsys.readouterr().err
    assert main(["slim", "http://localhost/v1", str(tmp_path / "again")]) == 2
