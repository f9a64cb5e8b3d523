"""History: the texts that were sent from the prompt, and recalling them with Up and Down."""

from __future__ import annotations

from collections.abc import Callable, Iterable


class History:
    """The sent texts, each of them once, and the position while recalling.

    Args:
        load: returns the texts of earlier runs, oldest first. Called when they are first needed.
        save: called with each text that is sent.
    """

    def __init__(
        self,
        load: Callable[[], Iterable[str]] = tuple,
        save: Callable[[str], None] = lambda text: None,
    ) -> None:
        self._load: Callable[[], Iterable[str]] | None = load
        self._save = save
        self._sent: dict[str, None] = {}  # an ordered set, newest last
        self._matches: list[str] = []
        self._at: int | None = None  # index of the recalled text in the matches
        self._draft = ""

    @property
    def is_recalling(self) -> bool:
        """Whether the prompt shows a sent text in place of the draft."""
        return self._at is not None

    def add(self, text: str) -> None:
        """Adds a text that is being sent."""
        if text.strip():
            self._append(text)
            self._save(text)
        self.stop_recall()

    def stop_recall(self) -> None:
        self._at = None

    def older(self, text: str) -> str | None:
        """The next older text, of those that begin with the draft; None if there is no other.

        Args:
            text: what is in the prompt. It becomes the draft unless a text has been recalled.
        """
        if self._at is None:
            matches = (old for old in self._newest_first() if old.startswith(text) and old != text)
            self._matches, self._draft = list(matches), text
        at = 0 if self._at is None else self._at + 1
        if at >= len(self._matches):
            return None
        self._at = at
        return self._matches[at]

    def newer(self) -> str | None:
        """The next newer text, or at the end the draft; None if no text has been recalled."""
        if self._at is None:
            return None
        self._at = self._at - 1 if self._at else None
        return self._draft if self._at is None else self._matches[self._at]

    def matching(self, query: str) -> list[str]:
        """The texts that contain all words of `query`, in any case, newest first."""
        words = query.lower().split()
        return [
            text for text in self._newest_first() if all(word in text.lower() for word in words)
        ]

    def _newest_first(self) -> Iterable[str]:
        if self._load is not None:
            load, self._load = self._load, None
            sent, self._sent = self._sent, {}
            for text in (*load(), *sent):
                self._append(text)
        return reversed(self._sent)

    def _append(self, text: str) -> None:
        self._sent.pop(text, None)
        self._sent[text] = None
