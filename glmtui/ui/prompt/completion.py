"""Completions of the text in the prompt: commands, their arguments, and paths after @.

Pure functions of the text and the providers.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice
from typing import NamedTuple, TypeAlias

from glmtui.commands import Command, command_parser
from glmtui.language import _
from glmtui.sanitize import sanitize_line

MAX_COMPLETIONS = 100
"""Rows in the list. To find others, the user types more."""

_PATH = re.compile(r'(?<!\S)@("[^"\n]*|[^\s"]\S*|)$')


class ArgumentValue(NamedTuple):
    """A value for an argument of a command.

    Attributes:
        value: the whole argument.
        note: a description.
        is_partial: whether more has to be typed after it.
    """

    value: str
    note: str = ""
    is_partial: bool = False


class Completion(NamedTuple):
    """A row of the completion list.

    Attributes:
        text: is put in place of the last `replaced` characters before the cursor.
        label: is shown in the list; safe text on one line, as is `note`.
        replaced: None replaces the whole text.
        submits: whether Enter also sends the text.
    """

    text: str
    label: str
    note: str = ""
    replaced: int | None = None
    submits: bool = False


Provider: TypeAlias = Callable[[str], Iterable[ArgumentValue]]
"""Returns the values that fit to what has been typed of an argument, best first."""


def find_completions(
    before: str, after: str, providers: Mapping[str, Provider]
) -> tuple[Completion, ...]:
    """The completions for a cursor between `before` and `after`.

    Args:
        providers: by `Command.kind`; "FILE" is also used after an @.
    """
    if not after and before.startswith("/") and "\n" not in before:
        word, space, argument = before[1:].partition(" ")
        if not space:
            return tuple(map(command_completion, command_parser.completions(before)))
        command = command_parser.by_word().get(word)
        provider = providers.get(command.kind) if command else None
        values = () if provider is None else islice(provider(argument.lstrip()), MAX_COMPLETIONS)
        return tuple(
            _completion(f"/{word} {value.value}", value, submits=not value.is_partial)
            for value in values
            if value.value != argument
        )
    return _path_completions(before, providers)


def command_completion(command: Command) -> Completion:
    """A command. It is sent at once if it needs no argument."""
    text = f"/{command.slash} " if command.argument else f"/{command.slash}"
    needs_argument = bool(command.argument) and not command.argument.startswith("[")
    return Completion(text, command.usage, _(command.help), submits=not needs_argument)


def history_completions(texts: Iterable[str]) -> tuple[Completion, ...]:
    """Texts that were sent before."""
    return tuple(
        Completion(text, sanitize_line(text)[:200]) for text in islice(texts, MAX_COMPLETIONS)
    )


def _path_completions(before: str, providers: Mapping[str, Provider]) -> tuple[Completion, ...]:
    found = _PATH.search(before)
    provider = providers.get("FILE")
    if found is None or provider is None:
        return ()
    typed = found[1].removeprefix('"')
    completions = []
    for value in islice(provider(typed), MAX_COMPLETIONS):
        quote = '"' if " " in value.value else ""
        end = "" if value.is_partial else quote
        text = f"@{quote}{value.value}{end}"
        if text != before[found.start() :]:
            completions.append(_completion(text, value, replaced=len(found[1]) + 1))
    return tuple(completions)


def _completion(
    text: str, value: ArgumentValue, *, replaced: int | None = None, submits: bool = False
) -> Completion:
    # Values and notes can be names of files and titles of models, which nothing has sanitised yet.
    return Completion(
        text, sanitize_line(value.value), sanitize_line(value.note), replaced, submits
    )


def matching_values(typed: str, values: Sequence[ArgumentValue]) -> list[ArgumentValue]:
    """The values that contain `typed` in any case; those that begin with it come first."""
    typed = typed.lower()
    found = [value for value in values if typed in value.value.lower()]
    return sorted(found, key=lambda value: not value.value.lower().startswith(typed))
