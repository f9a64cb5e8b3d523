"""Words: a plain text in a place of its own."""

from __future__ import annotations

from textual.content import Content
from textual.widgets import Static

from glmtui.sanitize import sanitize


class TextLine(Static):
    """Plain text, drawn again only when it changes; an empty one takes no room."""

    def __init__(self, classes: str | None = None) -> None:
        super().__init__(markup=False, classes=classes)
        self.display = False
        self._text = ""

    def say(self, text: str) -> None:
        """Shows `text` in place of what there was."""
        if text != self._text:
            self._text = text
            self.display = bool(text)
            self.update(Content(sanitize(text)))
