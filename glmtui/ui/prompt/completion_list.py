"""CompletionList: the list of completions above the prompt."""

from __future__ import annotations

from collections.abc import Callable

from rich.cells import cell_len
from textual import events
from textual.content import Content
from textual.widget import Widget

from glmtui.ui.prompt.completion import Completion

MAX_LABEL_WIDTH = 40
"""Cells of the labels if there are notes beside them; in a wide window half its width."""


class CompletionList(Widget):
    """One completion per row. Hidden while it is empty.

    Args:
        on_choose: called with a completion whose row was clicked.
    """

    ROWS = 8

    def __init__(self, on_choose: Callable[[Completion], None]) -> None:
        super().__init__()
        self.display = False
        self._on_choose = on_choose
        self._completions: tuple[Completion, ...] = ()
        self._footer = ""
        self._at: int | None = None

    @property
    def completions(self) -> tuple[Completion, ...]:
        """All completions, also those that are not in view."""
        return self._completions

    @property
    def selected(self) -> Completion | None:
        """The highlighted completion."""
        return None if self._at is None else self._completions[self._at]

    def show(
        self,
        completions: tuple[Completion, ...],
        *,
        select_first: bool = False,
        footer: str = "",
    ) -> None:
        """Replaces the completions, and the line of text below them."""
        if (completions, footer) != (self._completions, self._footer):
            self._completions, self._footer = completions, footer
            self._at = 0 if select_first and completions else None
            self.display = bool(completions or footer)
            self.refresh(layout=True)

    def move(self, step: int) -> None:
        """Highlights the next (1) or previous (-1) completion; wraps around."""
        if self._completions:
            at = (-1 if step > 0 else 0) if self._at is None else self._at
            self._at = (at + step) % len(self._completions)
            self.refresh()

    def get_content_height(self, *_: object) -> int:
        return min(len(self._completions), self.ROWS) + bool(self._footer)

    def render(self) -> Content:
        visible_rows = self._completions[self._first_row :][: self.ROWS]
        width = max((cell_len(completion.label) for completion in visible_rows), default=0)
        if any(completion.note for completion in visible_rows):
            width = min(width, max(MAX_LABEL_WIDTH, self.size.width // 2))
        rows = []
        for n, completion in enumerate(visible_rows, self._first_row):
            style = "$block-cursor-foreground on $block-cursor-background" if n == self._at else ""
            label = Content(completion.label).truncate(width, ellipsis=True, pad=True)
            row = Content.assemble(
                ("▸" if n == self._at else " ", style),  # visible without colours too
                label.stylize(style or "$accent"),
                (f"  {completion.note}", style or "$text-muted"),
            )
            rows.append(row.truncate(self.size.width, ellipsis=True, pad=n == self._at))
        if self._footer:
            rows.append(Content.styled(" " + self._footer, "$text-muted"))
        return Content("\n").join(rows)

    def on_click(self, event: events.Click) -> None:
        row = self._first_row + event.y
        if event.y < self.ROWS and row < len(self._completions):
            self._on_choose(self._completions[row])

    @property
    def _first_row(self) -> int:
        return max(0, (self._at or 0) - self.ROWS + 1)
