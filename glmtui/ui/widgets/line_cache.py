"""KeptLines: a widget whose lines are rendered again only when it changed.

Textual asks every widget on the screen for all of its lines whenever any of them draws a row, and
each takes a third of a millisecond to find that nothing is new. Knows no widget.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from textual.geometry import Region
from textual.strip import Strip

if TYPE_CHECKING:
    from textual.widget import Widget
    from typing_extensions import Self
else:  # of several bases that are widgets Textual takes styles from the first alone
    Widget = object


class LineCache(Widget):
    """To be inherited before the widget that renders."""

    _kept: tuple[Region, list[Strip]] | None = None

    def render_lines(self, crop: Region) -> list[Strip]:
        """What was rendered last, if it still holds."""
        if self._kept is None or self._kept[0] != crop:
            self._kept = (crop, super().render_lines(crop))
        return self._kept[1]

    def refresh(self, *regions: Region, **how: Any) -> Self:
        """It changed."""
        self._kept = None
        return super().refresh(*regions, **how)

    def notify_style_update(self) -> None:
        """Another theme."""
        self._kept = None
        super().notify_style_update()
