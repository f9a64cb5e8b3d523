"""PromptActions: what is done with the text in the prompt, but for sending it.

It is written elsewhere, sought among what was sent, kept as a draft, given the files it names.
"""

from __future__ import annotations

from collections.abc import Iterator

from textual import on
from textual.timer import Timer
from textual.widgets import TextArea

from glmtui import config
from glmtui.config import presets
from glmtui.errors import StoreError, UsageError
from glmtui.language import _
from glmtui.net.addresses import shown_address
from glmtui.sanitize import one_line
from glmtui.ui.chat.view import ChatView
from glmtui.ui.prompt import argument_values, attachments
from glmtui.ui.prompt.attachments import Attachment
from glmtui.ui.prompt.completion import ArgumentValue, Provider
from glmtui.ui.prompt.history import History

KINDS = ("SETTING", "PRESET", "QUANT", "THEME", "MODEL", "TITLE", "FILE")
"""Of arguments that are completed; others are free text or a number."""
DRAFT_SECONDS = 0.7  # with a slow disk, still within a second


class PromptActions(ChatView):
    """The actions on the prompt's text; a part of `chat_screen.ChatScreen`."""

    def __init__(self) -> None:
        super().__init__()
        self._draft_timer: Timer | None = None
        self._named: tuple[tuple[str, ...], str] = ((), "")
        self._refused = ""

    def on_mount(self) -> None:
        """Tells the prompt what there is to recall and to choose from."""
        self.prompt.sent_history = History(self.app.typed.sent_before, self.app.typed.keep_sent)
        self.prompt.next_match_key = self.app.how("search_history")
        providers: tuple[Provider, ...] = (
            argument_values.setting_values,
            argument_values.background_provider(lambda: map(ArgumentValue, presets.load()[0])),
            argument_values.list_provider(
                lambda: map(ArgumentValue, config.find("load.quant").choices)
            ),
            argument_values.list_provider(lambda: map(ArgumentValue, self.app.available_themes)),
            argument_values.background_provider(self._models),
            argument_values.background_provider(self._titles),
            argument_values.file_values,
        )
        self.prompt.providers = dict(zip(KINDS, providers, strict=True))

    def _models(self) -> Iterator[ArgumentValue]:
        from glmtui.engine.catalog import resolver

        here = resolver.installed()
        yield from (ArgumentValue(model.name, one_line(model.title)) for model in here)
        names = {model.name for model in here}
        for known in resolver.MODELS:
            if known.name not in names:
                yield ArgumentValue(known.name, _("to be fetched"))
        for name, server in self.app.settings.servers.items():
            yield ArgumentValue(name, shown_address(server.url))

    def _titles(self) -> Iterator[ArgumentValue]:
        try:
            found = self.app.store.summaries()
        except StoreError:
            found = []
        titles = (one_line(summary.title) for summary in found)
        return (ArgumentValue(title) for title in dict.fromkeys(filter(None, titles)))

    async def action_editor(self) -> None:
        """Lets the user write in an editor of their own."""
        from glmtui.ui.terminal.editor import edit_text

        edited = await edit_text(self.app, self.prompt.full_text)
        if edited is not None:
            self.prompt.set_text(edited)

    def action_history(self, words: str = "") -> None:
        """Offers what was sent before."""
        self.prompt.search_history(words)

    # ---- typing

    @on(TextArea.Changed)
    def _prompt_changed(self, event: TextArea.Changed) -> None:
        if event.text_area is self.prompt:
            self._show_files()
            if self._draft_timer is None:
                self._draft_timer = self.set_timer(DRAFT_SECONDS, self._keep_draft)

    def _keep_draft(self) -> None:
        self._draft_timer = None
        self.app.keep_draft()

    # ---- files

    def _show_files(self) -> None:
        """A chip for each file that the question names; none yet for what may be half a name."""
        names = attachments.attachment_names(self.prompt.text)
        typed = self.prompt.get_text_range((0, 0), self.prompt.cursor_location)
        half = next((name for name in names if typed.endswith(f"@{name}")), "")
        if (names, half) == self._named:
            return
        self._named = (names, half)
        found = (file for file in map(attachments.find_attachment, names) if file is not None)
        self.attached.set_text("   ".join(f.label for f in found if f.is_certain or f.name != half))

    def with_files(self, text: str) -> str | None:
        """The question with the files it names; None where one of them is no good, which is told.

        What is not there at all may be no file: asked again, it is sent as it stands.
        """
        found = [
            f
            for f in map(
                attachments.find_attachment, attachments.attachment_names(self.prompt.text)
            )
            if f
        ]
        wrong = [file for file in found if file.error]
        again, self._refused = self._refused == self.prompt.text, self.prompt.text
        if wrong and not (again and not any(file.is_certain for file in wrong)):
            self._refuse(wrong)
            return None
        try:
            return attachments.with_attachments(text, tuple(f.name for f in found if not f.error))
        except UsageError as error:  # it has changed since
            self.app.tell(str(error), bad=True)
            return None

    def _refuse(self, wrong: list[Attachment]) -> None:
        said = "; ".join(file.label for file in wrong)
        if any(file.is_certain for file in wrong):
            way = _("Nothing was sent.")
        else:
            way = _("Nothing was sent; Enter again sends it as it stands.")
        self.app.tell(f"{said}\n{way}", bad=True)
