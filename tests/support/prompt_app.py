"""An app that shows only a prompt."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import ClassVar

from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.pilot import Pilot

from glmtui.ui.prompt.prompt import Prompt


class PromptApp(App[None]):
    """A prompt at the bottom.

    Attributes:
        sent: the texts that Enter has sent.
        other: the actions of other keys that the prompt has left to the app.
    """

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
        yield self.prompt.completion_list
        yield self.prompt

    def action_send(self) -> None:
        self.sent.append(self.prompt.take_text())

    def action_stop(self) -> None:
        self.other.append("stop")

    def action_look(self) -> None:
        self.other.append("look")


@asynccontextmanager
async def running_prompt() -> AsyncIterator[tuple[PromptApp, Prompt, Pilot[None]]]:
    app = PromptApp()
    async with app.run_test(size=(40, 12)) as pilot:
        yield app, app.prompt, pilot
