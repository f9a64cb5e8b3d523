"""MessageActions: what can be done with a message that is said.

The keys act on the message that is marked in the transcript, the commands, where none is, on the
last that fits.
"""

from __future__ import annotations

from textual import events, on

from glmtui.chat import Message, Role
from glmtui.commands import hints
from glmtui.language import _
from glmtui.ui.chat.view import ChatView
from glmtui.ui.panels import status_text
from glmtui.ui.transcript.message_text import code_block, text_without_reasoning
from glmtui.ui.transcript.reasoning import CLOSING_TAG
from glmtui.ui.transcript.selection import SelectableTranscript


class MessageActions(ChatView):
    """The actions on messages; a part of `chat_screen.ChatScreen`."""

    def __init__(self) -> None:
        super().__init__()
        self._code_copied = ("", -1)  # the message whose block was copied last, and which

    # ---- which message

    def action_select_message(self) -> None:
        """Marks the last message."""
        if not self.select_last():
            self.app.tell(_("There is no message yet."))

    def action_previous_message(self) -> None:
        """Marks the message before."""
        self.transcript.select_next(-1)

    def action_next_message(self) -> None:
        """Marks the message after; past the last is the prompt."""
        if not self.transcript.select_next(1):
            self.unselect()
            self.transcript.scroll_end()

    def action_unselect(self) -> None:
        """Goes back to the prompt."""
        self.unselect()

    def action_previous_branch(self) -> None:
        """Shows the alternative before the marked message."""
        self._walk(-1)

    def action_next_branch(self) -> None:
        """Shows the alternative after the marked message."""
        self._walk(1)

    def _walk(self, step: int) -> None:
        message = self._message()
        if message is None:
            return
        ids = [sibling.id for sibling in self.session.conversation.siblings(message.id)]
        at = ids.index(message.id) + step
        if 0 <= at < len(ids) and self.idle():
            row = self.transcript.selected_row
            self.session.switch(ids[at])
            self.transcript.select(ids[at], at_row=row)

    @on(SelectableTranscript.SelectionChanged)
    def _say_keys(self) -> None:
        message = self._message() if self.transcript.selected_id is not None else None
        self.below.set_text("" if message is None else self._keys(message))
        if self.transcript.selected_id is None and self.focused is self.transcript:
            self.unselect()  # its message is there no more

    def _keys(self, message: Message) -> str:
        """What can be done with the message, and how."""
        conversation = self.session.conversation
        text, is_reply = message.content, message.role == "assistant"
        siblings = [sibling.id for sibling in conversation.siblings(message.id)]
        fitting = {
            "copy_message": True,
            "copy_code": is_reply and ("```" in text or "~~~" in text),
            "edit": message.role == "user",
            "answer_again": True,
            "continue_reply": is_reply and message.finish_reason not in ("stop", None),
            "thinking": is_reply and CLOSING_TAG in text,
            "quote": True,
            "view_message": True,
            "delete": True,
            "undo": self.session.can_undo,
            "unselect": True,
        }
        words = hints(c for c in self.app.commands if fitting.get(c.action))
        if len(siblings) > 1:
            words.insert(0, f"← {siblings.index(message.id) + 1}/{len(siblings)} →")
        return "  ".join(words)

    def _message(self, role: Role | None = None) -> Message | None:
        """The marked message, or where none is, the last (of a role)."""
        path = self.session.conversation.path
        picked = self.transcript.selected_id
        if picked is not None:
            return next((message for message in path if message.id == picked), None)
        return next((m for m in reversed(path) if role in (None, m.role)), None)

    def _text(self, message: Message) -> str:
        """What a message says so far; of a reply without what was thought before it."""
        run = self.session.run
        if run is not None and run.message.id == message.id:
            message = run.written
        return text_without_reasoning(message)

    def idle(self) -> bool:
        """Whether no reply is being written; else the user is told."""
        if self.session.run is not None:
            told = _("A reply is being written; {key} stops it.")
            self.app.tell(told.format(key=self.app.how("stop")))
        return self.session.run is None

    def action_thinking(self) -> None:
        """Shows or hides what the model thought before a reply."""
        message = self._message("assistant")
        if message is None or not self.transcript.toggle_reasoning(message.id):
            self.app.tell(_("There are no thoughts before this reply."))

    # ---- taking from it

    def action_copy_message(self) -> None:
        """Copies a message as it was written."""
        message = self._message("assistant")
        if message is None:
            self.app.tell(_("There is no reply yet to copy."))
        else:
            self.app.copy_to_clipboard(self._text(message))

    def action_copy_code(self, number: str = "") -> None:
        """Copies a block of code: by its number, or one after the other. Raises UsageError."""
        message = self._message("assistant")
        copied, last = self._code_copied
        last = last if message is not None and copied == message.id else -1
        block = code_block(self._text(message), number, last) if message is not None else None
        if message is None or block is None:
            self.app.tell(_("There is no code to copy."))
            return
        self._code_copied = (message.id, block.position)
        self.app.copy_to_clipboard(block.text)
        if block.total > 1:
            told = _("Block {number} of {count}.")
            self.app.tell(told.format(number=block.position + 1, count=block.total))

    def action_quote(self) -> None:
        """Puts a message, or the part that is marked with the mouse, into the prompt."""
        message = self._message("assistant")
        text = self.get_selected_text() or (self._text(message) if message is not None else "")
        if not text.strip():
            self.app.tell(_("There is no reply yet to quote."))
            return
        quoted = "\n".join(f"> {line}".rstrip() for line in text.strip("\n").split("\n"))
        before = self.prompt.full_text.rstrip("\n")
        self.unselect()
        self.prompt.set_text(f"{before}\n{quoted}\n\n" if before else f"{quoted}\n\n")

    async def action_view_message(self) -> None:
        """Opens a message in the user's editor; other words for a question go to the prompt."""
        from glmtui.ui.terminal.editor import edit_text

        message = self._message()
        if message is None:
            return
        text = self._text(message)
        edited = await edit_text(self.app, text)
        if edited is None or edited == text:
            return
        if message.role != "user":
            self.app.tell(_("Only questions can be changed; the message is as it was."))
        elif edited.strip() and self.idle():
            self._edit(message, edited)

    # ---- going on otherwise

    def action_regenerate(self) -> None:
        """Answers the last question again."""
        if self.idle() and not self.session.regenerate():
            self.app.tell(_("There is no question yet to answer."))

    def action_answer_again(self) -> None:
        """Answers the marked question, or the one that the marked reply answers, again."""
        message = self._message()
        if message is not None and self.idle():
            self.unselect()
            self.session.regenerate(message.id)

    def action_continue_reply(self) -> None:
        """Goes on with the last reply."""
        message = self._message("assistant")
        if message is not None and message.id != self.session.conversation.head:
            self.app.tell(_("Only the last message can go on."))
        elif self.idle():
            self.unselect()
            if not self.session.go_on():
                self.app.tell(_("There is no reply to go on with."))

    def action_edit(self) -> None:
        """Puts a question into the prompt: the marked one, or the one before the marked reply."""
        message = self._message()
        questions = []
        for earlier in self.session.conversation.path:
            questions += [earlier] if earlier.role == "user" else []
            if earlier == message:
                break
        if not questions:
            self.app.tell(_("There is no question yet to edit."))
        elif self.idle():
            self._edit(questions[-1], questions[-1].content)

    def _edit(self, question: Message, text: str) -> None:
        self.prompt.sent_history.add(self.prompt.full_text)
        self.unselect()
        self.editing = question.id
        self.prompt.set_text(text)
        told = _("{send} sends it as a new branch; {stop} leaves it as it was.")
        self.app.tell(told.format(send=self.app.how("send"), stop=self.app.how("stop")))

    def action_delete(self) -> None:
        """Takes out a message and all that follows it."""
        message = self._message()
        if message is None:
            self.app.tell(_("There is no message yet."))
        elif self.idle():
            self.editing = None
            marked = self.transcript.selected_id is not None
            at = self.session.conversation.path.index(message)
            count = self.session.delete(message.id)
            path = self.session.conversation.path
            if marked and path:  # an alternative to it, or the message before
                self.transcript.select(path[min(at, len(path) - 1)].id)
            self.app.tell(status_text.deletion_notice(count))

    def action_undo(self) -> None:
        """Brings back what was deleted last."""
        if self.idle():
            message_id = self.session.undo()
            if message_id is None:
                self.app.tell(_("There is nothing to bring back; the conversation went on."))
            elif self.focused is self.transcript:
                self.transcript.select(message_id)

    def on_paste(self, event: events.Paste) -> None:
        """A text pasted while a message is marked is for the prompt."""
        if self.focused is self.transcript:
            self.unselect()
            self.prompt.post_message(events.Paste(event.text))
