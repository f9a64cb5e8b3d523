"""What a field of config.json may hold, and the error for a value that it may not hold.

Knows rules and tables of fields; which fields a family has is in `family_fields`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from glmtui.errors import BadCheckpoint
from glmtui.language import N_, _

ConfigValues: TypeAlias = Mapping[str, Any]

REQUIRED: Any = object()  # in place of a default
MIN_BYTES_PER_WEIGHT = 0.5  # no packing that is read takes fewer than 4 bits
MAX_VALUE_CHARS = 60  # characters of a value in a message
BAD_CONFIG_HINT = N_("Fetch the model again with: glmtui pull")


class Rule(Protocol):
    """Which values are valid; `str` of it tells a user."""

    def allows(self, value: Any) -> bool: ...


@dataclass(frozen=True, slots=True)
class IntRange:
    """A whole number; true and false are none."""

    least: int
    most: int

    def allows(self, value: Any) -> bool:
        return type(value) is int and self.least <= value <= self.most

    def __str__(self) -> str:
        return _("a whole number from {least:,} to {most:,}").format(
            least=self.least, most=self.most
        )


@dataclass(frozen=True, slots=True)
class FloatRange:
    """A finite number; `least` itself is allowed only where `closed` is set."""

    least: float
    most: float
    closed: bool = False

    def allows(self, value: Any) -> bool:
        if type(value) not in (int, float):
            return False
        above = self.least <= value if self.closed else self.least < value
        return bool(above and value <= self.most)  # NaN fails every comparison

    def __str__(self) -> str:
        if self.closed:
            return _("a number from {least:g} to {most:g}").format(least=self.least, most=self.most)
        return _("a number above {least:g}, up to {most:g}").format(
            least=self.least, most=self.most
        )


@dataclass(frozen=True, slots=True)
class Boolean:
    def allows(self, value: Any) -> bool:
        return type(value) is bool

    def __str__(self) -> str:
        return "true, false"


@dataclass(frozen=True, slots=True)
class String:
    def allows(self, value: Any) -> bool:
        return isinstance(value, str)

    def __str__(self) -> str:
        return _("a text")


@dataclass(frozen=True, slots=True)
class JsonObject:
    def allows(self, value: Any) -> bool:
        return isinstance(value, dict)

    def __str__(self) -> str:
        return _("a table")


@dataclass(frozen=True, slots=True)
class OneOf:
    choices: tuple[Any, ...]

    def allows(self, value: Any) -> bool:
        return any(type(value) is type(one) and value == one for one in self.choices)

    def __str__(self) -> str:
        return ", ".join(map(format_value, self.choices))


@dataclass(frozen=True, slots=True)
class OneOrList:
    """What a rule allows, or a list of it; with `gaps` a list may have null in places."""

    one: Rule
    most: int = 4096  # entries of a list
    gaps: bool = False

    def allows(self, value: Any) -> bool:
        if not isinstance(value, list):
            return self.one.allows(value)
        return len(value) <= self.most and all(
            self.one.allows(one) or (one is None and self.gaps) for one in value
        )

    def __str__(self) -> str:
        return _("{rule}, or a list of such").format(rule=self.one)


@dataclass(frozen=True, slots=True)
class ConfigField:
    """A field that changes what a model computes.

    Attributes:
        valid: what it can hold at all; anything else is a damaged or hostile file.
        default: what a missing field, or null, means; `REQUIRED` where there is no such thing.
        null: what null means, where that is something else.
        honoured: the values that the native engine computes with; empty for every valid one.
        refusal: what is said of a value that is not honoured, in place of the usual words, with
            {value} in it.
    """

    name: str
    valid: Rule
    default: Any = REQUIRED
    null: Any = REQUIRED
    honoured: tuple[Any, ...] = ()
    refusal: tuple[str, str] | None = None

    def read(self, raw: ConfigValues, path: Path) -> Any:
        """The field's value in a config. Raises BadCheckpoint."""
        value = raw.get(self.name)
        if value is None:
            value = self.default
            if self.name in raw and self.null is not REQUIRED:
                value = self.null
            if value is REQUIRED:
                raise BadCheckpoint(
                    _("{path} has no {field}; allowed is {rule}.").format(
                        path=path, field=self.name, rule=self.valid
                    ),
                    _(BAD_CONFIG_HINT),
                )
            return value
        self.check(value, path)
        return value

    def check(self, value: Any, path: Path) -> None:
        """Raises BadCheckpoint for a value that is not valid."""
        if not self.valid.allows(value):
            raise BadCheckpoint(
                _("{path}: {field} is {value}; allowed is {rule}.").format(
                    path=path, field=self.name, value=format_value(value), rule=self.valid
                ),
                _(BAD_CONFIG_HINT),
            )

    def honours(self, value: Any) -> bool:
        return not self.honoured or value in self.honoured


