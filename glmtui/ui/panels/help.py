"""Help: the page of keys and commands, made from the table it is given."""

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


class Help(ModalScreen[None]):
    """Keys and commands.

    Args:
        commands: with the keys in force.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,f1,enter,q", "dismiss(None)", show=False)
    ]

    def __init__(self, commands: Sequence[Command]) -> None:
        super().__init__()
        self._commands = commands

    def compose(self) -> ComposeResult:
        """The table, which scrolls."""
        with VerticalScroll(classes="dialog"):
            yield Static(Content(_("Keys and commands")), classes="heading")
            yield Static(help_text(self._commands))
            yield Static(Content(_("Esc closes")), classes="help")


def help_text(commands: Sequence[Command]) -> Content:
    """Each command with its keys and what it does, the keys on a line of their own."""
    rows = []
    for command in commands:
        how = "  ".join(filter(None, (*command.key_names, command.usage)))
        if how:
            rows.append(
                Content.assemble((how, "$accent"), ("\n    " + _(command.help), "$text-muted"))
            )
    return Content("\n").join(rows)
