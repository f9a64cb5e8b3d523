"""Reads a conversation on a thread, so that a large one does not block the keys.

If it takes long, a dialog says so, and Esc cancels.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Static

from glmtui.chat import Conversation
from glmtui.language import _

DIALOG_DELAY_SECONDS = 0.15
"""How long reading may take before the dialog is shown."""


class BackgroundRead:
    """A conversation that is being read on its own thread."""

    def __init__(self, read: Callable[[], Conversation]) -> None:
        self._read = read
        self._on_end: Callable[[], object] = lambda: None
        self._result: Conversation | Exception | None = None
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="glmtui-open", daemon=True)
        self._thread.start()

    def wait(self, seconds: float) -> bool:
        """Waits so long at most. Returns whether reading has ended."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def call_at_end(self, callback: Callable[[], object]) -> None:
        """Calls `callback` on the reading thread at the end, or now if reading has ended."""
        with self._lock:
            if self._result is None:
                self._on_end = callback
                return
        callback()

    def result(self) -> Conversation:
        """The conversation, after the end. Raises what reading it raised."""
        if isinstance(self._result, Exception):
            raise self._result
        assert self._result is not None, "called before the end"
        return self._result

    def _run(self) -> None:
        result: Conversation | Exception
        try:
            result = self._read()
        except Exception as error:
            result = error  # `result` raises it
        with self._lock:
            self._result = result
        self._on_end()


class ConversationReader(ModalScreen[BackgroundRead | None]):
    """The dialog while a conversation is read. Its result is None if the user cancelled."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "dismiss(None)", show=False)]

    def __init__(self, read: BackgroundRead) -> None:
        super().__init__()
        self._background_read = read
        self._ended = False

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog small"):
            yield Static(Content(_("Opening …")), classes="heading")
            yield Static(Content(_("Esc cancels")), classes="help")

    def on_mount(self) -> None:
        call_later = self.app.call_later  # the dialog may be closed before the thread ends
        self._background_read.call_at_end(lambda: call_later(self._on_end))

    def _on_end(self) -> None:
        self._ended = True
        if self.is_active:
            self.on_screen_resume()

    def on_screen_resume(self) -> None:
        """Closes, also if reading ended while the window was too small for a dialog."""
        if self._ended:
            self.dismiss(self._background_read)
