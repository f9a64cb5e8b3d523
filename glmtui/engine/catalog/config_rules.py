"""Rules for fields of config.json: valid values, supported values, and relations between fields.

A `ConfigSchema` describes one kind of config.json; the schemas of the families are in
`family_fields`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from glmtui.errors import BadCheckpoint
from glmtui.language import N_, _

ConfigValues: TypeAlias = Mapping[str, Any]

REQUIRED: Any = object()  # instead of a default: the field must be there
MIN_BYTES_PER_WEIGHT = 0.5  # no supported format stores a weight in fewer than 4 bits
MAX_VALUE_CHARS = 60  # longest value in an error message
BAD_CONFIG_HINT = N_("Download the model again with: glmtui pull")


class Rule(Protocol):
    """Decides which values are valid; `str(rule)` describes them to the user."""

    def allows(self, value: Any) -> bool: ...


@dataclass(frozen=True, slots=True)
class IntRange:
    """An int from `low` to `high`; a bool is not an int here."""

    low: int
    high: int

    def allows(self, value: Any) -> bool:
        return type(value) is int and self.low <= value <= self.high

    def __str__(self) -> str:
        return _("a whole number from {low:,} to {high:,}").format(low=self.low, high=self.high)


@dataclass(frozen=True, slots=True)
class FloatRange:
    """A finite number above `low`, up to `high`; `low` itself is allowed if `closed` is set."""

    low: float
    high: float
    closed: bool = False

    def allows(self, value: Any) -> bool:
        if type(value) not in (int, float):
            return False
        above = self.low <= value if self.closed else self.low < value
        return bool(above and value <= self.high)  # every comparison with NaN is false

    def __str__(self) -> str:
        if self.closed:
            return _("a number from {low:g} to {high:g}").format(low=self.low, high=self.high)
        return _("a number above {low:g}, at most {high:g}").format(low=self.low, high=self.high)


@dataclass(frozen=True, slots=True)
class Boolean:
    def allows(self, value: Any) -> bool:
        return type(value) is bool

    def __str__(self) -> str:
        return _("true or false")


@dataclass(frozen=True, slots=True)
class String:
    def allows(self, value: Any) -> bool:
        return isinstance(value, str)

    def __str__(self) -> str:
        return _("a string")


@dataclass(frozen=True, slots=True)
class JsonObject:
    def allows(self, value: Any) -> bool:
        return isinstance(value, dict)

    def __str__(self) -> str:
        return _("a JSON object")


@dataclass(frozen=True, slots=True)
class OneOf:
    choices: tuple[Any, ...]

    def allows(self, value: Any) -> bool:
        return any(type(value) is type(choice) and value == choice for choice in self.choices)

    def __str__(self) -> str:
        return _("one of {choices}").format(choices=", ".join(map(format_value, self.choices)))


@dataclass(frozen=True, slots=True)
class OneOrList:
    """A value that `item` allows, or a list of such values.

    Attributes:
        max_length: of a list.
        allow_null: whether entries of a list may be null.
    """

    item: Rule
    max_length: int = 4096
    allow_null: bool = False

    def allows(self, value: Any) -> bool:
        if not isinstance(value, list):
            return self.item.allows(value)
        return len(value) <= self.max_length and all(
            self.item.allows(entry) or (entry is None and self.allow_null) for entry in value
        )

    def __str__(self) -> str:
        return _("{rule}, or a list of such values").format(rule=self.item)


@dataclass(frozen=True, slots=True)
class ConfigField:
    """A field that changes what a model computes.

    Attributes:
        rule: which values are valid; any other value means a damaged or hostile file.
        default: the value of a missing field or null; `REQUIRED` if the field must be there.
        null: the value of null, if it differs from that of a missing field.
        supported: the values that the native engine can compute; empty for all valid values.
        refusal: message and hint for an unsupported value, instead of the general ones. The
            message may contain {value}.
    """

    name: str
    rule: Rule
    default: Any = REQUIRED
    null: Any = REQUIRED
    supported: tuple[Any, ...] = ()
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
                    _("{path} has no {field}; it must be {rule}.").format(
                        path=path, field=self.name, rule=self.rule
                    ),
                    _(BAD_CONFIG_HINT),
                )
            return value
        self.check(value, path)
        return value

    def check(self, value: Any, path: Path) -> None:
        """Raises BadCheckpoint if the value is not valid."""
        if not self.rule.allows(value):
            raise field_error(path, self.name, value, str(self.rule))

    def supports(self, value: Any) -> bool:
        return not self.supported or value in self.supported


Relation: TypeAlias = Callable[[ConfigValues], tuple[str, str] | None]
"""Checks values of a config against each other.

