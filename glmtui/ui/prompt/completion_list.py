"""Completions: what is offered above the prompt, one a row. Knows no commands and no files."""

from __future__ import annotations

from collections.abc import Callable

from rich.cells import cell_len
from textual import events
from textual.content import Content
from textual.widget import Widget

from glmtui.sanitize import sanitize_line
from glmtui.ui.prompt.completion import Completion

WIDEST_LABEL = 40


class CompletionList(Widget):
    """The offers that fit what is typed; hidden where there are none.

    Args:
        choose: called with the offer whose row was clicked.
    """

    ROWS = 8

    def __init__(self, choose: Callable[[Completion], None]) -> None:
        super().__init__()
        self.display = False
        self._choose = choose
        self._offered: tuple[Completion, ...] = ()
        self._foot = ""
        self._at: int | None = None

    @property
    def offered(self) -> tuple[Completion, ...]:
        """All rows, whether in view or not."""
        return self._offered

    @property
    def selected(self) -> Completion | None:
        """The highlighted offer, if any."""
        return None if self._at is None else self._offered[self._at]

    def offer(
        self, offered: tuple[Completion, ...], *, first: bool = False, foot: str = ""
    ) -> None:
        """Shows these.

        Args:
            first: whether the first one is highlighted at once.
            foot: a line of its own under them.
        """
        if (offered, foot) != (self._offered, self._foot):
            self._offered, self._foot = offered, foot
            self._at = 0 if first and offered else None
            self.display = bool(offered or foot)
            self.refresh(layout=True)

    def move(self, step: int) -> None:
        """Highlights the next (1) or the previous (-1), around the ends."""
        if self._offered:
            at = (-1 if step > 0 else 0) if self._at is None else self._at
            self._at = (at + step) % len(self._offered)
            self.refresh()

    def get_content_height(self, *_: object) -> int:
        """One row for each, as far as there is room."""
        return min(len(self._offered), self.ROWS) + bool(self._foot)

    def render(self) -> Content:
        """The rows around the highlighted one."""
        shown = self._offered[self._first :][: self.ROWS]
        labels = (cell_len(offer.label) for offer in shown)
        width = max(labels, default=0)
        if any(offer.note for offer in shown):
            width = min(width, max(WIDEST_LABEL, self.size.width // 2))
        rows = []
        for n, offer in enumerate(shown, self._first):
            style = "$block-cursor-foreground on $block-cursor-background" if n == self._at else ""
            label = Content(offer.label).truncate(width, ellipsis=True, pad=True)
            row = Content.assemble(
                ("▸" if n == self._at else " ", style),  # seen without colour too
                label.stylize(style or "$accent"),
                (f"  {sanitize_line(offer.note)}", style or "$text-muted"),
            )
            rows.append(row.truncate(self.size.width, ellipsis=True, pad=n == self._at))
        if self._foot:
            rows.append(Content.styled(" " + self._foot, "$text-muted"))
        return Content("\n").join(rows)

    def on_click(self, event: events.Click) -> None:
        """Chooses the row under the mouse."""
        row = self._first + event.y
        if event.y < self.ROWS and row < len(self._offered):
            self._choose(self._offered[row])

    @property
    def _first(self) -> int:
        return max(0, (self._at or 0) - self.ROWS + 1)
