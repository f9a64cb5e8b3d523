"""What a person can do in the app: one row each.

A row feeds the key binding, the slash command and its completion, the command palette, the help
page and the README's table. `action` names a method of what has the keys, mostly of
`glmtui.ui.chat.screen.ChatScreen`; a row with an `argument` hands it what was typed after the
command (see `glmtui.commands.command_parser`). Nothing here knows a screen.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial

from glmtui.language import _


@dataclass(frozen=True, slots=True)
class Command:
    """One thing to do.

    Attributes:
        action: `action_<action>` of the chat screen, or of what its scope is.
        title: two or three words, for menus.
        help: one line on what it does.
        keys: key names as Textual has them, comma separated; empty for none.
        slash: the word after "/"; empty for none.
        argument: what may follow the word; in brackets if it may be left out.
        scope: where its keys are heard: "message" while a message is selected, "prompt" with text
            in the prompt, "list" in the list of conversations; empty for anywhere in the chat.
        vim: its keys in the key set of that name, where they differ.
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
        """The slash command as it is typed, such as "/set SETTING VALUE"; empty for none."""
        return f"/{self.slash} {self.argument}".rstrip() if self.slash else ""

    @property
    def kind(self) -> str:
        """What the argument is, such as "THEME"; empty where there is none."""
        return self.argument.partition(" ")[0].strip("[]")

    @property
    def key_names(self) -> tuple[str, ...]:
        """The keys as a person reads them, such as "Ctrl+R"; "Up c" once a message is selected."""
        before = "Up " if self.scope == MESSAGE else ""
        return tuple(before + name for name in self.bare_key_names)

    @property
    def bare_key_names(self) -> tuple[str, ...]:
        """The keys by themselves, whatever has to be selected before."""
        return tuple(_key_name(key) for key in self.keys.split(",") if key)


MESSAGE, PROMPT, LIST = "message", "prompt", "list"
_of_message = partial(Command, scope=MESSAGE)
_of_list = partial(Command, scope=LIST)

