"""COMMANDS: everything the user can do, with keys and slash commands.

Key bindings, slash commands and their completion, the command palette, the help page and the table
in the README are made from it. A new command is a row here and an entry in
`ChatScreen.actions` and `PlainCommands.actions`; what both do is a method of `ui.chat_commands`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial

from glmtui.language import _


@dataclass(frozen=True, slots=True)
class Command:
    """One thing that the user can do.

    Attributes:
        action: the key of the function that does it, in `ChatScreen.actions` and in
            `PlainCommands.actions`; for a row with a scope, an action of that widget.
        title: two or three words, for menus.
        help: one line on what it does.
        keys: Textual's key names, separated by commas; "" for none.
        slash: the word after "/"; "" for none.
        argument: what the user types after the word, in brackets if it is optional, such as
            "[MODEL]". Its first word selects the completion.
        scope: where the keys work: "message" while a message is selected, "prompt" with text in
            the prompt, "list" in the list of conversations, "" anywhere in the chat.
        vim: the keys in the key set "vim" if they differ.
    """

    action: str
    title: str
    help: str
    keys: str = ""
    slash: str = ""
    argument: str = ""
    scope: str = ""
    vim: str = ""

    @property
    def usage(self) -> str:
        """The slash command and its argument, such as "/set SETTING [VALUE]"; "" for none."""
        return f"/{self.slash} {self.argument}".rstrip() if self.slash else ""

    @property
    def kind(self) -> str:
        """The kind of the argument, such as "THEME"; "" without an argument."""
        return self.argument.partition(" ")[0].strip("[]")

    @property
    def key_names(self) -> tuple[str, ...]:
        """The keys as the user reads them, such as "Ctrl+R", or "Up c" for a selected message."""
        prefix = "Up " if self.scope == MESSAGE else ""
        return tuple(prefix + name for name in self.bare_key_names)

    @property
    def bare_key_names(self) -> tuple[str, ...]:
        """The keys as shown to the user, without what must be selected first."""
        return tuple(_key_name(key) for key in self.keys.split(",") if key)


MESSAGE, PROMPT, LIST = "message", "prompt", "list"
_of_message = partial(Command, scope=MESSAGE)
_of_list = partial(Command, scope=LIST)

COMMANDS: tuple[Command, ...] = (
    Command("send", "Send", "Send the question.", "enter"),
    Command(
        "new_line",
        "New line",
        "Insert a line break.",
        "alt+enter,ctrl+j,shift+enter",
    ),
    Command(
        "editor",
        "Editor",
        "Edit the question in $VISUAL or $EDITOR.",
        "ctrl+g",
        "editor",
    ),
    Command(
        "history",
        "History",
        "Find an earlier question.",
        "",
        "history",
        "[TEXT]",
    ),
    Command(
        "search_history",
        "Search history",
        "Find an earlier question with the text in the prompt; again for the next.",
        "ctrl+r",
        scope=PROMPT,
    ),
    Command("stop", "Stop", "Stop the reply and keep its text; close a notice.", "escape", "stop"),
    Command(
        "regenerate",
        "Regenerate",
        "Regenerate the last reply, if the prompt is empty; the earlier one is kept.",
        "ctrl+r",
        "regenerate",
    ),
    Command(
        "select_message",
        "Select a message",
        "Select the last message, as Up does; needed for keys that begin with Up.",
        "alt+up",
    ),
    # In the vim set, k, j and g scroll even while a message is selected.
    _of_message("previous_message", "Previous", "Select the previous message.", "up,k", vim="up"),
    _of_message("next_message", "Next", "Select the next message.", "down,j", vim="down"),
    _of_message("previous_branch", "Other branch", "Show the previous alternative.", "left"),
    _of_message("next_branch", "Other branch", "Show the next alternative.", "right"),
    _of_message("copy_message", "Copy", "Copy the message, or the last reply.", "c", "copy"),
    _of_message(
        "copy_code",
        "Code",
        "Copy a code block; again for the next one.",
        "y",
        "code",
        "[NUMBER]",
    ),
    _of_message(
        "edit",
        "Edit",
        "Edit a question; sending it starts a new branch.",
        "e",
        "edit",
    ),
    _of_message(
        "answer_again",
        "Retry",
        "Answer this question again; the earlier reply is kept.",
        "r",
    ),
    _of_message(
        "continue_reply",
        "Continue",
        "Continue a reply that was stopped or reached its length limit.",
        "g",
        "continue",
        vim="a",
    ),
    _of_message(
        "thinking",
        "Reasoning",
        "Show or hide the reasoning of a reply.",
        "t,enter",
        "thinking",
    ),
    _of_message(
        "quote",
        "Quote",
        "Quote the message, or the text selected with the mouse, in the prompt.",
        "q",
        "quote",
    ),
    _of_message(
        "view_message",
        "Open",
        "Open the message in $VISUAL or $EDITOR; a changed question can be sent.",
        "o",
    ),
    _of_message(
        "delete",
        "Delete",
        "Delete the message and all that follow it.",
        "d",
        "delete",
    ),
    _of_message("undo", "Undo", "Undo the last deletion.", "u", "undo"),
    _of_message("unselect", "Back", "Return to the prompt.", "escape"),
    Command("new", "New conversation", "Start a new conversation.", "ctrl+n", "new"),
    Command(
        "open",
        "Open",
        "Open, rename, pin, delete or copy a saved conversation.",
        "ctrl+o",
        "open",
        "[TITLE]",
    ),
    _of_list("listed_title", "Title", "In the conversation list: rename.", "ctrl+r"),
    _of_list("listed_pin", "Pin", "In the conversation list: pin or unpin.", "ctrl+t"),
    _of_list("listed_delete", "Delete", "In the conversation list: move to the trash.", "ctrl+d"),
    _of_list("listed_undo", "Undo", "In the conversation list: undo the last deletion.", "ctrl+z"),
    _of_list("listed_copy", "Open a copy", "In the conversation list: open a copy.", "ctrl+y"),
    _of_list(
        "listed_find",
        "Search texts",
        "In the conversation list: search the texts of all conversations.",
        "ctrl+f",
    ),
    Command(
        "find",
        "Find",
        "Search the texts of all conversations.",
        "ctrl+f",
        "find",
        "[TEXT]",
    ),
    Command(
        "title",
        "Title",
        "Rename this conversation, or show its title.",
        "",
        "title",
        "[TEXT]",
    ),
    Command("pin", "Pin", "Pin or unpin this conversation.", "", "pin"),
    Command(
        "trash",
        "Delete conversation",
        "Move this conversation to the trash, where it is kept for 30 days.",
        "",
        "trash",
    ),
    Command(
        "restore",
        "Restore conversation",
        "Restore the conversation that was deleted last.",
        "",
        "restore",
    ),
    Command(
        "fork",
        "Fork",
        "Continue in a copy; the original stays as it is on disk.",
        "",
        "fork",
    ),
    Command(
        "model",
        "Model",
        "Pick, download or load a model: a name, a folder, a hub id or a server.",
        "f4",
        "model",
        "[MODEL]",
    ),
    Command(
        "settings",
        "Settings",
        "Show or hide the sampling settings and the system prompt.",
        "f2",
        "settings",
    ),
    Command(
        "set",
        "Set",
        "Change a setting of this conversation; without a value, the model's default.",
        "",
        "set",
        "SETTING [VALUE]",
    ),
    Command(
        "system",
        "System prompt",
        "Set the system prompt; without a text, use the model's default.",
        "",
        "system",
        "[TEXT]",
    ),
    Command(
        "preset",
        "Preset",
        "Apply a preset of sampling values; save NAME stores the current values.",
        "",
        "preset",
        "[PRESET]",
    ),
    Command(
        "stats",
        "Statistics",
        "Show the speed of the last replies and the memory used.",
        "f3",
        "stats",
    ),
    Command(
        "keep",
        "Limit turns",
        "Use only the last N turns in the prompt; without N, all that fit.",
        "",
        "keep",
        "[N]",
    ),
    Command(
        "quant",
        "Quantise",
        "Reload the model with another quantisation: int8, int4, none or auto.",
        "",
        "quant",
        "QUANT",
    ),
    Command(
        "clear",
        "Clear",
        "Start a new conversation and free the KV cache.",
        "",
        "clear",
    ),
    Command(
        "export",
        "Export",
        "Export this conversation to a .md, .toml or .json file.",
        "",
        "export",
        "[FILE]",
    ),
    Command(
        "theme",
        "Theme",
        "Change the theme; without a name, use the next one.",
        "",
        "theme",
        "[THEME]",
    ),
    Command("page_up", "Page up", "Scroll up one page.", "pageup"),
    Command("page_down", "Page down", "Scroll down one page.", "pagedown"),
    Command("half_page_up", "Half a page up", "Scroll up half a page.", "alt+pageup", vim="ctrl+u"),
    Command(
        "half_page_down",
        "Half a page down",
        "Scroll down half a page.",
        "alt+pagedown",
        vim="ctrl+d",
    ),
    Command("line_up", "A line up", "Scroll up one line.", "ctrl+up", vim="ctrl+up,k"),
    Command("line_down", "A line down", "Scroll down one line.", "ctrl+down", vim="ctrl+down,j"),
    Command(
        "scroll_home",
        "To the top",
        "Go to the beginning of the conversation.",
        "ctrl+home",
        vim="ctrl+home,g",
    ),
    Command(
        "scroll_end",
        "To the end",
        "Go to the end and follow new text.",
        "ctrl+end",
        vim="ctrl+end,G",
    ),
    Command(
        "interrupt",
        "Interrupt",
        "Copy the selected text, stop the reply, or clear the prompt.",
        "ctrl+c",
    ),
    Command("palette", "Commands", "Find a command by its name.", "ctrl+p"),
    Command("help", "Help", "Show keys and commands.", "f1", "help"),
    Command("quit", "Quit", "Save everything and quit.", "ctrl+q", "quit"),
)


def markdown_table() -> str:
    """COMMANDS as a table for the README."""
    rows = ["| Key | Command | What it does |", "|---|---|---|"]
    for command in COMMANDS:
        keys = ", ".join(f"`{name}`" for name in command.key_names)
        usage = f"`{command.usage}`" if command.slash else ""
        rows.append(f"| {keys} | {usage} | {command.help} |")
    return "\n".join(rows) + "\n"


def hints(commands: Iterable[Command]) -> list[str]:
    """The first key and the title of each command that has a key, such as "c copy"."""
    return [
        " ".join((command.bare_key_names[0], _(command.title).lower()))
        for command in commands
        if command.keys
    ]


_KEY_NAMES = {"pageup": "PgUp", "pagedown": "PgDn", "escape": "Esc"}


def _key_name(key: str) -> str:
    *modifiers, last = key.split("+")
    if not modifiers and len(last) == 1:
        return last  # g and G are different keys
    return "+".join(_KEY_NAMES.get(part, part.capitalize()) for part in (*modifiers, last))
