"""What the text in the prompt may become: a command, its argument, a path after @.

Pure functions of the text and of what there is to choose from; nothing here is a widget.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice
from typing import NamedTuple, TypeAlias

from glmtui.commands import Command, command_parser
from glmtui.language import _
from glmtui.sanitize import sanitize_line

MOST = 100
"""Rows that are offered; what is not among them has to be typed on."""

_PATH = re.compile(r'(?<!\S)@("[^"\n]*|[^\s"]\S*|)$')


class ArgumentValue(NamedTuple):
    """One thing that an argument may be.

    Attributes:
        value: the whole argument, as it is then typed.
        note: what is known of it.
        more: whether it is only the beginning of one.
    """

    value: str
    note: str = ""
    more: bool = False


class Completion(NamedTuple):
    """One row of what is offered.

    Attributes:
        text: what is written in place of the last `back` characters before the cursor.
        back: so many of them; None for all of the text.
        sends: whether Enter on it also sends.
    """

    text: str
    label: str
    note: str = ""
    back: int | None = None
    sends: bool = False


Provider: TypeAlias = Callable[[str], Iterable[ArgumentValue]]
"""The choices that go on from what is typed of an argument, best first."""


def offers(before: str, after: str, providers: Mapping[str, Provider]) -> tuple[Completion, ...]:
    """What is offered where the cursor stands between two texts.

    Args:
        providers: by `Command.kind`; "FILE" is also asked after an @.
    """
    if not after and before.startswith("/") and "\n" not in before:
        word, space, argument = before[1:].partition(" ")
        if not space:
            return tuple(map(written_out, command_parser.completions(before)))
        command = command_parser.by_word().get(word)
        provider = providers.get(command.kind) if command else None
        rows = () if provider is None else islice(provider(argument.lstrip()), MOST)
        return tuple(
            Completion(
                f"/{word} {row.value}", sanitize_line(row.value), row.note, None, not row.more
            )
            for row in rows
            if row.value != argument
        )
    return _paths(before, providers)


def written_out(command: Command) -> Completion:
    """The offer of a command, sent at once where it needs nothing more."""
    text = f"/{command.slash} " if command.argument else f"/{command.slash}"
    needs_more = bool(command.argument) and not command.argument.startswith("[")
    return Completion(text, command.usage, _(command.help), None, not needs_more)


def sent_before(entries: Iterable[str]) -> tuple[Completion, ...]:
    """Earlier questions to pick from."""
    return tuple(Completion(entry, sanitize_line(entry)[:200]) for entry in islice(entries, MOST))


def _paths(before: str, providers: Mapping[str, Provider]) -> tuple[Completion, ...]:
    found = _PATH.search(before)
    provider = providers.get("FILE")
    if found is None or provider is None:
        return ()
    typed = found[1].removeprefix('"')
    made = []
    for row in islice(provider(typed), MOST):
        quote = '"' if " " in row.value else ""
        end = "" if row.more else quote
        text = f"@{quote}{row.value}{end}"
        if text != before[found.start() :]:
            made.append(Completion(text, sanitize_line(row.value), row.note, len(found[1]) + 1))
    return tuple(made)


def fitting(typed: str, choices: Sequence[ArgumentValue]) -> list[ArgumentValue]:
    """The choices that `typed` may become: those that begin with it, then those that have it."""
    typed = typed.lower()
    found = [choice for choice in choices if typed in choice.value.lower()]
    return sorted(found, key=lambda choice: not choice.value.lower().startswith(typed))
