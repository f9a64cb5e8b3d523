"""The app in Textual's pilot, with a FakeEngine and folders of its own."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from textual.pilot import Pilot

from glmtui.config import Settings
from glmtui.store import Store
from glmtui.ui.app import GlmtuiApp
from support.fake_engine import FakeEngine

SERVER = Settings(model="http://fake.invalid/v1")
"""What the FakeEngine is told to load; nothing is called."""


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every folder of glmtui's below one of the test's."""
    for name in ("DATA", "CONFIG", "CACHE", "STATE"):
        monkeypatch.setenv(f"GLMTUI_{name}_DIR", str(tmp_path / name.lower()))
    return tmp_path


class AppDesk:
    """A running app and what is needed to use and see it."""

    def __init__(self, app: GlmtuiApp, pilot: Pilot[None]) -> None:
        self.app = app
        self.pilot = pilot

    @property
    def engine(self) -> FakeEngine:
        """The engine the app has made."""
        assert isinstance(self.app._engine, FakeEngine)
        return self.app._engine

    @property
    def store(self) -> Store:
        """The conversations on disk, as another program sees them."""
        return Store(self.app.store.folder)

    def screen(self) -> str:
        """What is to be seen."""
        lines = self.app.screen._compositor.render_strips()
        return "\n".join(strip.text for strip in lines)

    def words(self) -> str:
        """What is to be seen without line breaks and what frames are drawn with."""
        return " ".join(re.sub("[\u2500-\u259f]", " ", self.screen()).split())

    def status(self) -> str:
        """What the status bar says."""
        return self.app.chat.status.render().plain

    async def until(self, condition: Callable[[], bool]) -> None:
        """Waits until something is so."""
        end = time.monotonic() + 60
        while not condition():
            assert time.monotonic() < end, f"it never came to be:\n{self.screen()}"
            await asyncio.sleep(0.01)

    async def shows(self, text: str) -> None:
        """Waits until a text is to be seen, whole or broken into lines, framed or not."""
        await self.until(lambda: text in self.screen() or text in self.words())

    async def type(self, text: str) -> None:
        """Puts a text into the prompt and presses Enter."""
        self.app.chat.prompt.set_text(text)
        await self.pilot.press("enter")

    async def ask(self, text: str) -> None:
        """Asks and waits for the end of the reply."""
        await self.type(text)
        await self.until(lambda: self.app.session.answered and self.app.session.run is None)


@asynccontextmanager
async def running(
    settings: Settings = SERVER,
    size: tuple[int, int] = (80, 24),
    *,
    engine: Callable[[FakeEngine], object] = lambda engine: None,
    **app: Any,
) -> AsyncIterator[AppDesk]:
    """The app, its model loaded if the settings name one.

    Args:
        engine: sets the engine's attributes before it is asked.
    """
    from glmtui.system import paths

    def make(emit: Any) -> FakeEngine:
        made = FakeEngine(emit)
        engine(made)
        return made

    store = Store(paths.data_dir() / "conversations")
    program = GlmtuiApp(settings, store, make, **app)
    async with program.run_test(size=size, notifications=True) as pilot:
        desk = AppDesk(program, pilot)
        await desk.until(lambda: program._engine is not None)
        await desk.until(lambda: program.session.model is not None or not settings.model)
        yield desk
    program.close()
