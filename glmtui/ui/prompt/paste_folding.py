"""PasteFolding: replaces large texts in the prompt by short markers.

Textual's text area needs a second for each key if it holds 100 kB.
"""

from __future__ import annotations

import re

from glmtui.language import ngettext

MAX_CHARACTERS = 4_000
MAX_LINES = 100
"""A text with more characters or lines is folded. At this size a key takes a few milliseconds."""
MAX_FIRST_LINE = 200
"""Characters up to which the first line of a folded text remains visible."""


class PasteFolding:
    """The folded texts by their markers, such as "[pasted 2,100 lines #1]"."""

    def __init__(self) -> None:
        self._texts: dict[str, str] = {}

    def fold(self, text: str) -> str:
        """`text`, or if it is large, its first line if that is short, and a marker."""
        if not is_large(text):
            return text
        first, line_end, rest = text.partition("\n")
        if line_end and len(first) <= MAX_FIRST_LINE and is_large(rest):
            return f"{first}\n{self.marker_for(rest)}"
        return self.marker_for(text)

    def marker_for(self, text: str) -> str:
        """The marker that stands for `text` from now on."""
        for marker, folded in self._texts.items():
            if folded == text:
                return marker
        lines = text.count("\n") + (not text.endswith("\n"))
        label = ngettext("pasted {count} character", "pasted {count} characters", len(text))
        count = len(text)
        if lines > 1:
            label, count = ngettext("pasted {count} line", "pasted {count} lines", lines), lines
        marker = f"[{label.format(count=f'{count:,}')} #{len(self._texts) + 1}]"
        self._texts[marker] = text
        return marker

    def unfold(self, text: str) -> str:
        """`text` with all markers replaced by their texts."""
        if not self._texts or "[" not in text:
            return text
        markers = "|".join(map(re.escape, self._texts))
        return re.sub(markers, lambda found: self._texts[found.group()], text)

    def marker_before(self, line: str) -> str:
        """The marker at the end of a line, or ""."""
        return next((marker for marker in self._texts if line.endswith(marker)), "")

    def marker_after(self, line: str) -> str:
        """The marker at the beginning of a line, or ""."""
        return next((marker for marker in self._texts if line.startswith(marker)), "")


def is_large(text: str) -> bool:
    """Whether the text area would become slow with this text."""
    return len(text) > MAX_CHARACTERS or text.count("\n") > MAX_LINES
