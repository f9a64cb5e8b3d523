"""TextLine: a widget that shows plain text."""

from __future__ import annotations

from textual.content import Content
from textual.widgets import Static

from glmtui.sanitize import sanitize


class TextLine(Static):
    """Plain text, redrawn only when it changes. Hidden while the text is empty."""

    def __init__(self, classes: str | None = None) -> None:
        super().__init__(markup=False, classes=classes)
        self.display = False
        self._text = ""

    def set_text(self, text: str) -> None:
        if text != self._text:
            self._text = text
            self.display = bool(text)
            # Notices quote errors of servers and names of files, which are not sanitised before.
            self.update(Content(sanitize(text)))
