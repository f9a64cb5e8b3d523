"""Fixtures for the fault tests: the real app in an emulated terminal, and a server to talk to."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

import pytest

from support.emulated_terminal import Start, Terminal
from support.fake_server import FakeServer, serving
from support.server_replies import count_forever


@pytest.fixture
def counter() -> Iterator[FakeServer]:
    """A server whose replies count without end."""
    with serving(count_forever) as server:
        yield server


@pytest.fixture
def glmtui(tmp_path: Path) -> Iterator[Start]:
    """Starts ``python -m glmtui`` in an emulated terminal, with its data below `folder`."""
    made: list[Terminal] = []

    def start(
        *argv: str,
        folder: Path = tmp_path,
        before: Callable[[], object] = lambda: None,
        environ: Mapping[str, str] = MappingProxyType({}),
    ) -> Terminal:
        made.append(Terminal(folder, ["-m", "glmtui", *argv], before, environ))
        return made[-1]

    yield start
    for terminal in made:
        terminal.close()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MB; skips the test if it cannot be mounted."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = shutil.which("mount")
    made = mount and subprocess.run(
        [mount, "-t", "tmpfs", "-o", "size=1m", "glmtui-test", str(folder)], capture_output=True
    )
    if not made or made.returncode:
        pytest.skip("cannot mount a file system")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)
