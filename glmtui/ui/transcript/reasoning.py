"""The reasoning of a model before its reply: separating it, and showing it in foldable lines.

Models write it at the beginning, between ``<think>`` and ``</think>``.
"""

from __future__ import annotations

import re

from glmtui.language import _, ngettext
from glmtui.ui.markdown.stream import MarkdownStream
from glmtui.ui.markdown.styled_text import BLANK_LINE, CHROME, Line, Span, wrap

OPENING_TAG, CLOSING_TAG = "<think>", "</think>"

_IDEOGRAPHS = "\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"
_WORD = re.compile(rf"[{_IDEOGRAPHS}]|[^\W{_IDEOGRAPHS}]+")


def split_reasoning(text: str) -> tuple[str, str]:
    """Splits `text` into reasoning and reply; either may be empty."""
    splitter = ReasoningSplitter()
    (reasoning, reply), (more_reasoning, more_reply) = splitter.feed(text), splitter.end()
    return reasoning + more_reasoning, reply + more_reply


class ReasoningSplitter:
    """`split_reasoning` for text that comes in pieces.

    Attributes:
        in_reasoning: whether the opening tag has come, and the closing tag has not.
    """

    def __init__(self) -> None:
        self.in_reasoning = False
        self._decided = False  # whether it is known if the text begins with the opening tag
        self._pending = ""  # what may be the beginning of a tag

    def feed(self, piece: str) -> tuple[str, str]:
        """The new part of the reasoning and of the reply."""
        text, self._pending = self._pending + piece, ""
        if not self._decided:
            start = text.lstrip()
            if len(start) < len(OPENING_TAG) and OPENING_TAG.startswith(start):
                self._pending = text
                return "", ""
            self._decided = True
            self.in_reasoning = start.startswith(OPENING_TAG)
            if self.in_reasoning:
                text = start.removeprefix(OPENING_TAG)
        if not self.in_reasoning:
            return "", text
        reasoning, closing, reply = text.partition(CLOSING_TAG)
        if closing:
            self.in_reasoning = False
        else:
            sizes = range(len(CLOSING_TAG), 0, -1)
            size = next((n for n in sizes if text.endswith(CLOSING_TAG[:n])), 0)
            reasoning, self._pending = text[: len(text) - size], text[len(text) - size :]
        return reasoning, reply

    def end(self) -> tuple[str, str]:
        """What was held back because it could have been a tag."""
        text, self._pending = self._pending, ""
        return (text, "") if self.in_reasoning else ("", text)


class ReasoningView:
    """Growing reasoning as lines of at most `width` cells.

    Attributes:
        head: the line with the number of words; empty while there is no word.
        body: the text; empty if folded.
        gap: the empty line before the reply.
        ended: whether the reasoning is complete.
    """

    def __init__(self, width: int, *, folded: bool) -> None:
        self.head: list[Line] = []
        self.gap: list[Line] = []
        self.ended = False
        self._folded = folded
        self._width = width
        self._stream = MarkdownStream(width)
        self.body = self._stream.lines
        self._count = 0  # words, without the last one, which may still grow
        self._last = ""

    def __len__(self) -> int:
        return len(self.head) + len(self.body) + len(self.gap)

    def feed(self, text: str) -> int:
        """Appends `text`. Returns the index of the first line that has changed."""
        self._count_words(text)
        if self._folded:
            label = ngettext("thinking, {count:,} word", "thinking, {count:,} words", self._total)
            return 0 if self._total and self._set_head(label) else len(self.head)
        head_changed = bool(self._total) and self._set_head(_("thinking"))
        first = len(self.head) + self._stream.feed(text)
        return 0 if head_changed else first

    def end(self) -> int:
        """Completes the reasoning. Returns the index of the first line that has changed."""
        self.ended = True
        if not self._folded:
            self._stream.finish()
        if self._total:
            self._set_head(
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

    def _set_head(self, label: str) -> bool:
        """Sets the heading. Returns whether it has changed."""
        sign = "▸" if self._folded else "▾"
        text = f"{sign} {label.format(count=self._total)}"
        head = wrap([Span(text, ("label", CHROME))], self._width)
        changed, self.head[:], self.gap[:] = head != self.head, head, [BLANK_LINE]
        return changed