Returns None, or the name of the field that does not fit and what it must be.
"""


@dataclass(frozen=True, slots=True)
class ConfigSchema:
    """The fields of one kind of config.json.

    Attributes:
        fields: the fields that change what the model computes.
        no_effect: known fields that do not change a reply.
        relations: conditions between fields.
        file_relations: conditions that hold only if there are weight files too.
        min_weights: the least number of weights of a model with these values.
        model_type: transformers' name of the same model, which runs configs with unsupported
            values; empty if transformers has none, so that such configs are refused.
        flatten: moves nested fields to the top level, where `fields` expects them.
    """

    fields: tuple[ConfigField, ...]
    no_effect: Collection[str]
    relations: tuple[Relation, ...]
    min_weights: Callable[[ConfigValues], int]
    model_type: str = ""
    file_relations: tuple[Relation, ...] = ()
    flatten: Callable[[ConfigValues], ConfigValues] = field(default=lambda raw: raw)

    def read(self, raw: ConfigValues, path: Path) -> dict[str, Any]:
        """The value of each field. Raises BadCheckpoint."""
        flat = self.flatten(raw)
        values = {row.name: row.read(flat, path) for row in self.fields}
        _check_relations(self.relations, values, path)
        return values

    def check(self, raw: ConfigValues, path: Path, nbytes: int | None) -> None:
        """Checks the fields that are there, and the model's size against `nbytes` of weights.

        Raises BadCheckpoint. Only `read` reports missing fields.
        """
        flat = self.flatten(raw)
        for row in self.fields:
            if flat.get(row.name) is not None:
                row.check(flat[row.name], path)
        if all(
            row.default is not REQUIRED or flat.get(row.name) is not None for row in self.fields
        ):
            values = self.read(raw, path)
            _check_relations(self.file_relations, values, path)
            check_weight_count(self.min_weights(values), MIN_BYTES_PER_WEIGHT, nbytes, path)

    def unsupported(self, raw: ConfigValues) -> dict[str, Any]:
        """The fields with valid but unsupported values, and those values."""
        flat = self.flatten(raw)
        unsupported = {}
        for row in self.fields:
            value = flat.get(row.name)
            if value is not None and row.rule.allows(value) and not row.supports(value):
                unsupported[row.name] = value
        return unsupported

    @property
    def known_names(self) -> set[str]:
        """The names of all known fields, with or without effect."""
        return {row.name for row in self.fields} | set(self.no_effect)


def _check_relations(relations: tuple[Relation, ...], values: ConfigValues, path: Path) -> None:
    for relation in relations:
        mismatch = relation(values)
        if mismatch is not None:
            name, expected = mismatch
            raise field_error(path, name, values[name], expected)


def field_error(path: Path, name: str, value: Any, expected: str) -> BadCheckpoint:
    """The error for a field whose value is not valid or does not fit the other fields."""
    return BadCheckpoint(
        _("{path}: {field} is {value}; it must be {expected}.").format(
            path=path, field=name, value=format_value(value), expected=expected
        ),
        _(BAD_CONFIG_HINT),
    )


def check_weight_count(count: int, bytes_per_weight: float, nbytes: int | None, path: Path) -> None:
    """Raises BadCheckpoint if files of `nbytes` bytes cannot contain `count` weights.

    Args:
        bytes_per_weight: the least size of one weight.
        nbytes: None if unknown; then nothing is checked.
    """
    if nbytes is not None and count * bytes_per_weight > nbytes:
        raise BadCheckpoint(
            _(
                "{path} describes a model with {count:,} weights, but the weight files have only "
                "{nbytes:,} bytes."
            ).format(path=path, count=count, nbytes=nbytes),
            _(BAD_CONFIG_HINT),
        )


def format_value(value: Any) -> str:
    """A value as config.json writes it, cut to `MAX_VALUE_CHARS`."""
    names = {None: "null", True: "true", False: "false"}
    if value is None or isinstance(value, bool):
        return names[value]
    text = repr(value)
    return text if len(text) <= MAX_VALUE_CHARS else text[: MAX_VALUE_CHARS - 1] + "…"
