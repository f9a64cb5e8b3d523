"""Running: the dialog shown while a tool runs; the tool ends with it.

Runs what it is given, without asking; knows no models.
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

from glmtui.errors import ToolError
from glmtui.language import _
from glmtui.tools import Invocation, ToolResult, run_tool

END_SECONDS = 1.0


class ToolDialog(ModalScreen[ToolResult | ToolError | None]):
    """Runs a tool. Answers with what came of it, or with None if Esc stopped it."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "stop", show=False)]

    def __init__(self, tool: str, plan: Invocation) -> None:
        super().__init__()
        self._tool = tool
        self._plan = plan
        self._cancelled = threading.Event()
        self._thread: threading.Thread | None = None
        self._came: ToolResult | ToolError | None = None

    def compose(self) -> ComposeResult:
        """Name, keys."""
        with Vertical(classes="dialog small"):
            yield Static(Content(_("Running {tool}").format(tool=self._tool)), classes="heading")
            yield Static(Content(_("Esc stops it")), classes="help")

    def on_mount(self) -> None:
        """Begins."""
        soon = self.app.call_later  # this dialog may be closed before the thread ends
        self._thread = threading.Thread(target=self._work, args=(soon,), daemon=True)
        self._thread.start()

    def on_unmount(self) -> None:
        """The tool does not outlive the app."""
        self._cancelled.set()
        if self._thread is not None:
            self._thread.join(END_SECONDS)

    def action_stop(self) -> None:
        """Stops the tool; the model is told nothing."""
        self._cancelled.set()
        self.dismiss(None)

    def _work(self, soon: Callable[..., object]) -> None:
        try:
            outcome = run_tool(self._plan, self._cancelled.is_set)
        except ToolError as error:
            soon(self._end, error)
        except BaseException as error:  # a fault of ours: say so, then let it be logged
            soon(
                self._end,
                ToolError(_("{tool} failed: {error!r}.").format(tool=self._tool, error=error)),
            )
            raise
        else:
            soon(self._end, outcome)

    def _end(self, outcome: ToolResult | ToolError) -> None:
        self._came = outcome
        if self.is_active:
            self.on_screen_resume()

    def on_screen_resume(self) -> None:
        """Answers, if something came while the window was too small for a dialog."""
        if self._came is not None and not self._cancelled.is_set():
            self.dismiss(self._came)