Relation: TypeAlias = Callable[[ConfigValues], tuple[str, str] | None]
"""Looks at all values of a config: None, or the field that does not fit and what it has to be."""


@dataclass(frozen=True, slots=True)
class ConfigSchema:
    """All that config.json of one kind says about what a model computes.

    Attributes:
        fields: each that changes the function, sizes first.
        no_effect: fields that are known and change nothing in a reply.
        relations: what must hold between fields.
        of_files: the same, where there are weight files too.
        weights: how many weights a model of these values has at least.
        model_type: as transformers knows the same model, to which values that are not honoured
            are left; empty where it has none, so that they are refused.
        view: a config with nested fields laid out as `fields` has them.
    """

    fields: tuple[ConfigField, ...]
    no_effect: Collection[str]
    relations: tuple[Relation, ...]
    weights: Callable[[ConfigValues], int]
    model_type: str = ""
    of_files: tuple[Relation, ...] = ()
    view: Callable[[ConfigValues], ConfigValues] = field(default=lambda raw: raw)

    def read(self, raw: ConfigValues, path: Path) -> dict[str, Any]:
        """The value of each field. Raises BadCheckpoint."""
        seen = self.view(raw)
        values = {row.name: row.read(seen, path) for row in self.fields}
        _relate(self.relations, values, path)
        return values

    def check(self, raw: ConfigValues, path: Path, nbytes: int | None) -> None:
        """Checks the fields that are there, and their product against `nbytes` of weights.

        Raises BadCheckpoint. A field that is missing is an error of `read` alone.
        """
        seen = self.view(raw)
        for row in self.fields:
            if seen.get(row.name) is not None:
                row.check(seen[row.name], path)
        if all(
            row.default is not REQUIRED or seen.get(row.name) is not None for row in self.fields
        ):
            values = self.read(raw, path)
            _relate(self.of_files, values, path)
            check_weight_count(self.weights(values), MIN_BYTES_PER_WEIGHT, nbytes, path)

    def others(self, raw: ConfigValues) -> dict[str, Any]:
        """The fields whose values are not honoured, and those values; invalid ones left out."""
        seen = self.view(raw)
        found = {}
        for row in self.fields:
            value = seen.get(row.name)
            if value is not None and row.valid.allows(value) and not row.honours(value):
                found[row.name] = value
        return found

    @property
    def known(self) -> set[str]:
        """Every field that is known, of whatever effect."""
        return {row.name for row in self.fields} | set(self.no_effect)


def _relate(relations: tuple[Relation, ...], values: ConfigValues, path: Path) -> None:
    for relation in relations:
        found = relation(values)
        if found is not None:
            name, needed = found
            raise relation_error(path, name, values[name], needed)


def relation_error(path: Path, name: str, value: Any, needed: str) -> BadCheckpoint:
    """The error for a field that does not fit the others."""
    return BadCheckpoint(
        _("{path}: {field} is {value}; it has to be {needed}.").format(
            path=path, field=name, value=format_value(value), needed=needed
        ),
        _(BAD_CONFIG_HINT),
    )


def check_weight_count(count: int, each: float, nbytes: int | None, path: Path) -> None:
    """Raises BadCheckpoint where so many weights cannot be in files of `nbytes` bytes.

    Args:
        each: fewest bytes of one weight.
        nbytes: None where it is not known.
    """
    if nbytes is not None and count * each > nbytes:
        raise BadCheckpoint(
            _(
                "{path} describes a model of {count:,} weights; the weight files of {nbytes:,} "
                "bytes cannot hold so many."
            ).format(path=path, count=count, nbytes=nbytes),
            _(BAD_CONFIG_HINT),
        )


def format_value(value: Any) -> str:
    """A value as config.json has it, cut short."""
    names = {None: "null", True: "true", False: "false"}
    if value is None or isinstance(value, bool):
        return names[value]
    text = repr(value)
    return text if len(text) <= MAX_VALUE_CHARS else text[: MAX_VALUE_CHARS - 1] + "…"
