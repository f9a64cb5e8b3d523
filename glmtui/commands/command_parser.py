"""Slash commands as they are typed: a line into a row of COMMANDS and its argument.

Pure functions of text; what a command does is for whoever has the action.
"""

from __future__ import annotations

import difflib
import re

from glmtui.commands import COMMANDS, Command
from glmtui.errors import UsageError
from glmtui.language import _

_SLASH = re.compile(r"/([a-z]+)(?:[ \t]+(\S.*?))?\s*")


def by_word() -> dict[str, Command]:
    """The slash commands by their words."""
    return {command.slash: command for command in COMMANDS if command.slash}


def looks_like_command(text: str) -> bool:
    """Whether `text` is one line that begins as a command does; /usr/bin does not."""
    return _SLASH.fullmatch(text) is not None


def parse(text: str) -> tuple[Command, str]:
    """The command in a line such as "/set top_p 0.8", and its argument ("top_p 0.8").

    Raises:
        UsageError: no such command, or an argument too few or too many.
    """
    found = _SLASH.fullmatch(text)
    word, argument = (found.group(1), found.group(2) or "") if found else (text, "")
    known = by_word()
    command = known.get(word)
    if command is None:
        near = difflib.get_close_matches(word, known, n=1)
        hint = _("/help shows them all.")
        if near:
            hint = _("Did you mean {name}?").format(name=f"/{near[0]}")
        said = _("There is no command /{word}.").format(word=word)
        raise UsageError(said, hint + " " + _("A space before it sends it."))
    if argument and not command.argument:
        raise UsageError(_("/{word} takes nothing after it.").format(word=word))
    if not argument and command.argument and not command.argument.startswith("["):
        said = _("/{word} needs an argument.").format(word=word)
        raise UsageError(said, _("It is used as: {usage}").format(usage=command.usage))
    return command, argument


def completions(text: str) -> tuple[Command, ...]:
    """The commands that a line begun with "/" may become; none once an argument is begun."""
    if not re.fullmatch(r"/[a-z]*", text):
        return ()
    word = text[1:]
    found = (c for c in COMMANDS if c.slash and c.slash.startswith(word))
    return tuple(sorted(found, key=lambda c: c.slash != word))  # what is whole comes first
