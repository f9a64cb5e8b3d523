"""The key bindings that Textual is given, made from COMMANDS.

A binding has its action's name for an id, by which the keys in force take the place of those
declared (see `glmtui.commands.keymap`).
"""

from __future__ import annotations

from collections.abc import Iterable

from textual.binding import Binding, BindingType

from glmtui.commands import COMMANDS, Command

UNBOUND = "unbound"
"""A key that no terminal sends, for what has none until the user gives it one."""


def bindings(scope: str = "", *, action: str = "{}", priority: bool = False) -> list[BindingType]:
    """A binding for each row of a scope.

    Args:
        action: the Textual action of a row; "{}" stands for `Command.action`.
        priority: whether the keys are heard before the widget that has the focus gets them.
    """
    return [
        Binding(
            command.keys or UNBOUND,
            action.format(command.action),
            show=False,
            priority=priority,
            id=command.action,
        )
        for command in COMMANDS
        if command.scope == scope
    ]


def keymap(commands: Iterable[Command]) -> dict[str, str]:
    """The keys in force by the ids of their bindings."""
    return {command.action: command.keys or UNBOUND for command in commands}
