"""What a model thinks before it replies, told from the reply, and as lines: one where it is folded.

Models write it first, between ``<think>`` and ``</think>``. Knows neither messages nor widgets.
"""

from __future__ import annotations

import re

from glmtui.language import _, ngettext
from glmtui.ui.markdown.stream import MarkdownStream
from glmtui.ui.markdown.styled_text import BLANK, CHROME, Line, Span, wrap

OPENING, CLOSING = "<think>", "</think>"

_IDEOGRAPHS = "\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"
_WORD = re.compile(rf"[{_IDEOGRAPHS}]|[^\W{_IDEOGRAPHS}]+")


def split(text: str) -> tuple[str, str]:
    """What is thought in `text` and what is said."""
    parts = ReasoningStream()
    (thought, said), (more, rest) = parts.feed(text), parts.end()
    return thought + more, said + rest


class ReasoningStream:
    """`split` for text that comes in pieces.

    Attributes:
        thinking: whether the thoughts have begun and not ended.
    """

    def __init__(self) -> None:
        self.thinking = False
        self._begun = False  # whether it is decided that there are thoughts, or none
        self._waiting = ""  # what may be the beginning of a tag

    def feed(self, piece: str) -> tuple[str, str]:
        """What of the text that came so far is thought, and what is said, without what was told."""
        text, self._waiting = self._waiting + piece, ""
        if not self._begun:
            begin = text.lstrip()
            if len(begin) < len(OPENING) and OPENING.startswith(begin):
                self._waiting = text
                return "", ""
            self._begun = True
            self.thinking = begin.startswith(OPENING)
            if self.thinking:
                text = begin.removeprefix(OPENING)
        if not self.thinking:
            return "", text
        thought, closing, said = text.partition(CLOSING)
        if closing:
            self.thinking = False
        else:
            size = next((n for n in range(len(CLOSING), 0, -1) if text.endswith(CLOSING[:n])), 0)
            thought, self._waiting = text[: len(text) - size], text[len(text) - size :]
        return thought, said

    def end(self) -> tuple[str, str]:
        """What was still waiting."""
        text, self._waiting = self._waiting, ""
        return (text, "") if self.thinking else ("", text)


class ReasoningView:
    """Thoughts that grow, as lines of at most `width` cells.

    Attributes:
        head: the line that says how long they are; none where there is no word.
        body: the thoughts themselves; none where they are folded.
        gap: what parts them from the reply.
        ended: whether they are complete.
    """

    def __init__(self, width: int, *, folded: bool) -> None:
        self.head: list[Line] = []
        self.gap: list[Line] = []
        self.ended = False
        self._folded = folded
        self._width = width
        self._stream = MarkdownStream(width)
        self.body = self._stream.lines
        self._count = 0  # of words, but for the last, which may go on
        self._last = ""

    def __len__(self) -> int:
        return len(self.head) + len(self.body) + len(self.gap)

    def feed(self, text: str) -> int:
        """More of them. Returns the first line that is not as it was."""
        self._count_words(text)
        if self._folded:
            words = ngettext("thinking, {count:,} word", "thinking, {count:,} words", self._total)
            return 0 if self._total and self._say(words) else len(self.head)
        began = bool(self._total) and self._say(_("thinking"))
        changed = len(self.head) + self._stream.feed(text)
        return 0 if began else changed

    def end(self) -> int:
        """They are complete. Returns as `feed` does."""
        self.ended = True
        if not self._folded:
            self._stream.finish()
        if self._total:
            self._say(
                ngettext("thought for {count:,} word", "thought for {count:,} words", self._total)
            )
        return 0

    def _count_words(self, text: str) -> None:
        text = self._last + text
        words = list(_WORD.finditer(text))
        self._count += max(0, len(words) - 1)
        self._last = text[words[-1].start() :] if words else ""

    @property
    def _total(self) -> int:
        return self._count + bool(_WORD.match(self._last))

    def _say(self, words: str) -> bool:
        """Puts the number of words into the head. False where it says so already."""
        sign = "▸" if self._folded else "▾"
        words = f"{sign} {words.format(count=self._total)}"
        head = wrap([Span(words, ("label", CHROME))], self._width)
        changed, self.head[:], self.gap[:] = head != self.head, head, [BLANK]
        return changed
