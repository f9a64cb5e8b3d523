"""ConversationController: new, opened, found, copied and deleted conversations."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from glmtui.chat import Conversation
from glmtui.errors import StoreError
from glmtui.language import _
from glmtui.ui.chat.host import Host
from glmtui.ui.chat.prompt_controller import PromptController
from glmtui.ui.chat_commands import ChatCommands

if TYPE_CHECKING:
    from glmtui.ui.dialogs.conversation_picker import ConversationChoice
    from glmtui.ui.session.conversation_reader import BackgroundRead


class ConversationController:
    """The commands on whole conversations."""

    def __init__(
        self, host: Host, prompt_controller: PromptController, commands: ChatCommands
    ) -> None:
        self._host = host
        self._workspace = host.workspace
        self._session = host.workspace.session
        self._prompt_controller = prompt_controller
        self._commands = commands

    # ---- what is in view

    def new(self) -> None:
        """Starts an empty conversation. Text in the prompt stays there."""
        self._prompt_controller.editing = None
        keep_prompt = bool(self._host.prompt.text.strip())
        self.show(self._workspace.new_conversation(), keep_prompt=keep_prompt)

    def show(self, conversation: Conversation, *, keep_prompt: bool = False) -> None:
        """Shows another conversation.

        Args:
            keep_prompt: whether the text in the prompt stays there; otherwise it becomes the draft
                of the previous conversation, and the other's draft comes.
        """
        if not keep_prompt:
            self._prompt_controller.save_draft()
        self._workspace.open(conversation)
        if not keep_prompt:
            self._prompt_controller.load_draft()
        self._host.prompt.focus()

    def discard(self) -> None:
        """Shows an empty conversation in place of the one in view, which is deleted next."""
        self._prompt_controller.editing = None
        self._prompt_controller.save_draft()
        self._workspace.discard_conversation()
        self._prompt_controller.load_draft()
        self._host.prompt.focus()

    def fork(self) -> None:
        self._host.toast(self._commands.fork())

    # ---- saved conversations

    def pick(self, title: str = "") -> None:
        """Lets the user pick a saved conversation."""
        from glmtui.ui.dialogs.conversation_picker import ConversationPicker

        self._prompt_controller.editing = None
        picker = ConversationPicker(self._workspace.library, self._host.commands, title)
        self._host.open_dialog(picker, self._on_pick)

    def search(self, words: str = "") -> None:
        """Lets the user search the texts of all conversations."""
        from glmtui.ui.dialogs.search_dialog import SearchDialog

        self._prompt_controller.editing = None
        dialog = SearchDialog(self._workspace.store.paths, words)
        self._host.open_dialog(dialog, self._on_pick)

    def _on_pick(self, entry: ConversationChoice | None) -> None:
        problems = self._workspace.store.problems
        self._host.notice.set("store", "\n".join(map(str, problems)))
        if entry is not None and entry.search:
            self.search(entry.query)
        elif entry is not None:
            self.open(entry)

    def open(self, entry: ConversationChoice) -> None:
        """Reads a saved conversation and shows it."""
        in_view = entry.conversation_id == self._session.conversation.id
        if in_view and self._workspace.save_error is not None:
            self.fork()  # keeps what could not be saved
            in_view = False
        if in_view:
            self._go_to(entry, self._session.conversation)
            return
        from glmtui.ui.session.conversation_reader import (
            DIALOG_DELAY_SECONDS,
            BackgroundRead,
            ConversationReader,
        )

        read = BackgroundRead(lambda: self._workspace.store.load(entry.conversation_id))
        if read.wait(DIALOG_DELAY_SECONDS):
            self._on_read(entry, read)
        else:
            self._host.open_dialog(ConversationReader(read), partial(self._on_read, entry))

    def _on_read(self, entry: ConversationChoice, read: BackgroundRead | None) -> None:
        """Shows the conversation. `read` is None if the user cancelled."""
        if read is None:
            return
        try:
            self._go_to(entry, read.result())
        except StoreError as error:
            self._host.notice.set("store", str(error))

    def _go_to(self, entry: ConversationChoice, conversation: Conversation) -> None:
        """Shows a conversation, on the branch with the message that was found."""
        in_view = conversation is self._session.conversation
        path_ids = {message.id for message in conversation.path}
        other_ids = {message.id for message in conversation.messages} - path_ids
        if entry.message_id in other_ids:
            if in_view and self._session.reply is not None:
                self._host.toast(_("It is on another branch. Wait for the reply, or stop it."))
                return
            conversation = conversation.switch(entry.message_id)
        if conversation is not self._session.conversation:
            self.show(conversation)
        if entry.copy:
            self.fork()
        self._host.transcript.show_message(entry.message_id, entry.query)

    # ---- title, pin, trash, export

    def title(self, title: str = "") -> None:
        self._host.toast(self._commands.title(title))

    def pin(self) -> None:
        self._host.toast(self._commands.pin())

    def trash(self) -> None:
        self._host.toast(self._commands.trash())

    def restore(self) -> None:
        """Restores and opens what was deleted last. Raises StoreError."""
        from glmtui.ui.dialogs.conversation_picker import ConversationChoice

        if restored := self._workspace.library.restore_last():
            self.open(ConversationChoice(restored))
        else:
            self._host.toast(_("Nothing to restore: nothing was deleted since the start."))

    def export(self, file: str = "") -> None:
        self._host.toast(self._commands.export(file))
