"""PromptController: sends the text of the prompt, keeps drafts of it and offers completions."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import Protocol

from textual.timer import Timer

from glmtui import config
from glmtui.config import presets
from glmtui.errors import StoreError, UsageError
from glmtui.language import _
from glmtui.net.addresses import redact_url
from glmtui.sanitize import sanitize_line
from glmtui.ui.chat.host import Host
from glmtui.ui.chat.tool_use import ToolUse
from glmtui.ui.prompt import argument_values, attachments
from glmtui.ui.prompt.attachments import Attachment
from glmtui.ui.prompt.completion import ArgumentValue, Provider
from glmtui.ui.prompt.history import History
from glmtui.ui.widgets.text_line import TextLine

DRAFT_SECONDS = 0.7
"""Delay before a draft is saved. With a slow disk this is still within one second."""


class PromptHost(Host, Protocol):
    """What PromptController needs of the screen."""

    attached: TextLine

    def theme_names(self) -> Iterable[str]: ...

    def set_timer(self, delay: float, callback: Callable[[], None]) -> Timer: ...

    def edit_text(self, text: str) -> Awaitable[str | None]:
        """Opens a text in the user's editor. Returns None if that failed."""
        ...


class PromptController:
    """What happens to the text in the prompt.

    Attributes:
        editing: the id of the question that the text in the prompt will replace, if any.
    """

    def __init__(self, host: PromptHost, tool_use: ToolUse) -> None:
        self.editing: str | None = None
        self._host = host
        self._prompt = host.prompt
        self._workspace = host.workspace
        self._session = host.workspace.session
        self._tool_use = tool_use
        self._draft_timer: Timer | None = None
        self._named_files: tuple[tuple[str, ...], str] = ((), "")
        self._refused_text = ""
        drafts = host.workspace.drafts
        self._prompt.sent_history = History(drafts.sent_questions, drafts.add_sent)
        self._prompt.next_match_key = host.key_hint("search_history")
        self._prompt.providers = self._providers()

    # ---- completion

    def _providers(self) -> dict[str, Provider]:
        """What completes the arguments of commands, by `Command.kind`; free text has nothing."""
        quants = config.find_setting("load.quant").choices
        return {
            "SETTING": argument_values.setting_values,
            "PRESET": argument_values.background_provider(
                lambda: map(ArgumentValue, presets.load_presets()[0])
            ),
            "QUANT": argument_values.list_provider(lambda: map(ArgumentValue, quants)),
            "THEME": argument_values.list_provider(
                lambda: map(ArgumentValue, self._host.theme_names())
            ),
            "MODEL": argument_values.background_provider(self._models),
            "TITLE": argument_values.background_provider(self._titles),
            "FILE": argument_values.file_values,
        }

    def _models(self) -> Iterator[ArgumentValue]:
        from glmtui.engine.catalog import resolver
        from glmtui.engine.catalog.known_models import MODELS

        installed = resolver.installed_models()
        yield from (ArgumentValue(model.name, sanitize_line(model.title)) for model in installed)
        names = {model.name for model in installed}
        for known in MODELS:
            if known.name not in names:
                yield ArgumentValue(known.name, _("not installed"))
        for name, server in self._workspace.settings.servers.items():
            yield ArgumentValue(name, redact_url(server.url))

    def _titles(self) -> Iterator[ArgumentValue]:
        try:
            summaries = self._workspace.store.summaries()
        except StoreError:
            summaries = []
        titles = (sanitize_line(summary.title) for summary in summaries)
        return (ArgumentValue(title) for title in dict.fromkeys(filter(None, titles)))

    # ---- sending

    def send(self) -> None:
        """Sends the text in the prompt as a question, or as the result of a tool call."""
        text = self._prompt.full_text.strip("\n")
        if not text.strip() or not self._host.check_not_replying():
            return
        question = self._with_files(text)
        if question is not None:
            self._prompt.take_text()
            editing, self.editing = self.editing, None
            if editing is not None or not self._tool_use.answer(question):
                self._session.ask(question, editing)

    def begin_edit(self, message_id: str, text: str) -> None:
        """Puts a text into the prompt that will replace a question."""
        self._prompt.sent_history.add(self._prompt.full_text)
        self._host.focus_prompt()
        self.editing = message_id
        self._prompt.set_text(text)
        hint = _("{send} sends it as a new branch; {stop} cancels.")
        send, stop = self._host.key_hint("send"), self._host.key_hint("stop")
        self._host.toast(hint.format(send=send, stop=stop))

    def cancel_edit(self) -> None:
        """Empties the prompt and shows the conversation as it is, if a question is edited."""
        if self.editing is not None:
            self.editing = None
            self._prompt.set_text("")
            self._session.open(self._session.conversation)

    async def open_editor(self) -> None:
        """Lets the user write in their own editor."""
        edited = await self._host.edit_text(self._prompt.full_text)
        if edited is not None:
            self._prompt.set_text(edited)

    # ---- drafts

    def on_change(self) -> None:
        """The text in the prompt has changed."""
        self._show_files()
        if self._draft_timer is None:
            self._draft_timer = self._host.set_timer(DRAFT_SECONDS, self._on_draft_timer)

    def _on_draft_timer(self) -> None:
        self._draft_timer = None
        self.save_draft()

    def save_draft(self) -> None:
        self._workspace.drafts.save(self._session.conversation, self._prompt.full_text)

    def load_draft(self) -> None:
        """Puts the draft of the conversation in view into the prompt."""
        draft = self._workspace.drafts.load(self._session.conversation)
        if draft or self._prompt.text:
            self._prompt.set_text(draft)

    # ---- files named in the question

    def _show_files(self) -> None:
        """Shows the files that the question names; not yet one that may be half a name."""
        names = attachments.attachment_names(self._prompt.text)
        before_cursor = self._prompt.get_text_range((0, 0), self._prompt.cursor_location)
        partial = next((name for name in names if before_cursor.endswith(f"@{name}")), "")
        if (names, partial) == self._named_files:
            return
        self._named_files = (names, partial)
        files = (file for file in map(attachments.find_attachment, names) if file is not None)
        self._host.attached.set_text(
            "   ".join(f.label for f in files if f.is_certain or f.name != partial)
        )

    def _with_files(self, text: str) -> str | None:
        """The question with the content of its files.

        Returns:
            None if a file cannot be used; the user was told. A name that may be no file at all is
            sent as text when the same question is sent again.
        """
        files = [
            f
            for f in map(
                attachments.find_attachment, attachments.attachment_names(self._prompt.text)
            )
            if f
        ]
        unusable = [file for file in files if file.error]
        again = self._refused_text == self._prompt.text
        self._refused_text = self._prompt.text
        if unusable and not (again and not any(file.is_certain for file in unusable)):
            self._refuse(unusable)
            return None
        try:
            return attachments.with_attachments(text, tuple(f.name for f in files if not f.error))
        except UsageError as error:  # a file has changed since
            self._host.toast(str(error), error=True)
            return None

    def _refuse(self, files: list[Attachment]) -> None:
        problems = "; ".join(file.label for file in files)
        if any(file.is_certain for file in files):
            hint = _("Nothing was sent.")
        else:
            hint = _("Nothing was sent. Enter again sends it as plain text.")
        self._host.toast(f"{problems}\n{hint}", error=True)
