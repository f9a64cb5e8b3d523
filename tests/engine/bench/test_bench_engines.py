"""The engines of a benchmark with tiny models, in their processes, and the command line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save

from glmtui.cli import bench
from glmtui.cli.main import main
from glmtui.engine.bench import random_weights, shapes, transformers_peer
from glmtui.engine.bench.bandwidth import COPY_BYTES
from glmtui.engine.bench.bench_engine import BenchTarget, EngineName
from glmtui.engine.bench.engine_process import EngineProcess, copy_process
from glmtui.engine.bench.own_engine import OwnEngine, step_bytes
from glmtui.engine.bench.shapes import SHAPES, Shape, check_memory
from glmtui.engine.bench.transformers_peer import TransformersPeer
from glmtui.engine.catalog.known_models import known_model
from glmtui.engine.catalog.model_folder import inspect_folder
from glmtui.engine.catalog.quants import QUANTS
from glmtui.engine.hardware.host_memory import HostMemory
from glmtui.engine.hardware.machine import Snapshot
from glmtui.engine.model_info import LoadOptions, ModelInfo
from glmtui.engine.models.model_family import import_family
from glmtui.engine.nn.packed_weight import PackedWeight
from glmtui.errors import EngineError, OutOfMemory, UnsupportedModel
from support.tiny_llama import LLAMA_CONFIG, hub_name, llama_files, llama_tensors, write_folder

EXACT = LoadOptions(device="cpu", dtype="float32", quant=None)
TINY = {
    "num_layers": 2,
    "hidden_size": 64,
    "ffn_hidden_size": 96,
    "num_attention_heads": 4,
    "kv_channels": 16,
    "padded_vocab_size": 200,
    "seq_length": 256,
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    weights = {hub_name(n): v.astype(np.float16) for n, v in llama_tensors().items()}
    return write_folder(tmp_path / "tiny", llama_files() | {"model.safetensors": save(weights)})


@pytest.fixture
def tiny_shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replaces the released shapes by small ones."""
    chatglm = {"num_layers": 2, "hidden_size": 64, "inner_hidden_size": 96}
    chatglm |= {"num_attention_heads": 4, "max_sequence_length": 256, "vocab_size": 130528}
    llama = {**LLAMA_CONFIG, "vocab_size": 200}
    small = {"chatglm": chatglm, "llama": llama}
    for key, shape in SHAPES.items():
        config = {**shape.config, **small.get(shape.family, TINY)}
        patched = {**shapes.SHAPES, key: Shape(shape.family, shape.known, config)}
        for module in (shapes, random_weights, transformers_peer):
            monkeypatch.setattr(module, "SHAPES", patched)


def target(
    engine: EngineName = "glmtui",
    model: ModelInfo | None = None,
    key: str = "",
    options: LoadOptions = EXACT,
) -> BenchTarget:
    return BenchTarget(engine, model, key, options, threads=1)


# ---- engines


def test_our_engine_gives_replies_of_the_requested_length(folder: Path) -> None:
    engine = OwnEngine(target(model=inspect_folder(folder)))
    prompt = [5, 6, 7]
    timed = engine.generate(prompt, 6)
    assert len(timed.ids) == 6
    assert 0 < timed.first_seconds < 60
    assert timed.rest_seconds > 0
    assert engine.generate(prompt, 6).ids == timed.ids
    assert engine.start.context_length == 256
    assert engine.start.vocabulary == (0, LLAMA_CONFIG["vocab_size"])
    # embedding and head are one table, which every token reads
    assert engine.start.step_bytes == engine.start.weight_bytes
    assert engine.peak_memory() > engine.start.weight_bytes


def test_transformers_gives_the_same_reply(folder: Path) -> None:
    model = inspect_folder(folder)
    ours, theirs = OwnEngine(target(model=model)), TransformersPeer(target("transformers", model))
    prompt = list(range(3, 40))
    assert theirs.generate(prompt, 8).ids == ours.generate(prompt, 8).ids
    timed = theirs.generate(prompt, 3)
    assert len(timed.ids) == 3
    assert timed.first_seconds > 0


