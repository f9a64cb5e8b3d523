"""Textual key bindings, generated from COMMANDS.

Each binding has the name of its action as its id; `App.set_keymap` replaces keys by these ids
(see `glmtui.commands.keymap`).
"""

from __future__ import annotations

from collections.abc import Iterable

from textual.binding import Binding, BindingType

from glmtui.commands import COMMANDS, Command

UNBOUND_KEY = "unbound"
"""Stands for the key of a command without one. No terminal sends a key of this name, but a binding
needs a key to be in the keymap, where the user can give it another."""


def bindings(scope: str = "", *, action: str = "{}", priority: bool = False) -> list[BindingType]:
    """One binding for each command of `scope`.

    Args:
        action: the Textual action of a command; "{}" stands for `Command.action`.
        priority: whether these keys are handled before the focused widget gets them.
    """
    return [
        Binding(
            command.keys or UNBOUND_KEY,
            action.format(command.action),
            show=False,
            priority=priority,
            id=command.action,
        )
        for command in COMMANDS
        if command.scope == scope
    ]


def keymap(commands: Iterable[Command]) -> dict[str, str]:
    """The keys of `commands` by binding id, as `App.set_keymap` takes them."""
    return {command.action: command.keys or UNBOUND_KEY for command in commands}
