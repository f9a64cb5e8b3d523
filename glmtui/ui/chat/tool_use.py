"""ToolUse: asks the user what to do when the model calls a tool.

A declared tool runs if the user says yes. The user may also answer in its place, or do nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from glmtui.engine.api import ToolCall
from glmtui.errors import ToolError
from glmtui.language import _
from glmtui.sanitize import sanitize_line
from glmtui.ui.chat.host import Host

if TYPE_CHECKING:
    from glmtui.tools import Invocation, Tool, ToolResult


class ToolHost(Host, Protocol):
    """What ToolUse needs of the screen."""

    def refresh_state(self) -> None:
        """Shows whether a call waits for the user's answer."""
        ...


class ToolUse:
    """The tools offered to the model, and the call that waits for the user's own answer."""

    def __init__(self, host: ToolHost) -> None:
        self._host = host
        self._tools: tuple[Tool, ...] = ()
        self._call: ToolCall | None = None
        self._call_place: tuple[str, str | None] = ("", None)  # ids of conversation and message

    def declarations(self) -> Sequence[Mapping[str, Any]]:
        """The tools in tools.toml. It is read for each request, so that an edit applies at once."""
        from glmtui import tools

        self._tools, problems = tools.load_tools()
        self._host.notice.set("tools", "\n".join(map(str, problems)))
        return [tool.declaration for tool in self._tools]

    def ask(self, call: ToolCall) -> None:
        """Asks what to do about the call that the last reply ends with."""
        from glmtui.tools import find_tool

        try:
            if call.problem:
                raise ToolError(call.problem)
            invocation = find_tool(self._tools, call.name).invocation(call.arguments)
        except ToolError as error:
            self._open_dialog(call, None, str(error))
        else:
            self._open_dialog(call, invocation, invocation.display_text)

    def _open_dialog(self, call: ToolCall, invocation: Invocation | None, text: str) -> None:
        from glmtui.ui.dialogs.list_dialog import ChoiceDialog
        from glmtui.ui.dialogs.tool_dialog import ToolDialog

        def on_choice(answer: str | None) -> None:
            if answer == "run" and invocation is not None:
                self._host.open_dialog(ToolDialog(_tool_name(call), invocation), on_end)
            elif answer == "myself":
                self._call, self._call_place = call, self._place()
                self._host.refresh_state()

        def on_end(outcome: ToolResult | ToolError | None) -> None:
            if isinstance(outcome, ToolError):
                self._open_dialog(call, None, str(outcome))
            elif outcome is not None:
                self._host.workspace.session.answer_tool_call(outcome.text)

        # "No" is first: an Enter that was meant for the prompt must not run anything.
        answers = {"no": _("No")}
        if invocation is not None:
            answers["run"] = _("Yes, run it")
        answers["myself"] = _("Answer it myself")
        title = _("The model calls {tool}").format(tool=_tool_name(call))
        self._host.open_dialog(ChoiceDialog(title, text, answers), on_choice)

    def _place(self) -> tuple[str, str | None]:
        conversation = self._host.workspace.session.conversation
        return conversation.id, conversation.head

    # ---- the user answers

    @property
    def waiting_call(self) -> ToolCall | None:
        """The call that the next sent text answers."""
        return self._call if self._call_place == self._place() else None

    @property
    def placeholder(self) -> str:
        """The text of the empty prompt while a call waits; "" otherwise."""
        call = self.waiting_call
        if call is None:
            return ""
        text = _("Result of {tool}? {key}: no answer")
        return text.format(tool=_tool_name(call), key=self._host.key_hint("stop"))

    def answer(self, text: str) -> bool:
        """Answers the call that waits. Returns False if there is none."""
        if self.waiting_call is None:
            return False
        self._call = None
        self._host.workspace.session.answer_tool_call(text)
        return True

    def cancel(self) -> bool:
        """Leaves the call without an answer. Returns False if there is none."""
        if self.waiting_call is None:
            return False
        self._call = None
        self._host.refresh_state()
        return True


def _tool_name(call: ToolCall) -> str:
    return sanitize_line(call.name)[:40]
