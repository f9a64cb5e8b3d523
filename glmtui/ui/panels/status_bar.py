"""StatusBar: state, model, context and memory on one line.

Pure functions make the text from a `Status` and leave out details until it fits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from textual.content import Content
from textual.widget import Widget

from glmtui.language import _
from glmtui.ui.panels.device_memory import DeviceMemory, memory_meters
from glmtui.ui.widgets.line_cache import LineCache
from glmtui.ui.widgets.meters import OWN_GLYPH, bar, format_token_count, is_sane

NEARLY_FULL = 0.85
"""Fraction of the context from which its meter shows a warning."""

StatusLevel = Literal["idle", "busy", "good", "error"]

_COLOURS: dict[StatusLevel, str] = {
    "idle": "$text-muted",
    "busy": "$text-accent",
    "good": "$text-success",
    "error": "$text-error",
}


@dataclass(frozen=True, slots=True)
class Status:
    """The content of the bar.

    Attributes:
        state: a few words, such as "27 tok/s".
        level: decides the colour of the state.
        model: name of the model; "" if there is none.
        used, limit: tokens of context; None if unknown.
        memories: of each GPU, or of the host.
    """

    state: str = ""
    level: StatusLevel = "idle"
    model: str = ""
    used: int | None = None
    limit: int | None = None
    memories: tuple[DeviceMemory, ...] = ()


# ---- pure text


def context_meter(used: int | None, limit: int | None, detail: int) -> Content:
    """Used and available tokens. With `detail` 3 also a bar; with 0 only one number."""
    used, limit = (n if n is None or is_sane(n) else None for n in (used, limit))
    if used is None and limit is None:
        return Content("")
    share = used / limit if used is not None and limit else 0.0
    colour = "$warning" if share >= NEARLY_FULL else "$accent"
    text = (
        format_token_count(used)
        if limit is None
        else f"{format_token_count(used)}/{format_token_count(limit)}"
    )
    if detail == 0:
        text = f"{share:.0%}" if limit and used is not None else format_token_count(used)
    style = "$text-warning" if share >= NEARLY_FULL else "$text-muted"
    parts = [Content.styled(_("ctx") + " ", "$text-muted")]
    if detail >= 3 and limit:
        parts += [bar([(share, OWN_GLYPH, colour)], 8), Content(" ")]
    return Content("").join([*parts, Content.styled(text, style)])


def status_line(status: Status, width: int) -> Content:
    """The bar in exactly `width` cells. Details are left out before anything is truncated."""
    state = Content.styled(f" {status.state}", _COLOURS[status.level])
    model = Content.styled(f"  {status.model}" if status.model else "", "$text-muted")
    gap = Content("   ")
    details = [(3, 3), (3, 2), (1, 2), (1, 1), (0, 0), (0, -1)]
    for left in (state + model, state):
        for context_detail, memory_detail in details:
            context = context_meter(status.used, status.limit, context_detail)
            meters = [context, memory_meters(status.memories, memory_detail)]
            right = gap.join(meter for meter in meters if meter) + " "
            if left.cell_length + 2 + right.cell_length <= width:
                return left.pad_right(width - left.cell_length - right.cell_length) + right
    return state.truncate(width, ellipsis=True, pad=True)


# ---- the widget


class StatusBar(LineCache, Widget):
    """The line at the bottom. Redrawn only when its text changes."""

    def __init__(self) -> None:
        super().__init__()
        self._status = Status()
        self._line = Content("")

    @property
    def status(self) -> Status:
        return self._status

    def set_status(self, status: Status) -> None:
        self._status = status
        line = status_line(status, self.size.width)
        if not line.is_same(self._line):
            self._line = line
            self.refresh()

    def on_resize(self) -> None:
        self._line = Content("")
        self.set_status(self._status)

    def render(self) -> Content:
        return self._line
