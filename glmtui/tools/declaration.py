"""tools.toml: which programs a model may ask for, and what a call of one becomes.

    enabled = true                       # without this line no tool is offered

    [tools.get_weather]
    description = "The weather in a city, now"
    command = ["curl", "-gs", "https://wttr.in/{city}?format=3"]
    timeout = 20                         # seconds; 30 if left out
    [tools.get_weather.parameters.city]
    description = "The city's name"      # of type string, unless it says another
    # type = "string", "integer", "number" or "boolean"; optional = true; choices = ["a", "b"]

``{city}`` stands for what the model gives, always within the one argument it is written in: there
is no shell. An argument that names a parameter which is not given is left out. The program gets all
of them as a JSON object on its standard input too. Nothing here runs anything.
"""

from __future__ import annotations

import difflib
import json
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomli

from glmtui.config.toml_file import line_of_entry
from glmtui.errors import ConfigError, ToolError
from glmtui.language import _
from glmtui.sanitize import sanitize_line, show_all_characters
from glmtui.system import paths
from glmtui.system.durable_files import read_bounded

NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,63}")
JSON_TYPES: Mapping[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
}
MAX_BYTES = 1 << 18  # of tools.toml
TIMEOUT = 30.0
MAX_TIMEOUT = 600.0


@dataclass(frozen=True, slots=True)
class Parameter:
    """One argument that a tool takes.

    Attributes:
        kind: a key of `JSON_TYPES`, as JSON Schema names types.
        choices: the only values of a string, if any.
    """

    name: str
    description: str
    kind: str = "string"
    optional: bool = False
    choices: tuple[str, ...] = ()

    @property
    def schema(self) -> dict[str, Any]:
        """As JSON Schema has it."""
        schema: dict[str, Any] = {"type": self.kind, "description": self.description}
        return {**schema, "enum": list(self.choices)} if self.choices else schema

    def check(self, value: object) -> None:
        """Raises ToolError."""
        # bool is an int to isinstance
        right = isinstance(value, JSON_TYPES[self.kind]) and (
            self.kind == "boolean" or not isinstance(value, bool)
        )
        if not right or (self.choices and value not in self.choices):
            said = _("{name} should be a {kind}, and the model gives {shown}.")
            if self.choices:
                said = _("{name} should be one of {choices}, and the model gives {shown}.")
            shown = sanitize_line(json.dumps(value, ensure_ascii=False, default=str))[:60]
            choices = ", ".join(self.choices)
            raise ToolError(
                said.format(name=self.name, kind=self.kind, choices=choices, shown=shown)
            )


@dataclass(frozen=True, slots=True)
class Invocation:
    """A tool with arguments: what would be run.

    Attributes:
        argv: program and arguments, each as the program will see it.
        stdin: what it can read.
        timeout: seconds.
    """

    argv: tuple[str, ...]
    stdin: str
    timeout: float

    @property
    def display_text(self) -> str:
        """The command as one would type it, on one line, each character of it to be seen."""
        return show_all_characters(shlex.join(self.argv))


@dataclass(frozen=True, slots=True)
class Tool:
    """A program that a model may ask for."""

    name: str
    description: str
    command: tuple[str, ...]
    parameters: tuple[Parameter, ...] = ()
    timeout: float = TIMEOUT

    @property
    def declaration(self) -> dict[str, Any]:
        """What a model is told of it (see `chat.with_tools`)."""
        return {
            "name": self.name,
            "description": self.description,
            "parameters": {
                "type": "object",
                "properties": {p.name: p.schema for p in self.parameters},
                "required": [p.name for p in self.parameters if not p.optional],
            },
        }

    def invocation(self, arguments: Mapping[str, Any] | None) -> Invocation:
        """What a call with these arguments would run.

        Raises:
            ToolError: they are not what the tool takes, or would be taken for an option.
        """
        if arguments is None:
            raise ToolError(
                _("The model calls {tool} in a way that cannot be read.").format(tool=self.name)
            )
        known = {parameter.name: parameter for parameter in self.parameters}
        for name in arguments.keys() - known.keys():
            raise ToolError(
                _("{tool} takes no {name}.").format(
                    tool=self.name, name=sanitize_line(str(name))[:60]
                )
            )
        for name, parameter in known.items():
            if name in arguments:
                parameter.check(arguments[name])
            elif not parameter.optional:
                raise ToolError(
                    _("{tool} needs {name}, and the model does not give it.").format(
                        tool=self.name, name=name
                    )
                )
        texts = {name: _as_text(value) for name, value in arguments.items()}
        argv = list(self.command[:1])
        for word in self.command[1:]:
            if all(name in texts for name in self._named(word)):
                argv.append(self._filled(word, texts, "--" in argv))
        stdin = json.dumps(dict(arguments), ensure_ascii=False)
        return Invocation(tuple(argv), stdin, self.timeout)

    def _named(self, word: str) -> list[str]:
        """The parameters that a word of the command names; other braces are only braces."""
        names = {parameter.name for parameter in self.parameters}
        return [name for name in re.findall(r"\{([\w-]+)\}", word) if name in names]

    def _filled(self, word: str, texts: Mapping[str, str], only_arguments: bool) -> str:
        named = "|".join(map(re.escape, self._named(word)))
        filled = re.sub(f"{{({named})}}", lambda m: texts[m[1]], word) if named else word
        if filled.startswith("-") and not word.startswith("-") and not only_arguments:
            raise ToolError(
                _("The model gives {tool} an argument that begins with a dash: {text}").format(
                    tool=self.name, text=sanitize_line(filled)[:60]
                ),
                _('Where that is meant, put "--" before it in the command of tools.toml.'),
            )
        if "\0" in filled:
            raise ToolError(
                _("The model gives {tool} an argument with a NUL character.").format(tool=self.name)
            )
        return filled


