"""Opening: a saved conversation is read on a thread, so that keys never wait for a large one.

What is read at once needs no word; else a dialog says so, and Esc gives it up. Knows no store.
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

PATIENCE = 0.15
"""Seconds it may take before the dialog is shown."""


class Reading:
    """A conversation that is being read."""

    def __init__(self, read: Callable[[], Conversation]) -> None:
        self._then: Callable[[], object] = lambda: None
        self._read = read
        self._came: Conversation | Exception | None = None
        self._turn = threading.Lock()
        self._thread = threading.Thread(target=self._work, name="glmtui-open", daemon=True)
        self._thread.start()

    def wait(self, seconds: float) -> bool:
        """Whether it is done within so many seconds."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def call(self, then: Callable[[], object]) -> None:
        """Has `then` called at the end, on its thread, or at once if that was before."""
        with self._turn:
            if self._came is None:
                self._then = then
                return
        then()

    def result(self) -> Conversation:
        """What was read, once it is. Raises what reading it raised."""
        if isinstance(self._came, Exception):
            raise self._came
        assert self._came is not None, "asked before it is done"
        return self._came

    def _work(self) -> None:
        came: Conversation | Exception
        try:
            came = self._read()
        except Exception as error:
            came = error  # for whoever asks for the result
        with self._turn:
            self._came = came
        self._then()


class ConversationReader(ModalScreen[Reading | None]):
    """Waits for a conversation. Answers with it, or with None if Esc gave it up."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "dismiss(None)", show=False)]

    def __init__(self, reading: Reading) -> None:
        super().__init__()
        self._reading = reading
        self._done = False

    def compose(self) -> ComposeResult:
        """What is done, keys."""
        with Vertical(classes="dialog small"):
            yield Static(Content(_("Opening …")), classes="heading")
            yield Static(Content(_("Esc gives it up")), classes="help")

    def on_mount(self) -> None:
        """Listens."""
        soon = self.app.call_later  # this dialog may be closed before the thread ends
        self._reading.call(lambda: soon(self._end))

    def _end(self) -> None:
        self._done = True
        if self.is_active:
            self.on_screen_resume()

    def on_screen_resume(self) -> None:
        """Answers, also if it was read while the window was too small for a dialog."""
        if self._done:
            self.dismiss(self._reading)
