"""HelpScreen: the list of keys and commands."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Static

from glmtui.commands import Command
from glmtui.language import _


class HelpScreen(ModalScreen[None]):
    """Keys and commands.

    Args:
        commands: with the user's keys.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,f1,enter,q", "dismiss(None)", show=False)
    ]

    def __init__(self, commands: Sequence[Command]) -> None:
        super().__init__()
        self._commands = commands

    def compose(self) -> ComposeResult:
        with VerticalScroll(classes="dialog"):
            yield Static(Content(_("Keys and commands")), classes="heading")
            yield Static(help_text(self._commands))
            yield Static(Content(_("Esc closes")), classes="help")


def help_text(commands: Sequence[Command]) -> Content:
    """For each command its keys and usage, and on the next line what it does."""
    rows = []
    for command in commands:
        if usage := "  ".join(filter(None, (*command.key_names, command.usage))):
            rows.append(
                Content.assemble((usage, "$accent"), ("\n    " + _(command.help), "$text-muted"))
            )
    return Content("\n").join(rows)
