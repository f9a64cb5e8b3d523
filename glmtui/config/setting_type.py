"""One setting: its name, type, range and help line, and the check of a value against them.

A setting is declared as a dataclass field (see `setting`); `declared_settings` reads the fields
back. Which settings exist and where their values come from is in `settings`.
"""

from __future__ import annotations

import difflib
import json
import re
import sys
from collections.abc import Iterable
from dataclasses import MISSING, Field, dataclass, field, fields
from types import NoneType
from typing import Any, TypeAlias, get_args, get_type_hints

from glmtui.errors import ConfigError
from glmtui.language import _
from glmtui.net.addresses import redact_url

Value: TypeAlias = str | int | float | bool | None

BOOLEAN_WORDS = dict.fromkeys(("true", "yes", "on"), True) | dict.fromkeys(
    ("false", "no", "off"), False
)
MAX_VALUE_CHARS = 60  # longest value in an error message


@dataclass(frozen=True, slots=True)
class Setting:
    """The declaration of one setting.

    Attributes:
        name: the field of `Settings`; for sampling also the field of `SamplingParams`.
        table: its table in config.toml; empty at the top level.
        kind: str, int, float or bool.
        default: None means that the model's own value is used, or none.
        help: one line about what it does.
        example: the value in config.example.toml if there is no default.
        optional: whether it can be unset again.
        low, high: limits of a number, both included.
        choices: the only valid values, if there are any.
        pattern: regular expression that the whole of a str must match.
        pattern_help: what the pattern accepts, in words.
    """

    name: str
    table: str
    kind: type
    default: Value
    help: str
    example: Value = None
    optional: bool = False
    low: float = -sys.float_info.max
    high: float = sys.float_info.max
    choices: tuple[str, ...] = ()
    pattern: str = ".*"
    pattern_help: str = "text"

    @property
    def full_name(self) -> str:
        """Its name in config.toml, such as "sampling.top_k"."""
        return f"{self.table}.{self.name}" if self.table else self.name

    @property
    def short_name(self) -> str:
        """The shortest name the user can type: sampling settings need no table."""
        return self.name if self.table == "sampling" else self.full_name

    @property
    def variable(self) -> str:
        """The environment variable that sets it."""
        return "GLMTUI_" + self.full_name.replace(".", "_").upper()

    @property
    def expected(self) -> str:
        """The valid values, such as "a number from 0 to 2"."""
        if self.choices:
            return _("one of {choices}").format(choices=", ".join(self.choices))
        if self.kind is bool:
            return _("true or false")
        if self.kind is str:
            return _(self.pattern_help)
        if self.high < sys.float_info.max:
            whole, any_number = (
                _("a whole number from {low} to {high}"),
                _("a number from {low} to {high}"),
            )
        else:
            whole, any_number = (
                _("a whole number, at least {low}"),
                _("a number, at least {low}"),
            )
        text = whole if self.kind is int else any_number
        return text.format(low=_format_number(self.low), high=_format_number(self.high))

    @property
    def _range(self) -> str:
        """The limits of a number, such as "from 0 to 2"."""
        bounded = self.high < sys.float_info.max
        text = _("from {low} to {high}") if bounded else _("at least {low}")
        return text.format(low=_format_number(self.low), high=_format_number(self.high))

    def parse(self, text: str) -> Value:
        """The value that the user typed. Raises ConfigError.

        An optional number or switch is unset by an empty text or by "default".
        """
        text = text.strip()
        if self.optional and self.kind is not str and text.lower() in ("", "default"):
            return None
        value: object = text
        if self.kind is bool:
            value = BOOLEAN_WORDS.get(text.lower(), text)
        elif self.kind is not str:
            try:
                value = self.kind(text)
            except ValueError:
                value = text  # for the error message of `check`
        return self.check(value)

    def check(self, value: object) -> Value:
        """The value in the type of this setting: an int becomes a float. Raises ConfigError."""
        checked = value
        if self.kind is float and type(value) is int and abs(value) < 2**53:
            checked = float(value)
        # type() rather than isinstance(): bool is a subclass of int.
        has_type = type(checked) is self.kind
        if has_type and isinstance(checked, str | int | float) and self._allows(checked):
            return checked
        out_of_range = has_type and self.kind in (int, float)
        hint = _(self.help)
        if similar := difflib.get_close_matches(str(value), self.choices, n=1):
            hint = _("Did you mean {name}?").format(name=f'"{similar[0]}"')
        raise ConfigError(
            _("{name} must be {expected}, not {value}").format(
                name=self.short_name,
                expected=self._range if out_of_range else self.expected,
                value=_format_value(value),
            ),
            hint,
        )

    def _allows(self, value: Value) -> bool:
        if isinstance(value, str):
            is_choice = not self.choices or value in self.choices
            return is_choice and re.fullmatch(self.pattern, value, re.DOTALL) is not None
        # Comparisons with NaN are false.
        return isinstance(value, int | float) and self.low <= value <= self.high


def _format_number(number: float) -> str:
    return f"{number:.15g}"


def _format_value(value: object) -> str:
    """A value as config.toml writes it, cut to `MAX_VALUE_CHARS` and without passwords."""
    if isinstance(value, str) and ("://" in value or "@" in value):
        value = redact_url(value)
    if isinstance(value, float):
        text = _format_number(value)
    else:
        text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= MAX_VALUE_CHARS else text[: MAX_VALUE_CHARS - 1] + "…"


def setting(help_line: str, default: Any = MISSING, *, table: str = "", **attributes: Any) -> Any:
    """A dataclass field that declares a setting.

    Args:
        attributes: further attributes of `Setting`.
    """
    return field(default=default, metadata={"help": help_line, "table": table, **attributes})


def declared_settings(cls: type, table: str = "") -> tuple[Setting, ...]:
    """The settings that a dataclass declares, in order.

    Args:
        table: the table of all of them, instead of the declared ones.
    """
    hints = get_type_hints(cls)
    return tuple(
        _setting_from_field(declared, hints[declared.name], table)
        for declared in fields(cls)
        if "help" in declared.metadata
    )


def _setting_from_field(declared: Field[Any], hint: Any, table: str) -> Setting:
    attributes = dict(declared.metadata)
    arguments = get_args(hint)
    if optional := NoneType in arguments:
        hint = arguments[0]
    elif arguments:  # a Literal: its arguments are the choices
        hint, attributes["choices"] = str, arguments
    attributes["table"] = table or attributes["table"]
    default = None if declared.default is MISSING else declared.default
    return Setting(name=declared.name, kind=hint, default=default, optional=optional, **attributes)


def unknown_setting(name: str, known: Iterable[Setting]) -> ConfigError:
    """The error for a setting that does not exist; the hint has the most similar name."""
    names = {row.table: f"[{row.table}]" for row in known if row.table}
    names |= {key: row.full_name for row in known for key in (row.full_name, row.name)}
    last_part = name.rpartition(".")[2]
    similar = [n for part in (name, last_part) for n in difflib.get_close_matches(part, names, 1)]
    hint = _("Did you mean {name}?").format(name=names[similar[0]]) if similar else ""
    return ConfigError(_('unknown setting "{name}"').format(name=name), hint)