def _as_text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def find_tool(tools: Sequence[Tool], name: str) -> Tool:
    """The tool of that name. Raises ToolError."""
    for tool in tools:
        if tool.name == name:
            return tool
    raise ToolError(
        _("The model calls a tool that does not exist: {name}.").format(
            name=sanitize_line(name)[:60]
        ),
        _("Answer in its place, or declare it in tools.toml."),
    )


# ---- the file


def tools_file() -> Path:
    """Where tools are declared; it need not exist."""
    return paths.config_dir() / "tools.toml"


def load_tools(path: Path | None = None) -> tuple[tuple[Tool, ...], list[ConfigError]]:
    """The tools that are offered to models, and what was wrong with those that are left out.

    None at all unless the file says ``enabled = true``.

    Args:
        path: a file; None reads `tools_file` if there is one.
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
                _("{path} cannot be read: {error}").format(path=path, error=error),
                _("No tool is offered."),
            )
        ]

    def wrong(what: str, *entry: str, hint: str = "") -> None:
        problems.append(
            ConfigError(
                _("{path}, line {line}: {what}").format(
                    path=path, line=line_of_entry(text, entry), what=what
                ),
                hint,
            )
        )

    enabled, tables = document.get("enabled", False), document.get("tools", {})
    for key in document.keys() - {"enabled", "tools"}:
        wrong(
            _('there is no setting "{name}"').format(name=key),
            key,
            hint=_("A tool is a table [tools.NAME]."),
        )
    if not isinstance(enabled, bool):
        wrong(_("enabled is true or false"), "enabled", hint=_("No tool is offered."))
    if enabled is not True or not isinstance(tables, dict):
        return (), problems
    tools = []
    for name, table in tables.items():
        try:
            tools.append(_tool(name, table))
        except ConfigError as error:
            wrong(error.message, "tools", name, hint=error.hint or _("This tool is not offered."))
    return tuple(tools), problems


def _tool(name: str, table: object) -> Tool:
    if not NAME.fullmatch(name):
        raise ConfigError(
            _("{name!r} is no name of a tool").format(name=name),
            _("Letters, digits, _ and - make one."),
        )
    if not isinstance(table, dict):
        raise ConfigError(_("tools.{name} is no table").format(name=name))
    _only(table, ("description", "command", "timeout", "parameters"), f"tools.{name}")
    description, command = table.get("description"), table.get("command")
    if not isinstance(description, str) or not description.strip():
        raise ConfigError(
            _("tools.{name} has no description, from which a model learns its use").format(
                name=name
            )
        )
    if not _is_texts(command) or not command or not command[0]:
        raise ConfigError(
            _("tools.{name}.command is not a list of texts, the program first").format(name=name)
        )
    timeout = table.get("timeout", TIMEOUT)
    if isinstance(timeout, bool) or not isinstance(timeout, int | float):
        raise ConfigError(_("tools.{name}.timeout is no number of seconds").format(name=name))
    if not 0 < timeout <= MAX_TIMEOUT:
        raise ConfigError(
            _("tools.{name}.timeout is not between 0 and {most:.0f} seconds").format(
                name=name, most=MAX_TIMEOUT
            )
        )
    parameters = table.get("parameters", {})
    if not isinstance(parameters, dict):
        raise ConfigError(_("tools.{name}.parameters is no table").format(name=name))
    taken = tuple(_parameter(f"tools.{name}", key, value) for key, value in parameters.items())
    tool = Tool(name, description, tuple(command), taken, float(timeout))
    if tool._named(command[0]):
        raise ConfigError(
            _("tools.{name}.command lets the model choose the program").format(name=name)
        )
    return tool


def _parameter(tool: str, name: str, table: object) -> Parameter:
    where = f"{tool}.parameters.{name}"
    if not NAME.fullmatch(name):
        raise ConfigError(_("{name!r} is no name of a parameter").format(name=name))
    if not isinstance(table, dict):
        raise ConfigError(_("{where} is no table").format(where=where))
    _only(table, ("description", "type", "optional", "choices"), where)
    description, kind = table.get("description", ""), table.get("type", "string")
    optional, choices = table.get("optional", False), table.get("choices", [])
    if not isinstance(description, str):
        raise ConfigError(_("{where}.description is no text").format(where=where))
    if kind not in JSON_TYPES:
        raise ConfigError(
            _("{where}.type is not one of {names}").format(where=where, names=", ".join(JSON_TYPES))
        )
    if not isinstance(optional, bool):
        raise ConfigError(_("{where}.optional is true or false").format(where=where))
    if not _is_texts(choices) or (choices and kind != "string"):
        raise ConfigError(
            _("{where}.choices is not a list of texts, for a string").format(where=where)
        )
    return Parameter(name, description, kind, optional, tuple(choices))


def _only(table: Mapping[str, object], known: Sequence[str], where: str) -> None:
    for key in table.keys() - set(known):
        near = difflib.get_close_matches(key, known, n=1)
        raise ConfigError(
            _("{where} has no {key!r}").format(where=where, key=key),
            _("Did you mean {name}?").format(name=near[0]) if near else "",
        )


def _is_texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(text, str) for text in value)
