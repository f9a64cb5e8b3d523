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


@dataclass(frozen=True, slots=True)
class Setting:
    """All that is known of one setting: a row of the panel, a line of config.example.toml.

    Attributes:
        name: the field of `Settings`; for sampling also the field of `SamplingParams`.
        table: its table in config.toml; empty at the top.
        kind: str, int, float or bool.
        default: None where leaving it out means "the model's own" or "none".
        help: one line on what it does.
        example: what config.example.toml shows where there is no default to show.
        low, high: both within the range.
        choices: the only values allowed, if any.
        pattern, pattern_help: what a str must match, and that in words.
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
    pattern_help: str = "a text"

    @property
    def full_name(self) -> str:
        """Its name in config.toml, such as "sampling.top_k"."""
        return f"{self.table}.{self.name}" if self.table else self.name

    @property
    def variable(self) -> str:
        """The environment variable that sets it."""
        return "GLMTUI_" + self.full_name.replace(".", "_").upper()

    @property
    def expected(self) -> str:
        """What it may be, such as "a number from 0 to 2"."""
        if self.choices:
            return _("one of {choices}").format(choices=", ".join(self.choices))
        if self.kind is bool:
            return _("true or false")
        if self.kind is str:
            return _(self.pattern_help)
        if self.high < sys.float_info.max:
            whole, some = (
                _("a whole number from {low} to {high}"),
                _("a number from {low} to {high}"),
            )
        else:
            whole, some = _("a whole number, {low} or more"), _("a number, {low} or more")
        low, high = f"{self.low:.15g}", f"{self.high:.15g}"
        return (whole if self.kind is int else some).format(low=low, high=high)

    def parse(self, text: str) -> Value:
        """The value of `text` as a person types it. Raises ConfigError.

        Where the model's own value is the default, an empty text or "default" stands for it.
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
                value = text  # `check` says what is wrong with it
        return self.check(value)

    def check(self, value: object) -> Value:
        """`value` as this setting holds it (an int becomes a float). Raises ConfigError."""
        held = value
        if self.kind is float and type(value) is int and abs(value) < 2**53:
            held = float(value)
        # bool is an int to isinstance, so the type itself is compared.
        same = type(held) is self.kind
        if same and isinstance(held, str | int | float) and self._allows(held):
            return held
        if isinstance(value, str) and ("://" in value or "@" in value):
            value = redact_url(value)  # mistyped, and perhaps with a password
        shown = json.dumps(value, ensure_ascii=False, default=str)
        shown = shown if len(shown) <= 60 else shown[:59] + "…"
        near = difflib.get_close_matches(str(value), self.choices, n=1)
        hint = _("Did you mean {name}?").format(name=f'"{near[0]}"') if near else _(self.help)
        text = _("{name} = {value} is not {expected}")
        raise ConfigError(
            text.format(name=self.full_name, value=shown, expected=self.expected), hint
        )

    def _allows(self, value: Value) -> bool:
        if isinstance(value, str):
            listed = not self.choices or value in self.choices
            return listed and re.fullmatch(self.pattern, value, re.DOTALL) is not None
        # A comparison with nan is false.
        return isinstance(value, int | float) and self.low <= value <= self.high


def setting(line: str, default: Any = MISSING, *, table: str = "", **limits: Any) -> Any:
    """A dataclass field that is a setting.

    Args:
        line: its help.
        limits: further attributes of `Setting`.
    """
    return field(default=default, metadata={"help": line, "table": table, **limits})


def declared_settings(cls: type, table: str = "") -> tuple[Setting, ...]:
    """The settings that `cls` declares, in order; `table` is theirs where they name none."""
    hints = get_type_hints(cls)
    return tuple(_row(f, hints[f.name], table) for f in fields(cls) if "help" in f.metadata)


def _row(declared: Field[Any], hint: Any, table: str) -> Setting:
    limits = dict(declared.metadata)
    kinds = get_args(hint)
    if optional := NoneType in kinds:
        hint = kinds[0]
    elif kinds:  # a Literal: its arguments are the choices
        hint, limits["choices"] = str, kinds
    limits["table"] = table or limits["table"]
    default = None if declared.default is MISSING else declared.default
    return Setting(name=declared.name, kind=hint, default=default, optional=optional, **limits)


def unknown_setting(name: str, known: Iterable[Setting]) -> ConfigError:
    """The error for a setting that does not exist, with the nearest that does."""
    meant = {row.table: f"[{row.table}]" for row in known if row.table}
    meant |= {key: row.full_name for row in known for key in (row.full_name, row.name)}
    last_part = name.rpartition(".")[2]
    near = [n for part in (name, last_part) for n in difflib.get_close_matches(part, meant, 1)]
    hint = _("Did you mean {name}?").format(name=meant[near[0]]) if near else ""
    return ConfigError(_('there is no setting "{name}"').format(name=name), hint)