@pytest.mark.parametrize("key", ["chatglm2-6b", "chatglm3-6b", "glm-4-9b", "smollm2"])
def test_transformers_computes_what_our_families_do(tiny_shapes: None, key: str) -> None:
    """Weights are copied by name and shape; equal logits show that each is in its place."""
    shape = shapes.SHAPES[key]
    config = import_family(shape.family).load_config(shape.config)
    with torch.device("meta"):
        model = import_family(shape.family).Model(config)
    rows = {
        name: parameter.shape
        for name, parameter in model.named_parameters()
        if name.rpartition(".")[0] != "head" or not getattr(config, "tied", False)
    }
    torch.manual_seed(3)
    weights = {name: torch.randn(shape) * 0.2 for name, shape in rows.items()}
    weights.setdefault("head.weight", weights["embedding.weight"])

    class Stored:
        """Our parameters, found by the source that they are read from."""

        def __init__(self) -> None:
            sources = import_family(shape.family).weight_sources(config)
            self._by_source = {source: weights[name] for name, source in reversed(sources.items())}

        def read_source(self, source: object) -> torch.Tensor:
            return self._by_source[source]

        def close(self) -> None:
            pass

    theirs = transformers_peer.empty_model(shape.family, shape.config)
    stored = transformers_peer.hub_tensors(
        shape.family,
        shape.config,
        Stored(),
        torch.float32,  # type: ignore[arg-type]
    )
    transformers_peer.load_weights(theirs, stored, torch.device("cpu"))
    with torch.inference_mode():
        model = model.to_empty(device="cpu")
        model.load_state_dict(weights)
        model.prepare(32, torch.float32, torch.device("cpu"))
        ids = torch.randint(10, 190, (1, 20))
        torch.testing.assert_close(theirs(ids).logits, model(ids), atol=2e-4, rtol=0)


def test_transformers_has_no_chatglm_6b() -> None:
    with pytest.raises(UnsupportedModel, match="no class for the family chatglm"):
        TransformersPeer(target("transformers", key="chatglm-6b"))


@pytest.mark.parametrize("quant", [None, "int8", "int4"])
@pytest.mark.parametrize("key", list(SHAPES))
def test_random_weights_run_in_every_family(tiny_shapes: None, key: str, quant: str | None) -> None:
    options = LoadOptions(device="cpu", dtype="bfloat16", quant=quant)
    engine = OwnEngine(target(key=key, options=options))
    end = list(engine.start.prompt_end)
    assert len(engine.generate([50, 51, 52, *end], 3).ids) == 3
    assert ("int" in engine.start.quant) == (quant is not None)
    loaded = random_weights.random_model(key, options)
    logits = loaded.logits([50, 60, 70, *end])
    assert bool(torch.isfinite(logits).all())
    # what is drawn at random is not the same everywhere, nor does it vanish
    assert float(logits[-1].std()) > 1e-3
    untied = loaded.model.embedding.weight.nbytes
    assert step_bytes(loaded) == loaded.info.weight_bytes - (
        0 if shapes.SHAPES[key].family in ("chatglm", "llama") else untied
    )


def test_random_packed_weights_are_as_large_as_unpacked_ones() -> None:
    shape, device = torch.Size((64, 256)), torch.device("cpu")
    whole = random_weights.random_matrix(shape, torch.float32, device)
    assert float(whole.std()) == pytest.approx(1 / 16, rel=0.05)
    for quant in QUANTS.values():
        packed = random_weights.random_packed(shape, quant, device)
        assert isinstance(packed, PackedWeight)
        assert packed.bits == quant.bits
        assert packed.group == (quant.group or 256)
        weight = packed.dequantize(torch.float32)
        assert float(weight.std()) == pytest.approx(1 / 16, rel=0.05)
        assert abs(float(weight.mean())) < 0.01


@pytest.mark.parametrize("key", list(SHAPES))
def test_the_shapes_have_the_parameters_of_the_releases(key: str) -> None:
    shape = SHAPES[key]
    known = known_model(shape.known)
    assert known is not None
    family = import_family(shape.family)
    config = family.load_config(shape.config)
    with torch.device("meta"):
        model = family.Model(config)
    sources = family.weight_sources(config)
    once = {sources[name]: p.numel() for name, p in model.named_parameters()}
    assert sum(once.values()) == known.parameters
    assert config.context_length in (known.context_length, 8192)
    assert tuple(SHAPES) == bench.SYNTHETIC


def test_models_that_do_not_fit_are_refused() -> None:
    small = Snapshot(memory=HostMemory(total=8 * 10**9, available=4 * 10**9))
    int4 = LoadOptions(device="cpu", quant="int4")
    with pytest.raises(OutOfMemory, match=r"chatglm-6b in glmtui needs 5\.1 GB; memory has 4\.0"):
        check_memory((target(key="chatglm-6b", options=int4),), small)
    check_memory((target(key="smollm2", options=int4),), small)
    both = (target(key="smollm2"), target("transformers", key="smollm2"))
    with pytest.raises(OutOfMemory, match="in glmtui and transformers needs"):
        check_memory(both, Snapshot(memory=HostMemory(total=10**9, available=10**9)))


# ---- processes


def test_an_engine_runs_in_its_own_process(folder: Path) -> None:
    with EngineProcess(target(model=inspect_folder(folder))) as worker:
        start = worker.load()
        assert start.engine == "glmtui"
        assert len(worker.generate([5, 6, 7], 2).ids) == 2
        # errors keep their type, and a dead process is reported
        with pytest.raises(EngineError, match="ended unexpectedly"):
            worker.generate(["no id"], 2)  # type: ignore[list-item]


