"""FindingActions: what is done with conversations as a whole, the one in view and the others."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from glmtui.chat import Conversation
from glmtui.errors import StoreError
from glmtui.language import _
from glmtui.ui.chat.view import ChatView
from glmtui.ui.panels import status_text
from glmtui.ui.session.safe_conversation import sanitized

if TYPE_CHECKING:
    from glmtui.ui.dialogs.conversation_picker import ConversationChoice
    from glmtui.ui.session.conversation_reader import Reading


class ConversationActions(ChatView):
    """The actions on conversations; a part of `chat_screen.ChatScreen`."""

    def action_new(self) -> None:
        """Starts an empty conversation."""
        self.editing = None
        self.app.new_conversation()

    def action_fork(self) -> None:
        """Goes on in a copy of the conversation."""
        self.app.fork_conversation()

    def action_open(self, title: str = "") -> None:
        """Lets the user pick a saved conversation."""
        from glmtui.ui.dialogs.conversation_picker import ConversationPicker

        self.editing = None
        picker = ConversationPicker(self.app.shelf, self.app.commands, title)
        self.app.push_screen(picker, self._found)

    def action_find(self, words: str = "") -> None:
        """Lets the user look through the texts of all."""
        from glmtui.ui.dialogs.search_dialog import SearchDialog

        self.editing = None
        self.app.push_screen(SearchDialog(self.app.store.paths, words), self._found)

    def _found(self, found: ConversationChoice | None) -> None:
        self.app.tell_notice("store", "\n".join(map(str, self.app.store.problems)))
        if found is not None and found.search:
            self.action_find(found.query)
        elif found is not None:
            self._open(found)

    def _open(self, found: ConversationChoice) -> None:
        """A saved conversation in place of the one in view."""
        here = found.conversation_id == self.session.conversation.id
        if here and self.app.save_error is not None:
            self.app.fork_conversation()  # what could not be saved to it is kept
            here = False
        if here:
            self._go_to(found, self.session.conversation)
            return
        from glmtui.ui.session.conversation_reader import PATIENCE, ConversationReader, Reading

        reading = Reading(lambda: sanitized(self.app.store.load(found.conversation_id)))
        if reading.wait(PATIENCE):
            self._opened(found, reading)
        else:
            self.app.push_screen(ConversationReader(reading), partial(self._opened, found))

    def _opened(self, found: ConversationChoice, reading: Reading | None) -> None:
        """Shows what was read; None is what was given up."""
        if reading is None:
            return
        try:
            self._go_to(found, reading.result())
        except StoreError as error:
            self.app.tell_notice("store", str(error))

    def _go_to(self, found: ConversationChoice, wanted: Conversation) -> None:
        """A conversation on the branch with the message that was found, which comes into view."""
        here = wanted is self.session.conversation
        elsewhere = {m.id for m in wanted.messages} - {m.id for m in wanted.path}
        if found.message_id in elsewhere:
            if here and self.session.run is not None:
                self.app.tell(_("It is on another branch, and a reply is being written on this."))
                return
            wanted = wanted.switch(found.message_id)
        if wanted is not self.session.conversation:
            self.app.leave_conversation(wanted)
        if found.copy:
            self.app.fork_conversation()
        self.transcript.show_message(found.message_id, found.query)

    def action_title(self, title: str = "") -> None:
        """Gives the conversation another title, or says what it is."""
        if title:
            self.session.change(title=title)
        self.app.tell(status_text.conversation_title(self.session.conversation))

    def action_pin(self) -> None:
        """Has the conversation stand first in the list, or not any more."""
        if self._is_begun():
            pinned = not self.session.conversation.pinned
            self.session.change(pinned=pinned)
            self.app.tell(_("It stands first now.") if pinned else _("It stands by its age now."))

    def action_trash(self) -> None:
        """Puts the conversation into the trash. Raises StoreError."""
        if self._is_begun():
            self.editing = None
            title = status_text.conversation_title(self.session.conversation)
            self.app.shelf.delete(self.session.conversation.id)
            self.app.tell(_("Deleted: {title}. /restore brings it back.").format(title=title))

    def action_restore(self) -> None:
        """Brings back and opens what was deleted last. Raises StoreError."""
        from glmtui.ui.dialogs.conversation_picker import ConversationChoice

        if restored := self.app.shelf.undo():
            self._open(ConversationChoice(restored))
        else:
            self.app.tell(_("Nothing was deleted since the start."))

    def _is_begun(self) -> bool:
        begun = bool(self.session.conversation.messages)
        if not begun:
            self.app.tell(_("There is nothing in this conversation yet."))
        return begun
