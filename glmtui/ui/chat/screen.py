"""ChatScreen: the one screen, and every `action_*` named in COMMANDS.

Actions ask the session and the app; what is shown for it is `chat_view`'s. Knows neither how a
conversation is kept nor what a model is.
"""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import ClassVar

from textual.binding import BindingType

from glmtui.commands import command_parser
from glmtui.errors import GlmtuiError, UsageError
from glmtui.language import _
from glmtui.ui.chat.conversation_actions import ConversationActions
from glmtui.ui.chat.memory_actions import MemoryActions
from glmtui.ui.chat.message_actions import MessageActions
from glmtui.ui.chat.prompt_actions import PromptActions
from glmtui.ui.widgets.bindings import bindings


class ChatScreen(MessageActions, ConversationActions, PromptActions, MemoryActions):
    """What the user can do, but for what is said elsewhere of its four parts."""

    AUTO_FOCUS = "Prompt"
    BINDINGS: ClassVar[list[BindingType]] = bindings()

    # ---- a question and its reply

    async def action_send(self) -> None:
        """Sends what is in the prompt, or does what its command says."""
        text = self.prompt.full_text
        if not text.strip():
            return
        if command_parser.looks_like_command(text):
            await self._command(text)
        elif self.session.run is not None:
            self.idle()
        elif (question := self.with_files(text.strip("\n"))) is not None:
            self.prompt.take_text()
            editing, self.editing = self.editing, None
            if editing is not None or not self.app.tool_use.answer(question):
                self.session.ask(question, editing)

    async def _command(self, text: str) -> None:
        try:
            command, argument = command_parser.parse(text)
        except UsageError as error:
            self.app.tell(str(error), bad=True)
            return
        self.prompt.take_text()
        action = getattr(self, f"action_{command.action}")
        try:
            done = action(argument) if command.argument else action()
            if inspect.isawaitable(done):
                await done
        except GlmtuiError as error:
            self.app.tell(str(error), bad=True)

    def action_new_line(self) -> None:
        """Breaks the line at the cursor."""
        self.prompt.insert("\n")

    def action_stop(self) -> None:
        """Stops the reply; with none being written, closes the notice or ends an edit."""
        if self.session.run is not None:
            self.session.stop()
        elif self.notice.close() or self.app.tool_use.give_up():
            return
        elif self.editing is not None:
            self.editing = None
            self.prompt.set_text("")
            self.session.open(self.session.conversation)

    # ---- models and files

    def action_model(self, name: str = "") -> None:
        """Loads a model, or lets the user pick one."""
        if name:
            self.app.use_model(name)
        else:
            self.app.pick_model()

    def action_export(self, file: str = "") -> None:
        """Writes the conversation to a file that is not there yet."""
        if not self.session.conversation.messages:
            self.app.tell(_("There is nothing yet to export."))
            return
        from glmtui.ui.session.export import export

        path = export(self.session.conversation, Path(file).expanduser() if file else None)
        self.app.tell(_("Written to {path}").format(path=path))

    # ---- the rest

    def action_theme(self, name: str = "") -> None:
        """Takes on a theme, or the next. Raises UsageError."""
        themes = list(self.app.available_themes)
        if not name:
            name = themes[(themes.index(self.app.theme) + 1) % len(themes)]
        if name not in themes:
            known = ", ".join(themes)
            raise UsageError(
                _("There is no theme {name}.").format(name=name),
                _("There are {names}.").format(names=known),
            )
        self.app.theme = name

    def action_page_up(self) -> None:
        """Looks back."""
        self.transcript.scroll_page_up(animate=False)

    def action_page_down(self) -> None:
        """Looks forward."""
        self.transcript.scroll_page_down(animate=False)

    def action_half_page_up(self) -> None:
        """Looks back half a page."""
        self._scroll_by(-self.transcript.size.height // 2)

    def action_half_page_down(self) -> None:
        """Looks forward half a page."""
        self._scroll_by(self.transcript.size.height // 2)

    def action_line_up(self) -> None:
        """Looks back a line."""
        self._scroll_by(-1)

    def action_line_down(self) -> None:
        """Looks forward a line."""
        self._scroll_by(1)

    def _scroll_by(self, lines: int) -> None:
        self.transcript.scroll_relative(y=lines, animate=False)

    def action_scroll_home(self) -> None:
        """Goes to where the conversation began."""
        self.transcript.scroll_home(animate=False)

    def action_scroll_end(self) -> None:
        """Goes to the end and follows it."""
        self.transcript.scroll_end(animate=False)

    def action_interrupt(self) -> None:
        """What Ctrl+C is for: copies a selection, stops a reply, or clears the prompt."""
        if self.get_selected_text():
            self.action_copy_text()
        elif self.session.run is not None:
            self.session.stop()
        elif self.prompt.text:
            self.prompt.take_text()
        else:
            self.app.tell(_("{key} quits.").format(key=self.app.how("quit")))

    def action_palette(self) -> None:
        """Opens the list of commands."""
        self.app.action_command_palette()

    def action_help(self) -> None:
        """Shows keys and commands."""
        from glmtui.ui.panels.help import HelpScreen

        self.app.push_screen(HelpScreen(self.app.commands))

    def action_quit(self) -> None:
        """Leaves."""
        self.app.exit()
