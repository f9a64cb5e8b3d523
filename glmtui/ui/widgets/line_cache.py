"""LineCache: a base for widgets whose rendered lines are reused until the widget is refreshed.

When any widget draws a row, Textual asks every widget on the screen for all of its lines. Each
needs about 0.3 ms to find that nothing has changed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from textual.geometry import Region
from textual.strip import Strip

if TYPE_CHECKING:
    from textual.widget import Widget
    from typing_extensions import Self
else:  # Textual reads the CSS of only the first base class that is a widget
    Widget = object


class LineCache(Widget):
    """Mix-in; must come before the widget class in the list of bases."""

    _cached: tuple[Region, list[Strip]] | None = None

    def render_lines(self, crop: Region) -> list[Strip]:
        if self._cached is None or self._cached[0] != crop:
            self._cached = (crop, super().render_lines(crop))
        return self._cached[1]

    def refresh(self, *regions: Region, **options: Any) -> Self:
        self._cached = None
        return super().refresh(*regions, **options)

    def notify_style_update(self) -> None:
        self._cached = None
        super().notify_style_update()
