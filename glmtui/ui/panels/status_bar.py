"""StatusBar: what the program is doing and what it costs, on one line that never wraps.

Pure functions make the text from plain facts, richest first, and drop detail until it fits.
Knows neither the session nor how memory is measured.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from textual.content import Content
from textual.widget import Widget

from glmtui.language import _
from glmtui.ui.panels.device_memory import Memory, memory_meters
from glmtui.ui.widgets.line_cache import LineCache
from glmtui.ui.widgets.meters import OURS, bar, is_sane, tokens

NEARLY_FULL = 0.85

Mood = Literal["calm", "busy", "good", "bad"]

_COLOURS: dict[Mood, str] = {
    "calm": "$text-muted",
    "busy": "$text-accent",
    "good": "$text-success",
    "bad": "$text-error",
}


@dataclass(frozen=True, slots=True)
class Facts:
    """What the bar shows.

    Attributes:
        state: a few words, such as "27 tok/s".
        model: its name; empty for none.
        used, limit: tokens of context; None where unknown.
        memories: one for each GPU, or the host's.
    """

    state: str = ""
    mood: Mood = "calm"
    model: str = ""
    used: int | None = None
    limit: int | None = None
    memories: tuple[Memory, ...] = ()


# ---- pure text


def context_meter(used: int | None, limit: int | None, detail: int) -> Content:
    """Tokens of context used, of how many; the bar only with `detail` 3, one number with 0."""
    used, limit = (n if n is None or is_sane(n) else None for n in (used, limit))
    if used is None and limit is None:
        return Content("")
    share = used / limit if used is not None and limit else 0.0
    colour = "$warning" if share >= NEARLY_FULL else "$accent"
    text = tokens(used) if limit is None else f"{tokens(used)}/{tokens(limit)}"
    if detail == 0:
        text = f"{share:.0%}" if limit and used is not None else tokens(used)
    style = "$text-warning" if share >= NEARLY_FULL else "$text-muted"
    parts = [Content.styled(_("ctx") + " ", "$text-muted")]
    if detail >= 3 and limit:
        parts += [bar([(share, OURS, colour)], 8), Content(" ")]
    return Content("").join([*parts, Content.styled(text, style)])


def status_line(facts: Facts, width: int) -> Content:
    """The whole bar in exactly `width` cells: detail goes before anything is cut."""
    state = Content.styled(f" {facts.state}", _COLOURS[facts.mood])
    model = Content.styled(f"  {facts.model}" if facts.model else "", "$text-muted")
    gap = Content("   ")
    levels = [(3, 3), (3, 2), (1, 2), (1, 1), (0, 0), (0, -1)]
    for left in (state + model, state):
        for context_detail, memory_detail in levels:
            context = context_meter(facts.used, facts.limit, context_detail)
            meters = [context, memory_meters(facts.memories, memory_detail)]
            right = gap.join(meter for meter in meters if meter) + " "
            if left.cell_length + 2 + right.cell_length <= width:
                return left.pad_right(width - left.cell_length - right.cell_length) + right
    return state.truncate(width, ellipsis=True, pad=True)


# ---- the widget


class StatusBar(LineCache, Widget):
    """The line at the bottom; drawn again only when its text changes."""

    def __init__(self) -> None:
        super().__init__()
        self._facts = Facts()
        self._line = Content("")

    @property
    def facts(self) -> Facts:
        """What is shown now."""
        return self._facts

    def tell(self, facts: Facts) -> None:
        """Shows these facts."""
        self._facts = facts
        line = status_line(facts, self.size.width)
        if not line.is_same(self._line):
            self._line = line
            self.refresh()

    def on_resize(self) -> None:
        """Fits the line to the new width."""
        self._line = Content("")
        self.tell(self._facts)

    def render(self) -> Content:
        """The line."""
        return self._line