def test_a_copy_is_measured_in_another_process(folder: Path) -> None:
    ours = target(model=inspect_folder(folder))
    with EngineProcess(ours) as worker:
        start = worker.load()
        before = worker.peak_memory() or 0
        with copy_process(ours, start) as copier:
            copier.load()
            assert copier.copy_bandwidth() > 1e6
        worker.generate([5, 6, 7], 2)
        assert (worker.peak_memory() or 0) < before + COPY_BYTES // 4


def test_our_engine_keeps_only_one_kv_cache(folder: Path) -> None:
    engine = OwnEngine(target(model=inspect_folder(folder)))
    for first in (5, 50, 100):
        engine.generate(range(first, first + 30), 4)
        assert len(engine._loaded._prefix_cache) == 1


def test_measuring_smollm2_takes_half_a_gigabyte() -> None:
    """Includes libraries, weights and the KV cache of the longest context; with random weights."""
    options = LoadOptions(device="cpu", quant="int4")
    with EngineProcess(target(key="smollm2", options=options)) as worker:
        worker.load()
        worker.generate(range(2048), 2)
        assert (worker.peak_memory() or 0) < 0.55e9


def test_an_engine_that_cannot_load_says_why(tmp_path: Path, folder: Path) -> None:
    model = inspect_folder(folder)
    (folder / "model.safetensors").write_bytes(b"nonsense")
    with (
        EngineProcess(target(model=model)) as worker,
        pytest.raises(Exception, match="safetensors"),
    ):
        worker.load()


# ---- the command line


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DATA", "CONFIG", "CACHE", "STATE"):
        monkeypatch.setenv(f"GLMTUI_{name}_DIR", str(tmp_path / name.lower()))


@pytest.mark.parametrize(
    ("argv", "code", "message"),
    [
        (["--against", "vllm"], 2, "invalid choice: 'vllm'"),
        (["--rounds", "0"], 2, "must be a whole number, at least 1, not '0'"),
        (["--tokens", "1"], 2, "must be a whole number, at least 2, not '1'"),
        (["--against", "llama-cpp"], 2, "needs the model as a GGUF file"),
        (["--against", "llama-cpp", "--gguf", "/no/file"], 1, "File not found: /no/file"),
        (["--synthetic", "smollm2", "--against", "absent"], 2, "invalid choice"),
        (["FOLDER", "--synthetic", "smollm2"], 2, "cannot be combined with a model"),
        (["http://127.0.0.1:9/v1"], 2, "is a server"),
        (["nothing-here"], 1, "nothing-here"),
        ([], 1, "glmtui pull smollm2"),
    ],
)
def test_impossible_requests_fail_at_once(
    place: None,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    argv: list[str],
    code: int,
    message: str,
) -> None:
    monkeypatch.setitem(bench.PEER_MODULES, "llama-cpp", "json")  # as if it were installed
    given = [str(folder) if argument == "FOLDER" else argument for argument in argv]
    if "--gguf" in argv or argv == ["--against", "llama-cpp"]:
        given.append(str(folder))
    assert main(["bench", *given]) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err


@pytest.mark.parametrize(
    ("peer", "package"), [("llama-cpp", "llama-cpp-python"), ("transformers", "transformers")]
)
def test_a_peer_that_is_not_installed_is_named(
    place: None,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    peer: str,
    package: str,
) -> None:
    monkeypatch.setitem(bench.PEER_MODULES, peer, "glmtui_has_no_such_module")
    assert main(["bench", str(folder), "--against", peer]) == 1
    err = capsys.readouterr().err
    assert f"{peer} is not installed." in err
    assert f"pip install {package}" in err


def test_the_command_measures_against_transformers(
    place: None, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["bench", str(folder), "--against", "transformers", "--rounds", "1", "--tokens", "2"]
    assert main([*argv, "--threads", "1", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [engine["engine"] for engine in found["engines"]] == ["glmtui", "transformers"]
    assert found["model"] == str(folder)
    kinds = {(work["kind"], work["at"]) for work in found["works"]}
    assert {("decode", 1), ("prefill", 254), ("turn", 3), ("reread", 3)} <= kinds
    for work in found["works"]:
        for engine in work["engines"].values():
            assert engine["median"] > 0


def test_ctrl_c_ends_the_benchmark_at_once(tmp_path: Path, folder: Path) -> None:
    environ = {f"GLMTUI_{n}_DIR": str(tmp_path / n) for n in ("DATA", "CONFIG", "CACHE", "STATE")}
    process = subprocess.Popen(
        [sys.executable, "-m", "glmtui", "bench", str(folder), "--rounds", "1000"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | environ | {"TMPDIR": str(tmp_path)},
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + 30
        while not list(tmp_path.glob("glmtui-bench-*.log")):  # the engine's process begins
            assert time.monotonic() < deadline
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to all of them
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert (process.returncode, out, err) == (130, b"", b"")
    assert not list(tmp_path.glob("glmtui-bench-*.log"))
