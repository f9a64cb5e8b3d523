"""FrameTimer: moves the text of a reply to the screen, as often as the terminal can take it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

from textual.timer import Timer

from glmtui.ui.session.workspace import Workspace

SHORTEST_FRAME, LONGEST_FRAME = 1 / 15, 1 / 10
"""Seconds between frames. Each costs the same, however little text is new."""
SHARED_FRAME = 1 / 6
"""Seconds between frames while the model computes on the same processor."""
SLOW_FRAME = 1 / 2
"""Seconds between frames if the setting `motion` is false."""
STATUS_SECONDS = 0.5
"""Time between updates of the status bar while a reply is written."""


class FrameHost(Protocol):
    """What a FrameTimer needs of the screen."""

    workspace: Workspace

    @property
    def terminal_blocked(self) -> bool:
        """Whether the terminal has not yet taken what was drawn before."""
        ...

    def set_timer(self, delay: float, callback: Callable[[], None]) -> Timer: ...

    def refresh_status(self) -> None: ...


class FrameTimer:
    """Drains the session in frames while a reply is written. Slow drawing makes them fewer."""

    def __init__(self, host: FrameHost) -> None:
        self._host = host
        self._session = host.workspace.session
        self._timer: Timer | None = None  # of the next frame
        self._due = 0.0
        self._status_at = 0.0

    def start(self) -> None:
        """Starts if a reply is being written; ends by itself."""
        if self._session.reply is not None and self._timer is None:
            self._schedule(SHORTEST_FRAME)

    def _schedule(self, delay: float) -> None:
        self._due = time.monotonic() + delay
        self._timer = self._host.set_timer(delay, self._draw)

    def _draw(self) -> None:
        self._timer = None
        if self._session.reply is None:
            return
        began = time.monotonic()
        delay = LONGEST_FRAME
        blocked = self._host.terminal_blocked
        self._session.drain(show=not blocked)  # it is saved even while it cannot be shown
        if not blocked:
            spent = time.monotonic() - self._due  # includes how late the event loop was
            delay = min(LONGEST_FRAME, max(SHORTEST_FRAME, 3 * spent))
        if self._session.model is not None and self._session.model.device == "cpu":
            delay = SHARED_FRAME
        if not self._host.workspace.settings.motion:
            delay = SLOW_FRAME
        if began - self._status_at >= STATUS_SECONDS:
            self._status_at = began
            self._host.refresh_status()
        self._schedule(delay)
