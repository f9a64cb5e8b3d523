"""The prompt alone in an app."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import ClassVar

from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.pilot import Pilot

from glmtui.ui.prompt.prompt import Prompt


class Desk(App[None]):
    """A prompt at the bottom, and what was sent."""

    CSS = "Prompt { dock: bottom; height: auto; max-height: 6; padding: 0 1; }"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "send"),
        Binding("escape", "stop"),
        Binding("pageup", "look"),
    ]

    def __init__(self) -> None:
        super().__init__()
        self.prompt = Prompt("Ask [bold]anything[/]")
        self.sent: list[str] = []
        self.other: list[str] = []

    def compose(self) -> ComposeResult:
        yield self.prompt.completions
        yield self.prompt

    def action_send(self) -> None:
        self.sent.append(self.prompt.take())

    def action_stop(self) -> None:
        self.other.append("stop")

    def action_look(self) -> None:
        self.other.append("look")


@asynccontextmanager
async def desk() -> AsyncIterator[tuple[Desk, Prompt, Pilot[None]]]:
    app = Desk()
    async with app.run_test(size=(40, 12)) as pilot:
        yield app, app.prompt, pilot
