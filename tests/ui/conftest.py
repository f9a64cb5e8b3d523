"""The app as a program in an emulated terminal, for tests that start it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support import TESTS
from support.app_process import PROGRAM
from support.emulated_terminal import Terminal


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Terminal]]:
    """Starts the program; the text is Python that prepares the engine."""
    made: list[Terminal] = []

    def begin(prepare: str = "", folder: Path = tmp_path, **environ: str) -> Terminal:
        program = PROGRAM.format(tests=str(TESTS), prepare=prepare or "pass")
        made.append(Terminal(folder, ["-c", program], environ=environ))
        made[-1].wait_for_text("Ask anything")
        return made[-1]

    yield begin
    for terminal in made:
        terminal.close()
