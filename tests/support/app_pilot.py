"""AppDriver: runs the app in Textual's pilot, with a FakeEngine and temporary folders."""

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
"""Settings with a model for the FakeEngine. Nothing connects to this address."""


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Puts all of glmtui's folders below the test's temporary folder."""
    for name in ("DATA", "CONFIG", "CACHE", "STATE"):
        monkeypatch.setenv(f"GLMTUI_{name}_DIR", str(tmp_path / name.lower()))
    return tmp_path


class AppDriver:
    """A running app: keys go in, and tests wait for what the screen shows."""

    def __init__(self, app: GlmtuiApp, pilot: Pilot[None]) -> None:
        self.app = app
        self.pilot = pilot

    @property
    def engine(self) -> FakeEngine:
        assert isinstance(self.app.workspace.engine, FakeEngine)
        return self.app.workspace.engine

    @property
    def store(self) -> Store:
        """The store as another program sees it."""
        return Store(self.app.workspace.store.folder)

    def screen_text(self) -> str:
        """The screen as text."""
        lines = self.app.screen._compositor.render_strips()
        return "\n".join(strip.text for strip in lines)

    def flat_text(self) -> str:
        """The screen as one line, without box-drawing characters."""
        return " ".join(re.sub("[\u2500-\u259f]", " ", self.screen_text()).split())

    def status_line(self) -> str:
        return self.app.chat.status.render().plain

    async def wait_until(self, condition: Callable[[], bool]) -> None:
        end = time.monotonic() + 60
        while not condition():
            assert time.monotonic() < end, f"timeout; the screen is:\n{self.screen_text()}"
            await asyncio.sleep(0.01)

    async def wait_for_text(self, text: str) -> None:
        """Waits until the screen shows a text, possibly wrapped or in a frame."""
        await self.wait_until(lambda: text in self.screen_text() or text in self.flat_text())

    async def submit(self, text: str) -> None:
        """Puts a text into the prompt and presses Enter."""
        self.app.chat.prompt.set_text(text)
        await self.pilot.press("enter")

    async def ask(self, text: str) -> None:
        """Sends a question and waits for the end of the reply."""
        await self.submit(text)
        await self.wait_until(
            lambda: self.app.session.has_replied and self.app.session.reply is None
        )


@asynccontextmanager
async def run_app(
    settings: Settings = SERVER,
    size: tuple[int, int] = (80, 24),
    *,
    engine: Callable[[FakeEngine], object] = lambda engine: None,
    **app: Any,
) -> AsyncIterator[AppDriver]:
    """Runs the app. If the settings name a model, it is loaded first.

    Args:
        engine: sets attributes of the engine when it is made.
    """
    from glmtui.system import paths

    def make(emit: Any) -> FakeEngine:
        made = FakeEngine(emit)
        engine(made)
        return made

    store = Store(paths.data_dir() / "conversations")
    program = GlmtuiApp(settings, store, make, **app)
    async with program.run_test(size=size, notifications=True) as pilot:
        driver = AppDriver(program, pilot)
        await driver.wait_until(lambda: program.workspace.engine is not None)
        await driver.wait_until(lambda: program.session.model is not None or not settings.model)
        yield driver
    program.close()
