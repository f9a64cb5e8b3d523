"""Drafting: which conversation's draft is in the prompt, and when it has to be written.

Pure but for the two functions it is made with; knows no prompt and no files.
"""

from __future__ import annotations

from collections.abc import Callable

from glmtui.chat import Conversation


class Drafting:
    """What was typed and not sent, by conversation; all new ones share one.

    Args:
        read: the draft for a conversation's id, or (an empty id) for a new one.
        write: keeps one; an empty text is none.
    """

    def __init__(self, read: Callable[[str], str], write: Callable[[str, str], None]) -> None:
        self._read = read
        self._write = write
        self._drafts: dict[str, str] = {}
        self._kept = ("", "")

    def keep(self, conversation: Conversation, text: str) -> None:
        """`text` is what is typed while this conversation is in view."""
        draft = (_name(conversation), text)
        if draft == self._kept:
            return
        if self._kept[1] and self._kept[0] != draft[0]:
            self._put(self._kept[0], "")  # it has moved along
        self._put(*draft)
        self._kept = draft

    def bring(self, conversation: Conversation) -> str:
        """The draft for a conversation that comes into view; the last that was kept stays."""
        name = _name(conversation)
        if name not in self._drafts:
            self._drafts[name] = self._read(name)
        self._kept = (name, self._drafts[name])
        return self._kept[1]

    def _put(self, name: str, text: str) -> None:
        self._drafts[name] = text
        self._write(name, text)


def _name(conversation: Conversation) -> str:
    return conversation.id if conversation.messages else ""
