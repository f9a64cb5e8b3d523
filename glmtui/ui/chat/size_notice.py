"""SizeNotice: shown instead of the app in a window that is too small for it."""

from __future__ import annotations

from collections.abc import Iterable

from textual.content import Content
from textual.geometry import Size
from textual.screen import ModalScreen
from textual.widgets import Static

from glmtui.language import _

MIN_WIDTH, MIN_HEIGHT = 40, 10


def is_too_small(size: Size) -> bool:
    return size.width < MIN_WIDTH or size.height < MIN_HEIGHT


class SizeNotice(ModalScreen[None]):
    """Says how large the window must be. The app removes it once it is."""

    def compose(self) -> Iterable[Static]:
        text = _("Window too small: {width}x{height} needed.")
        yield Static(Content(text.format(width=MIN_WIDTH, height=MIN_HEIGHT)))
