"""Large texts in the prompt, each shown as a short mark in its place.

A text area takes a second to lay out 100 kB, at every key. Pure data; knows no text area.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from glmtui.language import ngettext

LARGE = 4_000
"""Characters from which on a text is shown as a mark."""
LARGE_LINES = 100
SHORT_LINE = 200
"""Characters of a first line that stays in sight."""


class PasteFolding:
    """The large texts by their marks, such as "[pasted 2,100 lines #1]"."""

    def __init__(self) -> None:
        self._texts: dict[str, str] = {}

    def folded(self, text: str) -> str:
        """`text` as it is shown: itself, or where it is large a mark, behind a short first line."""
        if not is_large(text):
            return text
        first, line_end, rest = text.partition("\n")
        if line_end and len(first) <= SHORT_LINE and is_large(rest):
            return f"{first}\n{self.mark(rest)}"
        return self.mark(text)

    def mark(self, text: str) -> str:
        """The mark for a text that is shown by it from now on."""
        for mark, known in self._texts.items():
            if known == text:
                return mark
        lines = text.count("\n") + (not text.endswith("\n"))
        what = ngettext("pasted {count} character", "pasted {count} characters", len(text))
        count = len(text)
        if lines > 1:
            what, count = ngettext("pasted {count} line", "pasted {count} lines", lines), lines
        mark = f"[{what.format(count=f'{count:,}')} #{len(self._texts) + 1}]"
        self._texts[mark] = text
        return mark

    def unfolded(self, shown: str) -> str:
        """The whole text of what is shown."""
        if not self._texts or "[" not in shown:
            return shown
        marks = "|".join(map(re.escape, self._texts))
        return re.sub(marks, lambda found: self._texts[found.group()], shown)

    def mark_before(self, line: str) -> str:
        """The mark that a line ends with, if any."""
        return _first(mark for mark in self._texts if line.endswith(mark))

    def mark_after(self, line: str) -> str:
        """The mark that a line begins with, if any."""
        return _first(mark for mark in self._texts if line.startswith(mark))


def is_large(text: str) -> bool:
    """Whether a text would hold up the keys if it were shown."""
    return len(text) > LARGE or text.count("\n") > LARGE_LINES


def _first(marks: Iterable[str]) -> str:
    return next(iter(marks), "")
