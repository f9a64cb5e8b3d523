"""Notice: messages above the prompt that stay until they are closed, such as errors."""

from __future__ import annotations

from glmtui.ui.widgets.text_line import TextLine


class Notice(TextLine):
    """Several messages, one for each subject."""

    def __init__(self) -> None:
        super().__init__()
        self._messages: dict[str, str] = {}

    def set(self, subject: str, text: str) -> None:
        """Replaces the message on a subject; "" removes it."""
        self._messages[subject] = text
        self.set_text("\n".join(filter(None, self._messages.values())))

    def close(self) -> bool:
        """Removes all messages. Returns False if there was none."""
        was_open = self.display
        self._messages.clear()
        self.set_text("")
        return was_open
