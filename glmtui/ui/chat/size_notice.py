"""TooSmall: what is shown in a window that has no room for the app."""

from __future__ import annotations

from collections.abc import Iterable

from textual.content import Content
from textual.geometry import Size
from textual.screen import ModalScreen
from textual.widgets import Static

from glmtui.language import _

LEAST_WIDTH, LEAST_HEIGHT = 40, 10


def is_too_small(size: Size) -> bool:
    """Whether a window of this size has no room."""
    return size.width < LEAST_WIDTH or size.height < LEAST_HEIGHT


class SizeNotice(ModalScreen[None]):
    """Instead of a broken layout; goes when the window has grown."""

    def compose(self) -> Iterable[Static]:
        """The message."""
        yield Static(
            Content(
                _("Too small: {width}x{height} is needed.").format(
                    width=LEAST_WIDTH, height=LEAST_HEIGHT
                )
            )
        )
