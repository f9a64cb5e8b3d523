"""A tool, its parameters, and the command line that a call of it runs.

A placeholder such as ``{city}`` in the command is replaced within its argument: there is no shell.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from glmtui.errors import ToolError
from glmtui.language import _
from glmtui.sanitize import sanitize_line, show_all_characters

JSON_TYPES: Mapping[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
}
DEFAULT_TIMEOUT = 30.0  # seconds
MAX_SHOWN_CHARS = 60  # of a model's text in an error message


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter of a tool.

    Attributes:
        kind: a key of `JSON_TYPES`, the type in JSON Schema.
        choices: the only valid values of a string, if there are any.
    """

    name: str
    description: str
    kind: str = "string"
    optional: bool = False
    choices: tuple[str, ...] = ()

    @property
    def schema(self) -> dict[str, Any]:
        """The parameter as JSON Schema."""
        schema: dict[str, Any] = {"type": self.kind, "description": self.description}
        return {**schema, "enum": list(self.choices)} if self.choices else schema

    def check(self, value: object) -> None:
        """Raises ToolError if the value is not valid."""
        # bool is a subclass of int
        has_type = isinstance(value, JSON_TYPES[self.kind]) and (
            self.kind == "boolean" or not isinstance(value, bool)
        )
        if not has_type or (self.choices and value not in self.choices):
            if self.choices:
                message = _("{name} must be one of {choices}, but the model passed {value}.")
            else:
                message = _("{name} must be of type {kind}, but the model passed {value}.")
            raise ToolError(
                message.format(
                    name=self.name,
                    kind=self.kind,
                    choices=", ".join(self.choices),
                    value=_shorten(json.dumps(value, ensure_ascii=False, default=str)),
                )
            )


@dataclass(frozen=True, slots=True)
class Invocation:
    """A program with its arguments, ready to run.

    Attributes:
        argv: program and arguments, as the program receives them.
        stdin: the text on its standard input.
        timeout: in seconds.
    """

    argv: tuple[str, ...]
    stdin: str
    timeout: float

    @property
    def display_text(self) -> str:
        """The command as typed in a shell, on one line, with every character visible."""
        return show_all_characters(shlex.join(self.argv))


@dataclass(frozen=True, slots=True)
class Tool:
    """A program that a model may call.

    Attributes:
        command: the program and its arguments, with placeholders for parameters.
        timeout: in seconds.
    """

    name: str
    description: str
    command: tuple[str, ...]
    parameters: tuple[Parameter, ...] = ()
    timeout: float = DEFAULT_TIMEOUT

    @property
    def declaration(self) -> dict[str, Any]:
        """What the model is told about the tool (see `chat.with_tools`)."""
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
        """The program and arguments for a call of this tool.

        Args:
            arguments: None if the model's call could not be parsed.

        Raises:
            ToolError: the arguments are not valid, or one would be read as an option.
        """
        if arguments is None:
            raise ToolError(
                _("The model's call of {tool} could not be parsed.").format(tool=self.name)
            )
        known = {parameter.name: parameter for parameter in self.parameters}
        for name in arguments.keys() - known.keys():
            raise ToolError(
                _("{tool} has no parameter {name}.").format(
                    tool=self.name, name=_shorten(str(name))
                )
            )
        for name, parameter in known.items():
            if name in arguments:
                parameter.check(arguments[name])
            elif not parameter.optional:
                raise ToolError(
                    _("{tool} needs {name}, but the model did not pass it.").format(
                        tool=self.name, name=name
                    )
                )
        values = {
            name: value if isinstance(value, str) else json.dumps(value)
            for name, value in arguments.items()
        }
        argv = list(self.command[:1])
        for word in self.command[1:]:
            if all(name in values for name in self.placeholders(word)):
                argv.append(self._fill(word, values, options_ended="--" in argv))
        stdin = json.dumps(dict(arguments), ensure_ascii=False)
        return Invocation(tuple(argv), stdin, self.timeout)

    def placeholders(self, word: str) -> list[str]:
        """The parameters in braces in a word of the command; other braces are literal text."""
        names = {parameter.name for parameter in self.parameters}
        return [name for name in re.findall(r"\{([\w-]+)\}", word) if name in names]

    def _fill(self, word: str, values: Mapping[str, str], options_ended: bool) -> str:
        """A word of the command with its placeholders replaced. Raises ToolError.

        Args:
            options_ended: whether "--" comes before it, so that it cannot be an option.
        """
        names = "|".join(map(re.escape, self.placeholders(word)))
        filled = re.sub(f"{{({names})}}", lambda m: values[m[1]], word) if names else word
        if filled.startswith("-") and not word.startswith("-") and not options_ended:
            raise ToolError(
                _("The model passed {tool} an argument that starts with a dash: {text}").format(
                    tool=self.name, text=_shorten(filled)
                ),
                _('To allow this, add "--" before it in the command in tools.toml.'),
            )
        if "\0" in filled:
            raise ToolError(
                _("The model passed {tool} an argument with a NUL character.").format(
                    tool=self.name
                )
            )
        return filled


def _shorten(text: str) -> str:
    return sanitize_line(text)[:MAX_SHOWN_CHARS]


def find_tool(tools: Sequence[Tool], name: str) -> Tool:
    """The tool with this name. Raises ToolError."""
    for tool in tools:
        if tool.name == name:
            return tool
    raise ToolError(
        _("The model called a tool that does not exist: {name}.").format(name=_shorten(name)),
        _("Answer the call yourself, or declare the tool in tools.toml."),
    )
