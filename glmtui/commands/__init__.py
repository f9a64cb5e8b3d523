"""The commands of the chat: their keys, slash commands and help, and the parser for what is typed.

Does not know what a command does; that is in `glmtui.ui`.
"""

from glmtui.commands.command_table import (
    COMMANDS,
    LIST,
    MESSAGE,
    PROMPT,
    Command,
    hints,
    markdown_table,
)

__all__ = ["COMMANDS", "LIST", "MESSAGE", "PROMPT", "Command", "hints", "markdown_table"]
