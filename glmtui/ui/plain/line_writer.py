"""LineWriter: shows a conversation as lines of text that are only ever added."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from glmtui.chat import Message
from glmtui.language import _
from glmtui.sanitize import sanitize, sanitize_line
from glmtui.ui.session.reply_state import Place


class LineWriter:
    """A ReplyView that writes everything once, as it comes.

    Args:
        write: takes text with its line ends.
    """

    def __init__(self, write: Callable[[str], object]) -> None:
        self._write = write
        self._at_line_start = True

    def write_line(self, text: str) -> None:
        """Writes a text on lines of its own; "" only ends the present line."""
        end = "" if self._at_line_start else "\n"
        self._write_text(end + (sanitize(text) + "\n" if text else ""))

    def show(self, messages: Sequence[Message], places: Mapping[str, Place]) -> None:
        """Writes nothing: earlier lines cannot be changed."""

    def begin(self, message: Message, place: Place | None) -> None:
        """Writes the name of the model. The user's own text is on the terminal already."""
        if message.role == "assistant":
            number = "" if place is None else f" {place[0]}/{place[1]}"
            self.write_line((sanitize_line(message.model) or message.role) + number + ":")

    def append(self, text: str) -> None:
        self._write_text(text)

    def finish(self, message: Message, note: str = "") -> None:
        """Writes how the reply ended, unless normally."""
        if message.role != "assistant":
            return
        notes = [
            _("error: {what}").format(what=message.error) if message.error else "",
            _("stopped") if message.finish_reason == "cancelled" else "",
            note,
        ]
        self.write_line("\n".join(filter(None, notes)))

    def _write_text(self, text: str) -> None:
        if text:
            self._write(text)
            self._at_line_start = text.endswith("\n")
