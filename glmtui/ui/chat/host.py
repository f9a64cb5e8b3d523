"""Host: what all controllers of the chat need of the screen that owns them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

from textual.screen import Screen

from glmtui.commands import Command
from glmtui.ui.chat.notice import Notice
from glmtui.ui.prompt.prompt import Prompt
from glmtui.ui.session.workspace import Workspace
from glmtui.ui.transcript.selection import SelectableTranscript

ResultT = TypeVar("ResultT")


class Host(Protocol):
    """`glmtui.ui.chat.screen.ChatScreen` is the only one."""

    workspace: Workspace
    transcript: SelectableTranscript
    prompt: Prompt
    notice: Notice

    @property
    def commands(self) -> tuple[Command, ...]:
        """COMMANDS with the user's keys."""
        ...

    def key_hint(self, action: str) -> str:
        """The first key of an action, or else its slash command."""
        ...

    def toast(self, text: str, *, error: bool = False) -> None:
        """Shows a message for a few seconds."""
        ...

    def open_dialog(
        self,
        dialog: Screen[ResultT],
        on_result: Callable[[ResultT | None], None] | None = None,
    ) -> None: ...

    def check_not_replying(self) -> bool:
        """Whether no reply is being written. If one is, tells the user how to stop it."""
        ...

    def focus_prompt(self) -> None:
        """Gives the keys to the prompt; no message is selected then."""
        ...
