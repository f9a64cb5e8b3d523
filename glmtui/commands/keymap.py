"""The keymap: the keys of COMMANDS, changed by a key set and by the user's own keys.

``[keys]`` in config.toml changes any row: ``fork = "ctrl+y"``, ``fork = ["ctrl+y", "f9"]``, or
``fork = ""`` for none. Within one scope, a key has one action. Key names are Textual's.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace

from glmtui.commands import COMMANDS, Command
from glmtui.errors import ConfigError
from glmtui.language import _

_NAMES = {
    *("enter", "escape", "tab", "space", "backspace", "delete"),
    *("insert", "home", "end", "pageup", "pagedown", "up"),
    *("down", "left", "right", "comma", "slash", "backslash"),
    *("question_mark", "full_stop", "colon", "semicolon", "minus", "plus"),
    *("equals_sign", "left_square_bracket", "right_square_bracket"),
    *(f"f{n}" for n in range(1, 25)),
}
_MODIFIERS = ("ctrl", "alt", "shift", "super", "hyper", "meta")
_KEY = re.compile(rf"((?:{'|'.join(_MODIFIERS)})\+)*([^\s+,]|\w{{2,}})")

Changes = Mapping[str, tuple[str, ...]]
"""The user's keys by action; an empty tuple for none."""


def check(action: str, value: object) -> tuple[str, ...]:
    """The keys in an entry of ``[keys]``. Raises ConfigError for an unknown action or key."""
    actions = [command.action for command in COMMANDS]
    if action not in actions:
        near = difflib.get_close_matches(action, actions, n=1)
        if near:
            hint = _("Did you mean {name}?").format(name=near[0])
        else:
            hint = _("Available: {names}.").format(names=", ".join(actions))
        message = _('keys.{action}: there is no action "{action}"').format(action=action)
        raise ConfigError(message, hint)
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list) or not all(isinstance(key, str) for key in names):
        shown = json.dumps(value, ensure_ascii=False, default=str)[:60]
        raise ConfigError(
            _("keys.{action} = {value} is not a key or a list of keys").format(
                action=action, value=shown
            ),
            _('Write "ctrl+y" or ["ctrl+y", "f9"], or "" for no key.'),
        )
    keys = tuple(key for key in names if key)
    for key in keys:
        _check_name(action, key)
    return keys


def _check_name(action: str, key: str) -> None:
    match = _KEY.fullmatch(key)
    if match and (len(match[2]) == 1 or match[2] in _NAMES):
        return
    stem, plus, name = key.rpartition("+")
    near = difflib.get_close_matches(name.lower(), _NAMES, n=1)
    hint = _('Keys look like "ctrl+y" or "f9".')
    if near:
        hint = _("Did you mean {name}?").format(name=f'"{stem}{plus}{near[0]}"')
    raise ConfigError(
        _('keys.{action} = "{key}" is not a key').format(action=action, key=key), hint
    )


def clashes(changes: Changes) -> Iterator[tuple[str, ConfigError]]:
    """The entries of `changes` whose key already has another action, each with an error."""
    actions = {
        (command.scope, key): command.action
        for command in COMMANDS
        if command.action not in changes
        for key in _split(command.keys)
    }
    scopes = {command.action: command.scope for command in COMMANDS}
    for action, keys in changes.items():
        others = {key: actions.get((scopes[action], key), action) for key in keys}
        clash = next((key for key, other in others.items() if other != action), None)
        if clash is None:
            actions |= {(scopes[action], key): action for key in keys}
        else:
            other = others[clash]
            message = _('keys.{action} = "{key}" is already the key of {other}')
            hint = _("Give {other} another key, or none.").format(other=other)
            yield action, ConfigError(message.format(action=action, key=clash, other=other), hint)


def merge_keys(key_set: str = "default", changes: Changes | None = None) -> tuple[Command, ...]:
    """COMMANDS with the keys of a key set, and the user's own keys in place of those.

    Args:
        key_set: "default" or "vim".
        changes: checked by `check` and without `clashes`.
    """
    changes = changes or {}
    scopes = {command.action: command.scope for command in COMMANDS}
    own = {(scopes[action], key) for action, keys in changes.items() for key in keys}

    def keys_of(command: Command) -> tuple[str, ...]:
        if command.action in changes:
            return changes[command.action]
        keys = _split(command.vim if key_set == "vim" and command.vim else command.keys)
        return tuple(key for key in keys if (command.scope, key) not in own)

    return tuple(replace(command, keys=",".join(keys_of(command))) for command in COMMANDS)


def _split(keys: str) -> tuple[str, ...]:
    return tuple(key for key in keys.split(",") if key)
