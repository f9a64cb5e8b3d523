"""A model that cannot be loaded or breaks at work: the cause is said and a way out, and the next
model answers. Real folders, loader and thread; memory that runs out is an injected exception."""

from __future__ import annotations

import gc
import json
import queue
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from glmtui.chat import Message, SamplingParams
from glmtui.engine.api import Delta, Event, Failed, Finished, LoadFailed, Ready, Request
from glmtui.engine.catalog import resolver
from glmtui.engine.hardware import memory
from glmtui.engine.hardware.gpu import GpuProcess
from glmtui.engine.model_info import LoadOptions
from glmtui.engine.models.llama import Model
from glmtui.engine.thread import EngineThread
from glmtui.errors import EngineError, GlmtuiError, ModelError, OutOfMemory
from support import TESTS
from support.llama_folders import write_llama_folder

PATIENCE = 20.0  # seconds
CPU = LoadOptions(device="cpu", dtype="float32")
GREEDY = SamplingParams(temperature=0, max_new_tokens=8)


class Desk:
    """An EngineThread, and what it says."""

    def __init__(self) -> None:
        self.events: queue.Queue[Event] = queue.Queue()
        self.engine = EngineThread(self.events.put)
        self.engine.start()
        self.asked = 0

    def until(self, *kinds: type[Event]) -> list[Event]:
        seen = [self.events.get(timeout=PATIENCE)]
        while not isinstance(seen[-1], kinds):
            seen.append(self.events.get(timeout=PATIENCE))
        return seen

    def load(self, folder: Path) -> Event:
        """How it ended."""
        self.engine.load(resolver.resolve(str(folder)), CPU)
        return self.until(Ready, LoadFailed)[-1]

    def ask(self, params: SamplingParams = GREEDY) -> list[Event]:
        self.asked += 1
        self.engine.submit(Request(self.asked, (Message("user", "hello"),), params))
        return self.until(Finished, Failed)

    def works_with(self, folder: Path) -> None:
        """The next model loads and answers."""
        loaded = self.load(folder)
        assert isinstance(loaded, Ready)
        ended = self.ask()[-1]
        assert isinstance(ended, Finished)
        assert len(ended.reply.ids) == 8 or ended.reply.finish_reason == "stop"


@pytest.fixture
def desk() -> Iterator[Desk]:
    made = Desk()
    yield made
    assert made.engine.close(PATIENCE)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_llama_folder(tmp_path_factory.mktemp("sound") / "model")


def check_explained(error: GlmtuiError, *words: str) -> None:
    """For a person: what it is about, and what to do; never what only we would understand."""
    assert error.message
    assert error.hint
    for foreign in ("unexpected error", "Traceback", "Error:"):
        assert foreign not in str(error)
    for word in words:
        assert word in str(error)


# ---- files

GOLDEN = TESTS / "goldens" / "models"
QUERY = "model.layers.0.self_attn.q_proj.weight"


def cut(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])


def sharded(folder: Path) -> Path:
    """Weights in two shards with an index."""
    weights = load_file(folder / "model.safetensors")
    names = sorted(weights)
    where = {name: f"model-{n % 2 + 1:05}-of-00002.safetensors" for n, name in enumerate(names)}
    for shard in set(where.values()):
        save_file({n: weights[n] for n in names if where[n] == shard}, folder / shard)
    (folder / "model.safetensors").unlink()
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": where}))
    return index


def index_of_another_model(folder: Path) -> None:
    """Beside shards whose names do not tell that they are all there."""
    index = sharded(folder)
    for shard in folder.glob("model-*.safetensors"):
        shard.rename(shard.with_name(f"part-{shard.name}"))
    index.write_text("[]")


def tokens_beyond(folder: Path) -> None:
    """A tokenizer of which the model knows but the first ids."""
    config = json.loads((folder / "config.json").read_text())
    weights = load_file(folder / "model.safetensors")
    weights["model.embed_tokens.weight"] = weights["model.embed_tokens.weight"][:50].clone()
    save_file(weights, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config | {"vocab_size": 50}))


