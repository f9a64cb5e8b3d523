"""What a person can do in the app, and by which key or slash command.

Knows the table, the keymap and the parser, not what a command does.
"""

from glmtui.commands.table import COMMANDS, LIST, MESSAGE, PROMPT, Command, hints, markdown_table

__all__ = ["COMMANDS", "LIST", "MESSAGE", "PROMPT", "Command", "hints", "markdown_table"]
