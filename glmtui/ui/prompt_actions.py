"""PromptActions: what can be done with the text in the prompt, but for sending it."""

from __future__ import annotations

from glmtui.ui.chat_view import ChatView


class PromptActions(ChatView):
    """The actions on the prompt's text; a part of `chat_screen.ChatScreen`."""

    def action_editor(self) -> None:
        """Lets the user write in an editor of their own."""
        from glmtui.ui.editor import edit_text

        edited = edit_text(self.app, self.prompt.text)
        if edited is not None:
            self.prompt.put(edited)
