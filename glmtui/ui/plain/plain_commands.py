"""PlainCommands: what the commands do in the plain chat. Those that need a screen are left out."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from itertools import islice
from typing import Protocol

from glmtui import commands, config
from glmtui.chat import Conversation, Message, Role
from glmtui.errors import StoreError, UsageError
from glmtui.language import _
from glmtui.sanitize import sanitize_line
from glmtui.store.search import search
from glmtui.ui.chat_commands import ChatCommands
from glmtui.ui.panels import status_text
from glmtui.ui.prompt.history import History
from glmtui.ui.session.workspace import SAVER_CLOSE_SECONDS, Workspace
from glmtui.ui.transcript.message_text import code_block, text_without_reasoning
from glmtui.ui.transcript.reasoning import split_reasoning

MAX_LINES = 20
"""Lines written of the history or of a search."""


class PlainHost(Protocol):
    """What PlainCommands needs of the plain chat."""

    workspace: Workspace
    history: History

    def write_line(self, text: str) -> None: ...

    def write_text(self, text: str) -> None:
        """Writes text as it is, for escape sequences."""
        ...

    def write_message(self, message: Message) -> None: ...

    def ask(self, question: str, editing: str | None = None) -> None: ...

    def load_model(self, name: str) -> None: ...

    def open_conversation(self, conversation: Conversation) -> None: ...

    def quit(self) -> None: ...


class PlainCommands:
    """Most methods return the text to write.

    Attributes:
        actions: what the rows of COMMANDS do, by `Command.action`. A row with an argument gets
            what was typed after the slash command.
    """

    def __init__(self, host: PlainHost) -> None:
        self._host = host
        self._workspace = host.workspace
        self._session = host.workspace.session
        self._commands = both = ChatCommands(host.workspace)
        self.actions: Mapping[str, Callable[..., str | None]] = {
            # questions and replies
            "editor": self.write_in_editor,
            "edit": self.edit,
            "history": self.list_history,
            "regenerate": both.regenerate,
            "continue_reply": both.continue_reply,
            "copy_message": self.copy_reply,
            "copy_code": self.copy_code,
            "thinking": self.reasoning,
            "delete": self.delete,
            "undo": self.undo,
            "stop": self.state,
            # conversations
            "new": self.new,
            "open": self.open,
            "find": self.find,
            "title": both.title,
            "pin": both.pin,
            "trash": both.trash,
            "restore": self.restore,
            "fork": both.fork,
            "export": both.export,
            # the model and its settings
            "model": self.model,
            "settings": self.list_settings,
            "set": both.set,
            "system": both.system,
            "preset": self.preset,
            "stats": self.stats,
            "keep": both.keep,
            "quant": self.quant,
            "clear": self.clear,
            "help": self.help,
            "quit": host.quit,
        }

    def help(self) -> str:
        return "\n".join(
            command.usage + ": " + _(command.help)
            for command in commands.COMMANDS
            if command.slash and command.action in self.actions
        )

    def state(self) -> str:
        """What the chat does at present: nothing, while a line is read."""
        return status_text.state_text(self._session, 0)[0]

    # ---- questions and replies

    def _last(self, role: Role) -> Message | None:
        path = self._session.conversation.path
        return next((message for message in reversed(path) if message.role == role), None)

    def write_in_editor(self) -> None:
        """Sends what the user writes in their editor."""
        self._ask_from_editor("", None)

    def edit(self) -> str:
        """Lets the user change the last question in their editor and sends it as a new branch."""
        question = self._last("user")
        if question is None:
            return _("No question to edit yet.")
        self._ask_from_editor(question.content, question.id)
        return ""

    def _ask_from_editor(self, text: str, editing: str | None) -> None:
        from glmtui.ui.terminal.editor import edit_text_blocking

        edited = edit_text_blocking(text, self._host.write_line)
        if edited is not None and edited.strip() and edited != text:
            self._host.write_line(edited)
            self._host.ask(edited, editing)

    def list_history(self, words: str = "") -> str:
        """The sent questions that contain these words, the newest last."""
        found = self._host.history.matching(words)[:MAX_LINES]
        return "\n".join(map(sanitize_line, reversed(found))) or _("No matches")

    def copy_reply(self) -> str:
        reply = self._last("assistant")
        return (
            _("No reply to copy yet.")
            if reply is None
            else self._copy(text_without_reasoning(reply))
        )

    def copy_code(self, number: str = "") -> str:
        """Copies a code block of the last reply, without a number the first."""
        reply = self._last("assistant")
        block = code_block(text_without_reasoning(reply), number) if reply is not None else None
        if block is None:
            return _("No code to copy.")
        text = self._copy(block.text)
        if block.total > 1:
            position = _("Block {number} of {count}.")
            text += "\n" + position.format(number=block.position + 1, count=block.total)
        return text

    def _copy(self, text: str) -> str:
        from glmtui.ui.terminal.clipboard import copy_to_clipboard

        return copy_to_clipboard(text, self._host.write_text, os.environ).message

    def reasoning(self) -> str:
        """The model's reasoning before its last reply."""
        reply = self._last("assistant")
        reasoning = split_reasoning(reply.content)[0].strip() if reply is not None else ""
        return reasoning or _("This reply has no reasoning.")

    def delete(self) -> str:
        """Deletes the last message."""
        path = self._session.conversation.path
        return self._commands.delete(path[-1].id) if path else _("No messages yet.")

    def undo(self) -> str:
        """Restores the message that was deleted last and writes it."""
        restored = self._session.undo()
        if restored is None:
            return _("Nothing to undo: the conversation has continued.")
        for message in self._session.conversation.path:
            if message.id == restored:
                self._host.write_message(message)
        return ""

    # ---- conversations

    def new(self) -> str:
        self._workspace.open(self._workspace.new_conversation())
        return status_text.conversation_title(self._session.conversation)

    def clear(self) -> str:
        """Starts a new conversation and frees the KV cache."""
        text = self.new()
        self._session.clear_cache()
        return text

    def open(self, title: str = "") -> str:
        """Opens the newest conversation with this title or id; without one, lists all."""
        self._workspace.saver.wait(SAVER_CLOSE_SECONDS)
        summaries = self._workspace.store.summaries()
        if not title:
            return "\n".join(
                f"{summary.id}  {sanitize_line(summary.title)}" for summary in summaries
            )
        words = title.lower()
        found = next(
            (s for s in summaries if s.id.startswith(words) or words in s.title.lower()), None
        )
        if found is None:
            raise StoreError(_("There is no conversation {title!r}.").format(title=title))
        self._host.open_conversation(self._workspace.store.load(found.id))
        return ""

    def find(self, words: str = "") -> str:
        """The places in all conversations that contain these words, newest first."""
        if not words:
            raise UsageError(_("/{word} needs an argument.").format(word="find"))
        self._workspace.saver.wait(SAVER_CLOSE_SECONDS)
        results = search(self._workspace.store.paths(), words)
        lines = [
            f"{hit.conversation_id}  {sanitize_line(hit.title)}: "
            + sanitize_line(f"{hit.before}{hit.found}{hit.after}")
            for hit in islice((hit for _path, hits in results for hit in hits), MAX_LINES)
        ]
        return "\n".join(lines) or _("Not found.")

    def restore(self) -> str:
        """Restores and opens what was deleted last. Raises StoreError."""
        restored = self._workspace.library.restore_last()
        if not restored:
            return _("Nothing to restore: nothing was deleted since the start.")
        self._host.open_conversation(self._workspace.store.load(restored))
        return ""

    # ---- the model and its settings

    def model(self, name: str = "") -> str:
        """Loads a model; without a name, lists those that are installed."""
        from glmtui.engine.catalog import resolver

        if name:
            self._host.load_model(name)
            return ""
        return "\n".join(model.name for model in resolver.installed_models()) or _("no model")

    def quant(self, kind: str) -> None:
        """Loads the model again with another quantisation."""
        self._host.load_model(self._commands.set_quant(kind))

    def list_settings(self) -> str:
        """The settings of the conversation."""
        conversation = self._session.conversation
        values = [
            (row.name, getattr(conversation.params, row.name)) for row in config.SAMPLING_FIELDS
        ]
        values.append(("system_prompt", conversation.system or None))
        default = _("model default")
        return "\n".join(f"{name} = {default if v is None else v}" for name, v in values)

    def preset(self, text: str = "") -> str:
        """Applies or saves a preset; without a name, lists them."""
        return self._commands.preset(text) if text else self._commands.list_presets()[0]

    def stats(self) -> str:
        """What the last reply cost."""
        from glmtui.ui.panels import stats

        return stats.stats_page(self._session.conversation.path, (), 80).plain