COMMANDS: tuple[Command, ...] = (
    Command("send", "Send", "Send the question; a reply follows.", "enter"),
    Command(
        "new_line",
        "New line",
        "Break the line in the question.",
        "alt+enter,ctrl+j,shift+enter",
    ),
    Command(
        "editor",
        "Editor",
        "Write the question in $VISUAL or $EDITOR; what is typed goes along.",
        "ctrl+g",
        "editor",
    ),
    Command(
        "history",
        "History",
        "Find a question that was sent before.",
        "",
        "history",
        "[TEXT]",
    ),
    Command(
        "search_history",
        "Search history",
        "With text in the prompt: find a question that has it; the next one.",
        "ctrl+r",
        scope=PROMPT,
    ),
    Command(
        "stop", "Stop", "Stop the reply and keep what there is; close a notice.", "escape", "stop"
    ),
    Command(
        "regenerate",
        "Regenerate",
        "Answer the last question again, the prompt empty; the earlier reply is kept too.",
        "ctrl+r",
        "regenerate",
    ),
    Command(
        "select_message",
        "Select a message",
        "Select the last message, for the keys that begin with Up; so does Up itself.",
        "alt+up",
    ),
    # In the vim set k, j and g scroll, also while a message is selected.
    _of_message("previous_message", "Previous", "Select the message before.", "up,k", vim="up"),
    _of_message("next_message", "Next", "Select the message after.", "down,j", vim="down"),
    _of_message("previous_branch", "Other branch", "Show the alternative before.", "left"),
    _of_message("next_branch", "Other branch", "Show the alternative after.", "right"),
    _of_message("copy_message", "Copy", "Copy the message, or the last reply.", "c", "copy"),
    _of_message(
        "copy_code",
        "Code",
        "Copy a block of code; the next with the next time.",
        "y",
        "code",
        "[NUMBER]",
    ),
    _of_message(
        "edit",
        "Edit",
        "Put the question back into the prompt; sending it opens a new branch.",
        "e",
        "edit",
    ),
    _of_message(
        "answer_again",
        "Again",
        "Answer this question again; the earlier reply is kept as an alternative.",
        "r",
    ),
    _of_message(
        "continue_reply", "Go on", "Go on with a reply that was cut.", "g", "continue", vim="a"
    ),
    _of_message(
        "thinking",
        "Thoughts",
        "Show or hide what the model thought before the reply.",
        "t,enter",
        "thinking",
    ),
    _of_message(
        "quote", "Quote", "Put the message, or what is marked, into the prompt.", "q", "quote"
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
        "Take the message and all that follows it out of the conversation.",
        "d",
        "delete",
    ),
    _of_message("undo", "Undo", "Bring back what was deleted.", "u", "undo"),
    _of_message("unselect", "Back", "Go back to the prompt.", "escape"),
    Command("new", "New conversation", "Start with an empty page.", "ctrl+n", "new"),
    Command(
        "open",
        "Open",
        "Open a saved conversation; title, pin, delete or copy it there.",
        "ctrl+o",
        "open",
        "[TITLE]",
    ),
    _of_list("listed_title", "Title", "In that list: give another title.", "ctrl+r"),
    _of_list("listed_pin", "Pin", "In that list: have it stand first, or not.", "ctrl+t"),
    _of_list("listed_delete", "Delete", "In that list: put it into the trash.", "ctrl+d"),
    _of_list("listed_undo", "Undo", "In that list: bring back what was deleted last.", "ctrl+z"),
    _of_list("listed_copy", "Open a copy", "In that list: go on in a copy.", "ctrl+y"),
    _of_list("listed_find", "Search texts", "In that list: find words in all texts.", "ctrl+f"),
    Command(
        "find",
        "Find",
        "Find words in all conversations and go there.",
        "ctrl+f",
        "find",
        "[TEXT]",
    ),
    Command(
        "title",
        "Title",
        "Give this conversation another title; without one, see what it is.",
        "",
        "title",
        "[TEXT]",
    ),
    Command("pin", "Pin", "Have this conversation stand first in the list, or not.", "", "pin"),
    Command(
        "trash",
        "Delete conversation",
        "Put this conversation into the trash, where it is kept for 30 days.",
        "",
        "trash",
    ),
    Command("restore", "Restore conversation", "Bring back what was deleted last.", "", "restore"),
    Command(
        "fork",
        "Fork",
        "Go on in a copy; the conversation so far stays as it is on disk.",
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
        "Show or hide how replies are sampled, and the system prompt.",
        "f2",
        "settings",
    ),
    Command(
        "set",
        "Set",
        "Change one setting of this conversation; without a value, back to the model's own.",
        "",
        "set",
        "SETTING [VALUE]",
    ),
    Command(
        "system",
        "System prompt",
        "Say who the model is; without a text, back to the model's own.",
        "",
        "system",
        "[TEXT]",
    ),
    Command(
        "preset",
        "Preset",
        "Take on a set of sampling values by its name; save NAME keeps those there are.",
        "",
        "preset",
        "[PRESET]",
    ),
    Command(
        "stats",
        "Details",
        "Show what the last reply cost, and who has the memory.",
        "f3",
        "stats",
    ),
    Command(
        "keep",
        "Keep turns",
        "Give the model the last N turns only; without N, all that fit.",
        "",
        "keep",
        "[N]",
    ),
    Command(
        "quant",
        "Quantise",
        "Load the model again, its weights held as int8, int4, none or auto.",
        "",
        "quant",
        "QUANT",
    ),
    Command(
        "clear",
        "Clear",
        "Start with an empty page, and give the memory of the KV cache back.",
        "",
        "clear",
    ),
    Command(
        "export",
        "Export",
        "Write this conversation to a file: .md, .toml or .json.",
        "",
        "export",
        "[FILE]",
    ),
    Command(
        "theme", "Theme", "Change the colours; without a name, the next.", "", "theme", "[THEME]"
    ),
    Command("page_up", "Page up", "Look back in the conversation.", "pageup"),
    Command("page_down", "Page down", "Look forward in the conversation.", "pagedown"),
    Command("half_page_up", "Half a page up", "Look back half a page.", "alt+pageup", vim="ctrl+u"),
    Command(
        "half_page_down",
        "Half a page down",
        "Look forward half a page.",
        "alt+pagedown",
        vim="ctrl+d",
    ),
    Command("line_up", "A line up", "Look back a line.", "ctrl+up", vim="ctrl+up,k"),
    Command("line_down", "A line down", "Look forward a line.", "ctrl+down", vim="ctrl+down,j"),
    Command(
        "scroll_home",
        "To the top",
        "Go to where the conversation began.",
        "ctrl+home",
        vim="ctrl+home,g",
    ),
    Command(
        "scroll_end", "To the end", "Go to the end and follow it.", "ctrl+end", vim="ctrl+end,G"
    ),
    Command("interrupt", "Interrupt", "Copy what is selected, or stop, or clear.", "ctrl+c"),
    Command("palette", "Commands", "Find a command by its name.", "ctrl+p"),
    Command("help", "Help", "Show keys and commands.", "f1", "help"),
    Command("quit", "Quit", "Save and leave, whatever is going on.", "ctrl+q", "quit"),
)


def markdown_table() -> str:
    """COMMANDS as the README shows them."""
    rows = ["| Key | Command | What it does |", "|---|---|---|"]
    for command in COMMANDS:
        keys = ", ".join(f"`{name}`" for name in command.key_names)
        usage = f"`{command.usage}`" if command.slash else ""
        rows.append(f"| {keys} | {usage} | {command.help} |")
    return "\n".join(rows) + "\n"


def hints(commands: Iterable[Command]) -> list[str]:
    """What the keys of some commands do, in a word each: "c copy"; none for one without a key."""
    return [
        " ".join((command.bare_key_names[0], _(command.title).lower()))
        for command in commands
        if command.keys
    ]


_KEY_NAMES = {"pageup": "PgUp", "pagedown": "PgDn", "escape": "Esc"}


def _key_name(key: str) -> str:
    *modifiers, last = key.split("+")
    if not modifiers and len(last) == 1:
        return last  # g and G are two keys
    return "+".join(_KEY_NAMES.get(part, part.capitalize()) for part in (*modifiers, last))
