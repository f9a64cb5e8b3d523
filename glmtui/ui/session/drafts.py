"""Typed: what was typed, sent or not yet, kept for later and for the next session.

Knows which draft belongs to which conversation; how files are written is the store's.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from glmtui.chat import Conversation
from glmtui.commands.command_parser import looks_like_command
from glmtui.store.drafts import Drafts
from glmtui.store.question_history import QuestionHistory


class PromptDrafts:
    """Drafts, one for each conversation and one for all new ones, and what was sent.

    Args:
        folder: where both are kept.
        later: calls a function on a thread that may wait for a disk, in the order given.
    """

    def __init__(self, folder: Path, later: Callable[[Callable[[], None]], None]) -> None:
        self._files = Drafts(folder / "drafts")
        self._sent = QuestionHistory(folder / "sent.jsonl")
        self._later = later
        self._drafts: dict[str, str] = {}
        self._unsaved: dict[str, str] = {}
        self._kept = ("", "")

    def keep_draft(self, conversation: Conversation, text: str) -> None:
        """`text` is what is typed while this conversation is in view."""
        draft = (_name(conversation), text)
        if draft == self._kept and draft[0] not in self._unsaved:
            return
        if self._kept[1] and self._kept[0] != draft[0]:
            self._put(self._kept[0], "")  # it has moved along
        self._put(*draft)
        self._kept = draft

    def draft(self, conversation: Conversation) -> str:
        """The draft for a conversation that comes into view; the last that was kept stays."""
        name = _name(conversation)
        if name not in self._drafts:
            self._drafts[name] = self._files.read(name)
        self._kept = (name, self._drafts[name])
        return self._kept[1]

    def _put(self, name: str, text: str) -> None:
        self._drafts[name] = self._unsaved[name] = text
        self._later(lambda: self._write(name, text))

    def _write(self, name: str, text: str) -> None:
        if self._files.write(name, text) and self._unsaved.get(name) == text:
            del self._unsaved[name]

    def unsaved(self) -> list[str]:
        """The drafts that the disk has not taken."""
        return [text for text in tuple(self._unsaved.values()) if text.strip()]

    def sent_before(self) -> list[str]:
        """What was sent in earlier sessions, oldest first."""
        return self._sent.read()

    def keep_sent(self, text: str) -> None:
        """Keeps a question for later sessions; a command may hold what is nobody's business."""
        if not looks_like_command(text):
            self._later(lambda: self._sent.add(text))

    def close(self) -> None:
        """Lets another program have the draft for a new conversation."""
        self._files.close()


def _name(conversation: Conversation) -> str:
    return conversation.id if conversation.messages else ""
