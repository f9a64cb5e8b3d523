"""MessageController: selects messages and does what keys and commands do with one.

They act on the selected message. Without a selection, they act on the last message that fits.
"""

from __future__ import annotations

from typing import Protocol

from glmtui.chat import Message, Role
from glmtui.commands import hints
from glmtui.language import _
from glmtui.ui.chat.host import Host
from glmtui.ui.chat.prompt_controller import PromptController
from glmtui.ui.chat_commands import ChatCommands
from glmtui.ui.transcript.message_text import code_block, text_without_reasoning
from glmtui.ui.transcript.reasoning import CLOSING_TAG
from glmtui.ui.widgets.text_line import TextLine


class MessageHost(Host, Protocol):
    """What MessageController needs of the screen."""

    below: TextLine

    @property
    def in_transcript(self) -> bool:
        """Whether the transcript has the keys."""
        ...

    def focus_last_message(self) -> bool:
        """Selects the last message and gives it the keys. Returns False if there is none."""
        ...

    def get_selected_text(self) -> str | None:
        """The text selected with the mouse."""
        ...

    def copy_to_clipboard(self, text: str) -> None: ...

    async def edit_text(self, text: str) -> str | None:
        """Opens a text in the user's editor. Returns None if that failed."""
        ...


class MessageController:
    """The commands on messages."""

    def __init__(
        self, host: MessageHost, prompt_controller: PromptController, commands: ChatCommands
    ) -> None:
        self._host = host
        self._transcript = host.transcript
        self._session = host.workspace.session
        self._prompt_controller = prompt_controller
        self._commands = commands
        self._copied_block = ("", -1)  # the id of the message and the number of its code block

    # ---- selection

    def select_last(self) -> None:
        if not self._host.focus_last_message():
            self._host.toast(_("No messages yet."))

    def select_previous(self) -> None:
        self._transcript.select_next(-1)

    def select_next(self) -> None:
        """Selects the next message; below the last one is the prompt."""
        if not self._transcript.select_next(1):
            self._host.focus_prompt()
            self._transcript.scroll_end()

    def previous_branch(self) -> None:
        self._switch_branch(-1)

    def next_branch(self) -> None:
        self._switch_branch(1)

    def _switch_branch(self, step: int) -> None:
        message = self._selected_or_last()
        if message is None:
            return
        ids = [sibling.id for sibling in self._session.conversation.siblings(message.id)]
        at = ids.index(message.id) + step
        if 0 <= at < len(ids) and self._host.check_not_replying():
            row = self._transcript.selected_row
            self._session.switch(ids[at])
            self._transcript.select(ids[at], at_row=row)

    def on_selection_change(self) -> None:
        """Shows the keys for the selected message."""
        message = self._selected_or_last() if self._transcript.selected_id is not None else None
        self._host.below.set_text("" if message is None else self._key_line(message))
        if self._transcript.selected_id is None and self._host.in_transcript:
            self._host.focus_prompt()  # the selected message was deleted

    def _key_line(self, message: Message) -> str:
        """What can be done with the message, with the keys."""
        text, is_reply = message.content, message.role == "assistant"
        siblings = [sibling.id for sibling in self._session.conversation.siblings(message.id)]
        possible = {
            "copy_message": True,
            "copy_code": is_reply and ("```" in text or "~~~" in text),
            "edit": message.role == "user",
            "answer_again": True,
            "continue_reply": is_reply and message.finish_reason not in ("stop", None),
            "thinking": is_reply and CLOSING_TAG in text,
            "quote": True,
            "view_message": True,
            "delete": True,
            "undo": self._session.can_undo,
            "unselect": True,
        }
        parts = hints(c for c in self._host.commands if possible.get(c.action))
        if len(siblings) > 1:
            parts.insert(0, f"← {siblings.index(message.id) + 1}/{len(siblings)} →")
        return "  ".join(parts)

    def _selected_or_last(self, role: Role | None = None) -> Message | None:
        """The selected message. Without a selection, the last one (with this role)."""
        path = self._session.conversation.path
        selected = self._transcript.selected_id
        if selected is not None:
            return next((message for message in path if message.id == selected), None)
        return next((m for m in reversed(path) if role in (None, m.role)), None)

    def _text(self, message: Message) -> str:
        """The text of a message so far; of a reply, without its reasoning."""
        reply = self._session.reply
        if reply is not None and reply.message.id == message.id:
            message = reply.partial_message
        return text_without_reasoning(message)

    def toggle_reasoning(self) -> None:
        message = self._selected_or_last("assistant")
        if message is None or not self._transcript.toggle_reasoning(message.id):
            self._host.toast(_("This reply has no reasoning."))

    # ---- copies of a message

    def copy(self) -> None:
        """Copies the source text of a message."""
        message = self._selected_or_last("assistant")
        if message is None:
            self._host.toast(_("No reply to copy yet."))
        else:
            self._host.copy_to_clipboard(self._text(message))

    def copy_code(self, number: str = "") -> None:
        """Copies the code block with this number; without one, the block after the last copied."""
        message = self._selected_or_last("assistant")
        message_id, last = self._copied_block
        last = last if message is not None and message_id == message.id else -1
        block = code_block(self._text(message), number, last) if message is not None else None
        if message is None or block is None:
            self._host.toast(_("No code to copy."))
            return
        self._copied_block = (message.id, block.position)
        self._host.copy_to_clipboard(block.text)
        if block.total > 1:
            text = _("Block {number} of {count}.")
            self._host.toast(text.format(number=block.position + 1, count=block.total))

    def quote(self) -> None:
        """Adds a message to the prompt as a quotation; of it, only what the mouse selected."""
        message = self._selected_or_last("assistant")
        text = self._host.get_selected_text()
        text = text or (self._text(message) if message is not None else "")
        if not text.strip():
            self._host.toast(_("No reply to quote yet."))
            return
        quoted = "\n".join(f"> {line}".rstrip() for line in text.strip("\n").split("\n"))
        before = self._host.prompt.full_text.rstrip("\n")
        self._host.focus_prompt()
        self._host.prompt.set_text(f"{before}\n{quoted}\n\n" if before else f"{quoted}\n\n")

    async def view(self) -> None:
        """Opens a message in the user's editor. A changed question goes to the prompt."""
        message = self._selected_or_last()
        if message is None:
            return
        text = self._text(message)
        edited = await self._host.edit_text(text)
        if edited is None or edited == text:
            return
        if message.role != "user":
            self._host.toast(_("Only questions can be changed. Your changes were discarded."))
        elif edited.strip() and self._host.check_not_replying():
            self._prompt_controller.begin_edit(message.id, edited)

    # ---- changes of the conversation

    def regenerate(self) -> None:
        """Answers the last question again."""
        if self._host.check_not_replying():
            self._host.toast(self._commands.regenerate())

    def answer_again(self) -> None:
        """Answers the question again that the selected message is or replies to."""
        message = self._selected_or_last()
        if message is not None and self._host.check_not_replying():
            self._host.focus_prompt()
            self._session.regenerate(message.id)

    def continue_reply(self) -> None:
        message = self._selected_or_last("assistant")
        if message is not None and message.id != self._session.conversation.head:
            self._host.toast(_("Only the last message can be continued."))
        elif self._host.check_not_replying():
            self._host.focus_prompt()
            self._host.toast(self._commands.continue_reply())

    def edit(self) -> None:
        """Puts a question into the prompt: the selected one, or the one before the selection."""
        message = self._selected_or_last()
        questions = []
        for earlier in self._session.conversation.path:
            questions += [earlier] if earlier.role == "user" else []
            if earlier == message:
                break
        if not questions:
            self._host.toast(_("No question to edit yet."))
        elif self._host.check_not_replying():
            self._prompt_controller.begin_edit(questions[-1].id, questions[-1].content)

    def delete(self) -> None:
        """Deletes a message and all that follow it."""
        message = self._selected_or_last()
        if message is None:
            self._host.toast(_("No messages yet."))
        elif self._host.check_not_replying():
            self._prompt_controller.editing = None
            had_selection = self._transcript.selected_id is not None
            at = self._session.conversation.path.index(message)
            text = self._commands.delete(message.id)
            path = self._session.conversation.path
            if had_selection and path:  # now a sibling of it, or the message before
                self._transcript.select(path[min(at, len(path) - 1)].id)
            self._host.toast(text)

    def undo(self) -> None:
        """Restores what was deleted last."""
        if self._host.check_not_replying():
            message_id = self._session.undo()
            if message_id is None:
                self._host.toast(_("Nothing to undo: the conversation has continued."))
            elif self._host.in_transcript:
                self._transcript.select(message_id)
