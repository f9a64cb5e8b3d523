"""Tool use: what happens when a model calls a tool.

The user is asked; a declared tool runs if they say yes, or they answer in its place, or nothing
happens. Knows the session and tools.toml's tools; not how a call was written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from glmtui.engine.api import ToolCall
from glmtui.errors import ToolError
from glmtui.language import _
from glmtui.sanitize import sanitize_line

if TYPE_CHECKING:
    from glmtui.tools import Invocation, Tool, ToolResult
    from glmtui.ui.app import GlmtuiApp


class ToolUse:
    """The tools that a model is offered, and the call that waits for the user's own answer."""

    def __init__(self, app: GlmtuiApp) -> None:
        self._app = app
        self._tools: tuple[Tool, ...] = ()
        self._call: ToolCall | None = None
        self._at: tuple[str, str | None] = ("", None)

    def offered(self) -> Sequence[Mapping[str, Any]]:
        """The declarations of tools.toml, which is read anew: an edit of it counts at once."""
        from glmtui import tools

        self._tools, problems = tools.load_tools()
        self._app.tell_notice("tools", "\n".join(map(str, problems)))
        return [tool.declaration for tool in self._tools]

    def called(self, call: ToolCall) -> None:
        """The last reply is this call: asks what to do."""
        from glmtui.tools import find_tool

        try:
            if call.problem:
                raise ToolError(call.problem)
            plan = find_tool(self._tools, call.name).invocation(call.arguments)
        except ToolError as error:
            self._ask(call, None, str(error))
        else:
            self._ask(call, plan, plan.display_text)

    def _ask(self, call: ToolCall, plan: Invocation | None, text: str) -> None:
        from glmtui.ui.dialogs.list_dialog import ChoiceDialog
        from glmtui.ui.dialogs.tool_dialog import ToolDialog

        def chosen(answer: str | None) -> None:
            if answer == "run" and plan is not None:
                self._app.push_screen(ToolDialog(_name(call), plan), ended)
            elif answer == "myself":
                conversation = self._app.session.conversation
                self._call, self._at = call, (conversation.id, conversation.head)
                self._app.chat.refresh_state()

        def ended(outcome: ToolResult | ToolError | None) -> None:
            if isinstance(outcome, ToolError):
                self._ask(call, None, str(outcome))
            elif outcome is not None:
                self._app.session.answer_tool_call(outcome.text)

        # "No" comes first: an Enter that was meant for the prompt must not run anything.
        answers = {"no": _("No")}
        if plan is not None:
            answers["run"] = _("Yes, run it")
        answers["myself"] = _("I answer myself")
        title = _("The model calls {tool}").format(tool=_name(call))
        self._app.push_screen(ChoiceDialog(title, text, answers), chosen)

    # ---- the user answers

    @property
    def waiting(self) -> ToolCall | None:
        """The call that what is typed next will answer."""
        conversation = self._app.session.conversation
        return self._call if self._at == (conversation.id, conversation.head) else None

    @property
    def placeholder(self) -> str:
        """What the empty prompt says meanwhile; "" while no call waits."""
        call = self.waiting
        if call is None:
            return ""
        text = _("What does {tool} answer? {key}: no answer")
        return text.format(tool=_name(call), key=self._app.how("stop"))

    def answer(self, text: str) -> bool:
        """Answers the call that waits. False where there is none."""
        if self.waiting is None:
            return False
        self._call = None
        self._app.session.answer_tool_call(text)
        return True

    def give_up(self) -> bool:
        """Leaves the call without an answer. False where none waits."""
        if self.waiting is None:
            return False
        self._call = None
        self._app.chat.refresh_state()
        return True


def _name(call: ToolCall) -> str:
    return sanitize_line(call.name)[:40]
