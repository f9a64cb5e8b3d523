"""Parses slash commands: a line becomes a row of COMMANDS and an argument."""

from __future__ import annotations

import difflib
import re

from glmtui.commands import COMMANDS, Command
from glmtui.errors import UsageError
from glmtui.language import _

_SLASH = re.compile(r"/([a-z]+)(?:[ \t]+(\S.*?))?\s*")


def by_word() -> dict[str, Command]:
    """The commands that have a slash command, by its word."""
    return {command.slash: command for command in COMMANDS if command.slash}


def looks_like_command(text: str) -> bool:
    """Whether the text is one line that begins like a command; "/usr/bin" does not."""
    return _SLASH.fullmatch(text) is not None


def parse(text: str) -> tuple[Command, str]:
    """The command and the argument ("top_p 0.8") in a line such as "/set top_p 0.8".

    Raises:
        UsageError: there is no such command, or an argument is missing or not allowed.
    """
    match = _SLASH.fullmatch(text)
    word, argument = (match.group(1), match.group(2) or "") if match else (text, "")
    known = by_word()
    command = known.get(word)
    if command is None:
        near = difflib.get_close_matches(word, known, n=1)
        hint = _("/help lists all commands.")
        if near:
            hint = _("Did you mean {name}?").format(name=f"/{near[0]}")
        message = _("There is no command /{word}.").format(word=word)
        raise UsageError(message, hint + " " + _("To send it as text, put a space before it."))
    if argument and not command.argument:
        raise UsageError(_("/{word} takes no argument.").format(word=word))
    if not argument and command.argument and not command.argument.startswith("["):
        message = _("/{word} needs an argument.").format(word=word)
        raise UsageError(message, _("Usage: {usage}").format(usage=command.usage))
    return command, argument


def completions(text: str) -> tuple[Command, ...]:
    """The commands whose word begins with `text`, such as "/se"; none after a space."""
    if not re.fullmatch(r"/[a-z]*", text):
        return ()
    word = text[1:]
    matches = (c for c in COMMANDS if c.slash and c.slash.startswith(word))
    return tuple(sorted(matches, key=lambda c: c.slash != word))  # the exact match first
