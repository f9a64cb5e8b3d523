"""SettingsActions: how replies are sampled and who the model is, by panel or by command."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from glmtui import config
from glmtui.errors import UsageError
from glmtui.setting import Value
from glmtui.ui.chat_view import ChatView

if TYPE_CHECKING:
    from glmtui.ui.panel import SettingRow


class SettingsActions(ChatView):
    """The actions on settings; a part of `chat_screen.ChatScreen`."""

    def action_settings(self) -> None:
        """Shows the panel and goes there, or hides it."""
        if self.panel is not None and self.panel.display:
            self.panel.display = False
            self.prompt.focus()
        else:
            panel = self.show_panel()
            panel.call_after_refresh(panel.focus_first)  # when its rows are there

    def on_setting_row_changed(self, event: SettingRow.Changed) -> None:
        """A field of the panel was filled in."""
        self._change(event.name, event.value)

    def action_set(self, text: str = "") -> None:
        """Changes one setting, from "NAME VALUE". Raises ConfigError."""
        name, _, value = text.partition(" ")
        self._change(config.find(name).name, config.parse_setting(name, value))
        self.app.tell(f"{name}: {value.strip() or 'as the model has it'}, from the next reply on.")

    def action_system(self, text: str = "") -> None:
        """Changes the system prompt."""
        self._change("system_prompt", text or None)
        self.app.tell("The system prompt is in force from the next reply on.")

    def _change(self, name: str, value: Value) -> None:
        session = self.session
        if name == "system_prompt":
            session.change(system=None if value is None else str(value))
        elif any(name == row.name for row in config.SAMPLING_FIELDS):
            values: dict[str, Any] = {name: value}
            session.change(params=replace(session.conversation.params, **values))
        else:
            raise UsageError(f"{name} cannot be changed while the app runs.")
