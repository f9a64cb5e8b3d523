"""PlainChat: what the commands do in a chat without a screen.

Each `do_*` is named after an action in COMMANDS; those that need a screen have none.
"""

from __future__ import annotations

import os
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from glmtui import commands, config
from glmtui.chat import Message, Role
from glmtui.config import presets
from glmtui.errors import StoreError, UsageError
from glmtui.language import _
from glmtui.sanitize import one_line
from glmtui.store.search import search
from glmtui.ui.panels import status_text
from glmtui.ui.plain.line_chat import SAVER_SECONDS, LineChat
from glmtui.ui.session.export import export
from glmtui.ui.transcript.message_text import code_block, text_without_reasoning
from glmtui.ui.transcript.reasoning import split_reasoning

MOST_LINES = 20
"""Of what was sent before, or found."""


class PlainChat(LineChat):
    """The chat and its commands."""

    # ---- what the commands do, by their action in COMMANDS

    def do_help(self) -> None:
        """Names them."""
        for command in commands.COMMANDS:
            if command.slash and hasattr(self, f"do_{command.action}"):
                self._say(command.usage + ": " + _(command.help))

    def do_quit(self) -> None:
        """Leaves."""
        self._over = True

    def do_stop(self) -> None:
        """Nothing runs while a line is read."""
        self._say(status_text.state_text(self.session, 0)[0])

    def do_new(self) -> None:
        """Begins anew."""
        self._leave(self._fresh())
        self._say(status_text.conversation_title(self.session.conversation))

    def do_clear(self) -> None:
        """Begins anew; the KV cache's memory goes back."""
        self.do_new()
        self.session.forget()

    def do_fork(self) -> None:
        """Goes on in a copy."""
        self.session.open(self.session.conversation.fork())
        self.session.change()
        self._say(_("You go on in a copy of the conversation."))

    def do_open(self, title: str = "") -> None:
        """Opens the newest conversation whose title or id has these words, or names them all."""
        self._saver.settle(SAVER_SECONDS)
        summaries = self.store.summaries()
        if not title:
            for summary in summaries:
                self._say(f"{summary.id}  {one_line(summary.title)}")
            return
        words = title.lower()
        fit = (s for s in summaries if s.id.startswith(words) or words in s.title.lower())
        found = next(fit, None)
        if found is None:
            raise StoreError(_("There is no conversation {title!r}.").format(title=title))
        self._open(self.store.load(found.id))

    def do_find(self, words: str = "") -> None:
        """Names the places that have these words, in all conversations, newest first."""
        if not words:
            raise UsageError(_("/{word} needs more.").format(word="find"))
        self._saver.settle(SAVER_SECONDS)
        hits = (hit for _path, found in search(self.store.paths(), words) for hit in found)
        found = [
            f"{hit.conversation_id}  {one_line(hit.title)}: "
            + one_line(f"{hit.before}{hit.found}{hit.after}")
            for hit in islice(hits, MOST_LINES)
        ]
        self._say("\n".join(found) or _("Nothing has it."))

    def do_title(self, title: str = "") -> None:
        """Gives the conversation another title, or says what it is."""
        if title:
            self.session.change(title=title)
        self._say(status_text.conversation_title(self.session.conversation))

    def do_pin(self) -> None:
        """Has the conversation stand first in the list, or not any more."""
        if self._is_begun():
            pinned = not self.session.conversation.pinned
            self.session.change(pinned=pinned)
            self._say(_("It stands first now.") if pinned else _("It stands by its age now."))

    def do_trash(self) -> None:
        """Puts the conversation into the trash."""
        if self._is_begun():
            title = status_text.conversation_title(self.session.conversation)
            self._shelf.delete(self.session.conversation.id)
            self._say(_("Deleted: {title}. /restore brings it back.").format(title=title))

    def do_restore(self) -> None:
        """Brings back and opens what was deleted last."""
        if restored := self._shelf.undo():
            self._open(self.store.load(restored))
        else:
            self._say(_("Nothing was deleted since the start."))

    def _is_begun(self) -> bool:
        begun = bool(self.session.conversation.messages)
        if not begun:
            self._say(_("There is nothing in this conversation yet."))
        return begun

    # ---- questions and replies

    def do_editor(self) -> None:
        """Asks what is written in an editor."""
        self._edited("", None)

    def do_edit(self) -> None:
        """Asks the last question in other words, on a branch of its own."""
        question = self._last("user")
        if question is None:
            self._say(_("There is no question yet to edit."))
        else:
            self._edited(question.content, question.id)

    def _edited(self, text: str, editing: str | None) -> None:
        from glmtui.ui.terminal.editor import edit_text_blocking

        edited = edit_text_blocking(text, self._say)
        if edited is not None and edited.strip() and edited != text:
            self._say(edited)
            self._ask(edited, editing)

    def do_history(self, words: str = "") -> None:
        """Names the questions that have these words, the newest last."""
        found = self._sent.matching(words)[:MOST_LINES]
        self._say("\n".join(map(one_line, reversed(found))) or _("Nothing like it"))

    def do_copy_message(self) -> None:
        """Copies the last reply."""
        reply = self._last("assistant")
        if reply is None:
            self._say(_("There is no reply yet to copy."))
        else:
            self._copy(text_without_reasoning(reply))

    def do_copy_code(self, number: str = "") -> None:
        """Copies a block of code of the last reply; without a number the first."""
        reply = self._last("assistant")
        block = code_block(text_without_reasoning(reply), number) if reply is not None else None
        if block is None:
            self._say(_("There is no code to copy."))
            return
        self._copy(block.text)
        if block.total > 1:
            told = _("Block {number} of {count}.")
            self._say(told.format(number=block.position + 1, count=block.total))

    def _copy(self, text: str) -> None:
        from glmtui.ui.terminal.clipboard import copy_to_clipboard

        self._say(copy_to_clipboard(text, self._write, os.environ).message)

    def do_thinking(self) -> None:
        """Says what the model thought before its last reply."""
        reply = self._last("assistant")
        thought = split_reasoning(reply.content)[0].strip() if reply is not None else ""
        self._say(thought or _("There are no thoughts before this reply."))

    def do_delete(self) -> None:
        """Takes the last message out."""
        path = self.session.conversation.path
        if path:
            self._say(status_text.deletion_notice(self.session.delete(path[-1].id)))
        else:
            self._say(_("There is no message yet."))

    def do_undo(self) -> None:
        """Brings back what was taken out last."""
        restored = self.session.undo()
        if restored is None:
            self._say(_("There is nothing to bring back; the conversation went on."))
        for message in self.session.conversation.path:
            if message.id == restored:
                self._tell(message)

    def _last(self, role: Role) -> Message | None:
        path = self.session.conversation.path
        return next((message for message in reversed(path) if message.role == role), None)

    def do_regenerate(self) -> None:
        """Answers the last question again."""
        if not self.session.regenerate():
            self._say(_("There is no question yet to answer."))

    def do_continue_reply(self) -> None:
        """Goes on with the last reply."""
        if not self.session.go_on():
            self._say(_("There is no reply to go on with."))

    def do_model(self, name: str = "") -> None:
        """Loads a model, or names those that are here."""
        from glmtui.engine.catalog import resolver

        if name:
            self._use_model(name)
        else:
            self._say("\n".join(model.name for model in resolver.installed()) or _("no model"))

    def do_quant(self, kind: str) -> None:
        """Loads the model again, held in another way."""
        quant = str(config.parse_setting("load.quant", kind))
        self.settings = replace(self.settings, quant=quant)
        self._use_model(self.session.model_name)

    def do_set(self, text: str) -> None:
        """Changes one setting."""
        name, _space, value = text.partition(" ")
        parsed, row = config.parse_setting(name, value), config.find(name)
        if row not in config.SAMPLING_FIELDS:
            raise UsageError(_("{name} cannot be changed while the app runs.").format(name=name))
        values: dict[str, Any] = {row.name: parsed}
        self.session.change(params=replace(self.session.conversation.params, **values))

    def do_settings(self) -> None:
        """Names the settings of this conversation."""
        params = self.session.conversation.params
        for row in config.SAMPLING_FIELDS:
            value = getattr(params, row.name)
            shown = _("as the model has it") if value is None else value
            self._say(f"{row.name} = {shown}")
        shown = self.session.conversation.system or _("as the model has it")
        self._say(f"system_prompt = {shown}")

    def do_system(self, text: str = "") -> None:
        """Says who the model is."""
        self.session.change(system=text or None)

    def do_preset(self, name: str = "") -> None:
        """Takes on a preset, saves one, or names them."""
        word, _space, rest = name.partition(" ")
        if word == "save" and rest.strip():
            path = presets.save(rest.strip(), self.session.conversation.params)
            self._say(_("Saved to {path}.").format(path=path))
        elif name:
            self.session.change(params=presets.find(name))
        else:
            self._say(", ".join(presets.load()[0]))

    def do_keep(self, count: str = "") -> None:
        """Keeps the last turns in the prompt."""
        turns = config.parse_setting("keep_turns", count)
        assert turns is None or isinstance(turns, int)
        self.session.keep_turns = turns

    def do_stats(self) -> None:
        """What the last reply cost."""
        from glmtui.ui.panels import stats

        self._say(stats.stats_page(self.session.conversation.path, (), 80).plain)

    def do_export(self, file: str = "") -> None:
        """Writes the conversation where no file is yet."""
        path = export(self.session.conversation, Path(file).expanduser() if file else None)
        self._say(_("Written to {path}").format(path=path))
