"""Reading tools.toml, the user's declarations of tools.

    enabled = true                       # without this line no tool is offered

    [tools.get_weather]
    description = "The weather in a city, now"
    command = ["curl", "-gs", "https://wttr.in/{city}?format=3"]
    timeout = 20                         # seconds; default: 30
    [tools.get_weather.parameters.city]
    description = "The city's name"      # of type string by default
    # type = "string", "integer", "number" or "boolean"; optional = true; choices = ["a", "b"]

``{city}`` is replaced by the model's argument. A word of the command whose parameter is not passed
is left out. The program also receives all arguments as a JSON object on its standard input.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tomli

from glmtui.config.toml_file import with_location
from glmtui.errors import ConfigError
from glmtui.language import _
from glmtui.system import paths
from glmtui.system.durable_files import read_bounded
from glmtui.tools.tool import DEFAULT_TIMEOUT, JSON_TYPES, Parameter, Tool

NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,63}")  # of a tool or parameter
MAX_BYTES = 1 << 18  # size limit of tools.toml
MAX_TIMEOUT = 600.0  # seconds


def tools_file() -> Path:
    """The default file with the tools; it may not exist."""
    return paths.config_dir() / "tools.toml"


def load_tools(path: Path | None = None) -> tuple[tuple[Tool, ...], list[ConfigError]]:
    """The tools that models may call, and the errors in the tools that were left out.

    There are none unless the file has ``enabled = true``.

    Args:
        path: a file; None reads `tools_file()` if it exists.
    """
    path = path or tools_file()
    problems: list[ConfigError] = []
    try:
        text = read_bounded(path, MAX_BYTES).decode("utf-8-sig")
        document = tomli.loads(text)
    except FileNotFoundError:
        return (), []
    except (OSError, ValueError, RecursionError) as error:
        return (), [
            ConfigError(
                _("Could not read {path}: {reason}").format(path=path, reason=error),
                _("No tool is offered."),
            )
        ]

    def report(error: ConfigError, *entry: str) -> None:
        problems.append(with_location(error, path, text, entry))

    enabled, tables = document.get("enabled", False), document.get("tools", {})
    for key in document.keys() - {"enabled", "tools"}:
        hint = _("A tool is a table [tools.NAME].")
        report(ConfigError(_('unknown setting "{name}"').format(name=key), hint), key)
    if not isinstance(enabled, bool):
        hint = _("No tool is offered.")
        report(
            ConfigError(_("{name} must be true or false").format(name="enabled"), hint), "enabled"
        )
    if enabled is not True or not isinstance(tables, dict):
        return (), problems
    tools = []
    for name, table in tables.items():
        try:
            tools.append(_tool(name, table))
        except ConfigError as error:
            hint = error.hint or _("This tool is not offered.")
            report(ConfigError(error.message, hint), "tools", name)
    return tuple(tools), problems


def _tool(name: str, value: object) -> Tool:
    """A tool from its table. Raises ConfigError."""
    where = f"tools.{name}"
    _check_name(name, _("{name!r} is not a valid tool name"))
    table = _table(value, where)
    _check_keys(table, ("description", "command", "timeout", "parameters"), where)
    description, command = table.get("description"), table.get("command")
    if not isinstance(description, str) or not description.strip():
        raise ConfigError(
            _("{name} needs a description, which tells the model what it does").format(name=where)
        )
    if not _is_string_list(command) or not command or not command[0]:
        raise ConfigError(
            _("{name}.command must be a list of strings, the program first").format(name=where)
        )
    timeout = table.get("timeout", DEFAULT_TIMEOUT)
    is_number = isinstance(timeout, int | float) and not isinstance(timeout, bool)
    if not is_number or not 0 < timeout <= MAX_TIMEOUT:
        raise ConfigError(
            _(
                "{name}.timeout must be a number of seconds, above 0 and at most {maximum:.0f}"
            ).format(name=where, maximum=MAX_TIMEOUT)
        )
    parameters = tuple(
        _parameter(where, key, entry)
        for key, entry in _table(table.get("parameters", {}), f"{where}.parameters").items()
    )
    tool = Tool(name, description, tuple(command), parameters, float(timeout))
    if tool.placeholders(command[0]):
        raise ConfigError(
            _("{name}.command must not let the model choose the program").format(name=where)
        )
    return tool


def _parameter(tool: str, name: str, value: object) -> Parameter:
    """A parameter from its table. Raises ConfigError."""
    where = f"{tool}.parameters.{name}"
    _check_name(name, _("{name!r} is not a valid parameter name"))
    table = _table(value, where)
    _check_keys(table, ("description", "type", "optional", "choices"), where)
    description, kind = table.get("description", ""), table.get("type", "string")
    optional, choices = table.get("optional", False), table.get("choices", [])
    if not isinstance(description, str):
        raise ConfigError(_("{name}.description must be a string").format(name=where))
    if kind not in JSON_TYPES:
        raise ConfigError(
            _("{name}.type must be one of {choices}").format(
                name=where, choices=", ".join(JSON_TYPES)
            )
        )
    if not isinstance(optional, bool):
        raise ConfigError(_("{name} must be true or false").format(name=f"{where}.optional"))
    if not _is_string_list(choices) or (choices and kind != "string"):
        raise ConfigError(
            _('{name}.choices must be a list of strings, and only for the type "string"').format(
                name=where
            )
        )
    return Parameter(name, description, kind, optional, tuple(choices))


def _check_name(name: str, message: str) -> None:
    if not NAME.fullmatch(name):
        raise ConfigError(
            message.format(name=name),
            _("Use letters, digits, _ and -, starting with a letter or _."),
        )


def _table(value: object, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ConfigError(_("{name} must be a table").format(name=where))
    return value


def _check_keys(table: dict[str, Any], known: Sequence[str], where: str) -> None:
    for key in table.keys() - set(known):
        similar = difflib.get_close_matches(key, known, n=1)
        raise ConfigError(
            _("unknown key {key!r} in {name}").format(key=key, name=where),
            _("Did you mean {name}?").format(name=similar[0]) if similar else "",
        )


def _is_string_list(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)
