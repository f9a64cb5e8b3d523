"""Fixtures of the fault table: the real app in a terminal, and a server that answers it."""

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
    """A server whose replies count, and have no end."""
    with serving(count_forever) as server:
        yield server


@pytest.fixture
def glmtui(tmp_path: Path) -> Iterator[Start]:
    """Starts ``python -m glmtui`` with arguments in a terminal; `folder` for its folders."""
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
    """A file system of 1 MB of its own; skips where the test may not mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = shutil.which("mount")
    made = mount and subprocess.run(
        [mount, "-t", "tmpfs", "-o", "size=1m", "glmtui-test", str(folder)], capture_output=True
    )
    if not made or made.returncode:
        pytest.skip("no file system can be mounted here")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)