def changed(**config: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | config))

    return change


def without(name: str) -> Callable[[Path], None]:
    def remove(folder: Path) -> None:
        weights = load_file(folder / "model.safetensors")
        del weights[name]
        save_file(weights, folder / "model.safetensors")

    return remove


def reshaped(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights[QUERY] = weights[QUERY][:-1].clone()
    save_file(weights, folder / "model.safetensors")


def biased(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    save_file(
        weights | {QUERY.replace("weight", "bias"): torch.ones(64)}, folder / "model.safetensors"
    )


DAMAGE: dict[str, tuple[Callable[[Path], object], tuple[str, ...]]] = {
    "missing tensor": (without(QUERY), (QUERY,)),
    "extra tensor that would matter": (biased, ("q_proj.bias",)),
    "wrong shape": (reshaped, (QUERY, "(63, 64)", "(128, 64)")),
    "truncated": (cut, ("model.safetensors",)),
    "absent shard": (
        lambda f: (sharded(f).parent / "model-00002-of-00002.safetensors").unlink(),
        ("model-00002-of-00002.safetensors",),
    ),
    "index of another model": (index_of_another_model, ("index.json",)),
    "config cut short": (
        lambda f: (f / "config.json").write_text('{"model_type": "lla'),
        ("config.json",),
    ),
    "config of other sizes": (changed(num_attention_heads=5), ("config.json",)),
    "config without sizes": (changed(hidden_size=None), ("config.json",)),
    "config with absurd sizes": (changed(hidden_size=2**62), ("config.json",)),
    "tokenizer cut short": (
        lambda f: (f / "tokenizer.json").write_text('{"version"'),
        ("tokenizer.json",),
    ),
    "tokenizer of another family": (
        lambda f: (f / "config.json").write_bytes((GOLDEN / "glm4_tiny/config.json").read_bytes()),
        ("tokenizer", "[gMASK]"),
    ),
    "tokenizer beyond the vocabulary": (tokens_beyond, ("tokenizer", "50")),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_checkpoint(desk: Desk, sound: Path, tmp_path: Path, name: str) -> None:
    damage, words = DAMAGE[name]
    folder = write_llama_folder(tmp_path / "model")
    damage(folder)
    try:
        ended: Event | GlmtuiError = desk.load(folder)
    except ModelError as error:  # seen before anything is asked of the engine
        ended = error
    if isinstance(ended, Ready):
        ended = desk.ask()[-1]
    error = ended if isinstance(ended, GlmtuiError) else getattr(ended, "error", None)
    assert isinstance(error, GlmtuiError), ended
    check_explained(error, *words)
    desk.works_with(sound)


def test_code_that_a_config_names_is_never_run(desk: Desk, tmp_path: Path) -> None:
    folder = write_llama_folder(
        tmp_path / "model",
        auto_map={"AutoModelForCausalLM": "modeling_evil.Evil", "AutoConfig": "modeling_evil.Evil"},
        custom_pipelines={"chat": {"impl": "modeling_evil.Evil"}},
    )
    trap = tmp_path / "run"
    code = f"open({str(trap)!r}, 'w').close()\nclass Evil: pass\n"
    for name in ("modeling_evil", "tokenization_evil", "configuration_evil", "__init__", "torch"):
        (folder / f"{name}.py").write_text(code)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings |= {
        "auto_map": {"AutoTokenizer": ["tokenization_evil.Evil", None]},
        "tokenizer_class": "Evil",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    desk.works_with(folder)
    assert not trap.exists()


# ---- memory, kernels, numbers


def out_of_cuda(*_: object, **__: object) -> Any:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9.00 GiB.")


def out_of_cpu(*_: object, **__: object) -> Any:
    raise RuntimeError(
        "[enforce fail at alloc_cpu.cpp:121] err == 0. DefaultCPUAllocator: can't allocate memory:"
        " you tried to allocate 9663676416 bytes. Error code 12 (Cannot allocate memory)"
    )


def out_of_python(*_: object, **__: object) -> Any:
    raise MemoryError


@pytest.mark.parametrize("fail", [out_of_cuda, out_of_cpu, out_of_python])
def test_no_memory_while_loading(
    desk: Desk, sound: Path, monkeypatch: pytest.MonkeyPatch, fail: Callable[..., Any]
) -> None:
    begun: list[weakref.ref[Model]] = []

    def prepare(self: Model, *_: object) -> None:
        begun.append(weakref.ref(self))
        fail()

    with monkeypatch.context() as patch:
        patch.setattr(Model, "prepare", prepare)
        ended = desk.load(sound)
    assert isinstance(ended, LoadFailed)
    assert isinstance(ended.error, OutOfMemory)
    check_explained(ended.error, "int8 or int4", "context")
    gc.collect()
    assert begun[0]() is None, "the weights are still held"
    desk.works_with(sound)


@pytest.mark.parametrize("fail", [out_of_cuda, out_of_cpu, out_of_python])
@pytest.mark.parametrize("step", ["prefill", "decode"])
def test_no_memory_while_answering(
    desk: Desk, sound: Path, monkeypatch: pytest.MonkeyPatch, fail: Callable[..., Any], step: str
) -> None:
    assert isinstance(desk.load(sound), Ready)
    forward, steps = Model.forward, []

    def failing(self: Model, ids: Tensor, *rest: Any, **named: Any) -> Tensor:
        steps.append(ids.shape[1])
        if (step == "prefill") == (ids.shape[1] > 1) and len(steps) != 2:
            fail()
        return forward(self, ids, *rest, **named)

    with monkeypatch.context() as patch:
        patch.setattr(Model, "forward", failing)
        seen = desk.ask()
    ended = seen[-1]
    assert isinstance(ended, Failed)
    assert isinstance(ended.error, OutOfMemory)
    check_explained(ended.error, "int8 or int4", "conversation")
    assert ended.partial.text == "".join(e.text for e in seen if isinstance(e, Delta))
    assert len(ended.partial.ids) == (0 if step == "prefill" else 2)
    assert isinstance(desk.ask()[-1], Finished)  # the same model goes on
    desk.works_with(sound)


def test_who_else_takes_the_memory_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    other = GpuProcess(1234, "python", 9 * 10**9)
    monkeypatch.setattr(
        memory, "other_processes", lambda name: (other,) if name == "cuda:0" else ()
    )
    said = memory.out_of_memory(torch.device("cuda:0"))
    check_explained(said, "stop process 1234 (python), which uses 9.0 GB")
    assert "process" not in str(memory.out_of_memory("cpu"))


def test_a_kernel_that_fails(desk: Desk, sound: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(desk.load(sound), Ready)

    def broken(*_: object, **__: object) -> Tensor:
        raise RuntimeError("CUDA error: an illegal memory access was encountered\nand more of it")

    with monkeypatch.context() as patch:
        patch.setattr(Model, "forward", broken)
        ended = desk.ask()[-1]
    assert isinstance(ended, Failed)
    check_explained(ended.error, "an illegal memory access", "reload the model")
    desk.works_with(sound)


@pytest.mark.parametrize("params", [GREEDY, SamplingParams(temperature=1.0, top_k=5, top_p=0.9)])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_break_down(
    desk: Desk, sound: Path, tmp_path: Path, params: SamplingParams, value: float
) -> None:
    def spoil(weights: dict[str, Tensor]) -> None:
        weights["model.norm.weight"][3] = value

    assert isinstance(desk.load(write_llama_folder(tmp_path / "model", spoil)), Ready)
    ended = desk.ask(params)[-1]
    assert isinstance(ended, Failed)
    assert isinstance(ended.error, EngineError)
    check_explained(ended.error, "invalid numbers", "float32")
    desk.works_with(sound)
