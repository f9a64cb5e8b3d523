"""PromptDrafts: text typed in the prompt, sent or not, kept for the next start of the program.

Knows which draft belongs to which conversation; the store reads and writes the files.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from glmtui.chat import Conversation
from glmtui.commands.command_parser import looks_like_command
from glmtui.store.drafts import Drafts
from glmtui.store.question_history import QuestionHistory


class PromptDrafts:
    """One draft for each conversation, one for all new conversations, and the sent questions.

    Args:
        folder: where the files are.
        call_later: calls a function on a thread that may wait for a disk, in the given order.
    """

    def __init__(self, folder: Path, call_later: Callable[[Callable[[], None]], None]) -> None:
        self._files = Drafts(folder / "drafts")
        self._sent = QuestionHistory(folder / "sent.jsonl")
        self._call_later = call_later
        self._drafts: dict[str, str] = {}
        self._unsaved: dict[str, str] = {}
        self._current = ("", "")  # the key and text that were saved or loaded last

    def save(self, conversation: Conversation, text: str) -> None:
        """Saves the text that is in the prompt while this conversation is in view."""
        draft = (_key(conversation), text)
        if draft == self._current and draft[0] not in self._unsaved:
            return
        if self._current[1] and self._current[0] != draft[0]:
            self._set(self._current[0], "")  # a new conversation got its first message
        self._set(*draft)
        self._current = draft

    def load(self, conversation: Conversation) -> str:
        """The draft of a conversation that comes into view."""
        key = _key(conversation)
        if key not in self._drafts:
            self._drafts[key] = self._files.read(key)
        self._current = (key, self._drafts[key])
        return self._current[1]

    def _set(self, key: str, text: str) -> None:
        self._drafts[key] = self._unsaved[key] = text
        self._call_later(lambda: self._write(key, text))

    def _write(self, key: str, text: str) -> None:
        if self._files.write(key, text) and self._unsaved.get(key) == text:
            del self._unsaved[key]

    def unsaved(self) -> list[str]:
        """The drafts that could not be written yet."""
        return [text for text in tuple(self._unsaved.values()) if text.strip()]

    def sent_questions(self) -> list[str]:
        """The questions sent in earlier sessions, oldest first."""
        return self._sent.read()

    def add_sent(self, text: str) -> None:
        """Adds a question to the history. Commands are left out: they may hold secrets."""
        if not looks_like_command(text):
            self._call_later(lambda: self._sent.add(text))

    def close(self) -> None:
        """Lets another program use the draft for new conversations."""
        self._files.close()


def _key(conversation: Conversation) -> str:
    return conversation.id if conversation.messages else ""
