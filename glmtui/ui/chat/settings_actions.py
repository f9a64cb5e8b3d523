"""SettingsActions: how replies are sampled and who the model is, by panel or by command."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from glmtui import config
from glmtui.config import presets
from glmtui.config.schema import Value
from glmtui.errors import UsageError
from glmtui.language import _
from glmtui.ui.chat.view import ChatView

if TYPE_CHECKING:
    from glmtui.ui.panels.settings_panel import PresetRow, SettingRow


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
        name, _space, value = text.partition(" ")
        self._change(config.find(name).name, config.parse_setting(name, value))
        text = _("{name}: {value}, from the next reply on.")
        self.app.tell(text.format(name=name, value=value.strip() or _("as the model has it")))

    def action_preset(self, text: str = "") -> None:
        """Takes on a preset, saves one, or names them all. Raises UsageError, ConfigError."""
        word, _space, rest = text.partition(" ")
        params = self.session.conversation.params
        if word == "save" and rest.strip():
            path = presets.save(rest.strip(), params)
            if self.panel is not None:
                self.panel.preset.reload()
            self.app.tell(_("Saved to {path}.").format(path=path))
        elif text:
            self._take_on(text.strip())
        else:
            known, problems = presets.load()
            self.app.tell_notice("presets", "\n".join(map(str, problems)))
            now = presets.name_of(params, known) or _("none of them")
            words = _("Presets: {names}. In force: {now}.")
            self.app.tell(words.format(names=", ".join(known), now=now))

    def on_preset_row_chosen(self, event: PresetRow.Chosen) -> None:
        """A preset was named in the panel."""
        self.session.change(params=presets.find(event.name))

    def _take_on(self, name: str) -> None:
        self.session.change(params=presets.find(name))
        self.app.tell(_("{name}: from the next reply on.").format(name=name))

    def action_system(self, text: str = "") -> None:
        """Changes the system prompt."""
        self._change("system_prompt", text or None)
        self.app.tell(_("The system prompt is in force from the next reply on."))

    def _change(self, name: str, value: Value) -> None:
        session = self.session
        if name == "system_prompt":
            session.change(system=None if value is None else str(value))
        elif any(name == row.name for row in config.SAMPLING_FIELDS):
            values: dict[str, Any] = {name: value}
            session.change(params=replace(session.conversation.params, **values))
        else:
            raise UsageError(_("{name} cannot be changed while the app runs.").format(name=name))
