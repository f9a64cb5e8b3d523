"""ToolDialog: runs a tool and shows that it is running. The tool ends with the dialog."""

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

from glmtui.errors import ToolError
from glmtui.language import _
from glmtui.tools import Invocation, ToolResult, run_tool

JOIN_SECONDS = 1.0
"""How long closing the dialog waits for the tool's process to be killed."""


class ToolDialog(ModalScreen[ToolResult | ToolError | None]):
    """Runs a tool without asking. Answers with its outcome, or None if cancelled."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "stop", show=False)]

    def __init__(self, tool: str, plan: Invocation) -> None:
        super().__init__()
        self._tool = tool
        self._plan = plan
        self._cancelled = threading.Event()
        self._thread: threading.Thread | None = None
        self._outcome: ToolResult | ToolError | None = None

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog small"):
            yield Static(Content(_("Running {tool}").format(tool=self._tool)), classes="heading")
            yield Static(Content(_("Esc cancels")), classes="help")

    def on_mount(self) -> None:
        soon = self.app.call_later  # this dialog may be closed before the thread ends
        self._thread = threading.Thread(target=self._work, args=(soon,), daemon=True)
        self._thread.start()

    def on_unmount(self) -> None:
        self._cancelled.set()
        if self._thread is not None:
            self._thread.join(JOIN_SECONDS)

    def action_stop(self) -> None:
        """Cancels the tool; the model gets no answer."""
        self._cancelled.set()
        self.dismiss(None)

    def _work(self, soon: Callable[..., object]) -> None:
        try:
            outcome = run_tool(self._plan, self._cancelled.is_set)
        except ToolError as error:
            soon(self._end, error)
        except BaseException as error:  # a bug: show it, and let it be logged
            text = _("{tool} failed: {error!r}.").format(tool=self._tool, error=error)
            soon(self._end, ToolError(text))
            raise
        else:
            soon(self._end, outcome)

    def _end(self, outcome: ToolResult | ToolError) -> None:
        self._outcome = outcome
        if self.is_active:
            self.on_screen_resume()

    def on_screen_resume(self) -> None:
        """Answers. The tool may have ended while the notice about the window's size was shown."""
        if self._outcome is not None and not self._cancelled.is_set():
            self.dismiss(self._outcome)
