"""MemoryActions: what a reply cost and who has the memory, and the ways to have more of it."""

from __future__ import annotations

from dataclasses import replace

from textual.content import Content

from glmtui import config
from glmtui.errors import UsageError
from glmtui.language import _, ngettext
from glmtui.ui.chat.settings_actions import SettingsActions
from glmtui.ui.panels import status_text


class MemoryActions(SettingsActions):
    """The actions on memory; a part of `chat_screen.ChatScreen`."""

    def action_stats(self) -> None:
        """Shows the details."""
        from glmtui.ui.panels.stats import StatsPanel, stats_page

        def made(width: int) -> Content:
            memories = status_text.device_memories(self.session, self.memories)
            return stats_page(self.session.conversation.path, memories, width)

        self.app.push_screen(StatsPanel(made))

    def action_keep(self, count: str = "") -> None:
        """Keeps the last turns in the prompt, or all that fit. Raises ConfigError."""
        turns = config.parse_setting("keep_turns", count)
        assert turns is None or isinstance(turns, int)
        self.session.keep_turns = turns
        if turns is None:
            text = _("The model is given all turns that fit.")
        else:
            text = ngettext(
                "The model is given the last turn only; nothing is deleted.",
                "The model is given the last {count} turns only; nothing is deleted.",
                turns,
            ).format(count=turns)
        self.app.tell(text)

    def action_quant(self, kind: str) -> None:
        """Loads the model again, held in another way. Raises ConfigError, UsageError."""
        quant = str(config.parse_setting("load.quant", kind))
        if not self.session.model_name:
            raise UsageError(_("There is no model to load again."))
        self.app.settings = replace(self.app.settings, quant=quant)
        self.app.use_model(self.session.model_name)

    def action_clear(self) -> None:
        """An empty page; the KV cache's memory goes back."""
        self.app.new_conversation()
        self.session.forget()
        self.app.tell(_("The KV cache is given back; the conversation is saved."))
