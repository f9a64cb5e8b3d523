"""History: what was sent before, and where among it the prompt stands.

Knows texts; where they are kept between sessions is its maker's business.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable


class History:
    """What was sent, to be walked from the prompt.

    Args:
        earlier: what was sent in earlier sessions, oldest first; asked for when first wanted.
        keep: called with each text that is sent.
    """

    def __init__(
        self,
        earlier: Callable[[], Iterable[str]] = tuple,
        keep: Callable[[str], None] = lambda text: None,
    ) -> None:
        self._earlier: Callable[[], Iterable[str]] | None = earlier
        self._keep = keep
        self._sent: dict[str, None] = {}  # the newest last
        self._fitting: list[str] = []
        self._at: int | None = None
        self._draft = ""

    @property
    def walking(self) -> bool:
        """Whether an earlier text is in the prompt, the draft put aside."""
        return self._at is not None

    def add(self, text: str) -> None:
        """One more was sent."""
        if text.strip():
            self._put(text)
            self._keep(text)
        self.leave()

    def leave(self) -> None:
        """Ends the walk."""
        self._at = None

    def older(self, text: str) -> str | None:
        """The text before the one in the prompt; of all that begin as what is typed does.

        Args:
            text: what is in the prompt.
        """
        if self._at is None:
            fitting = (old for old in self._newest_first() if old.startswith(text) and old != text)
            self._fitting, self._draft = list(fitting), text
        at = 0 if self._at is None else self._at + 1
        if at >= len(self._fitting):
            return None
        self._at = at
        return self._fitting[at]

    def newer(self) -> str | None:
        """The text after the one in the prompt, at last the draft; None where none is walked."""
        if self._at is None:
            return None
        self._at = self._at - 1 if self._at else None
        return self._draft if self._at is None else self._fitting[self._at]

    def having(self, words: str) -> list[str]:
        """The texts that have all these words, in whatever case, newest first."""
        wanted = words.lower().split()
        return [
            text for text in self._newest_first() if all(word in text.lower() for word in wanted)
        ]

    def _newest_first(self) -> Iterable[str]:
        if self._earlier is not None:
            earlier, self._earlier = self._earlier, None
            sent, self._sent = self._sent, {}
            for text in (*earlier(), *sent):
                self._put(text)
        return reversed(self._sent)

    def _put(self, text: str) -> None:
        self._sent.pop(text, None)
        self._sent[text] = None
