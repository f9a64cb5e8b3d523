"""SettingsController: sampling parameters and system prompt, from the panel and from commands."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from glmtui.config import presets
from glmtui.ui.chat.host import Host
from glmtui.ui.chat_commands import ChatCommands

if TYPE_CHECKING:
    from glmtui.ui.panels.settings_panel import SettingsPanel


class SettingsHost(Host, Protocol):
    """What SettingsController needs of the screen."""

    @property
    def narrow(self) -> bool:
        """Whether the window has no room for the panel beside the conversation."""
        ...

    def mount_panel(self, panel: SettingsPanel) -> None: ...


class SettingsController:
    """The settings panel and the commands that change settings.

    Attributes:
        panel: None until it is first shown.
    """

    def __init__(self, host: SettingsHost, commands: ChatCommands) -> None:
        self.panel: SettingsPanel | None = None
        self._host = host
        self._session = host.workspace.session
        self._commands = commands

    # ---- the panel

    def toggle_panel(self) -> None:
        """Shows the panel and moves the cursor there, or hides it."""
        if self.panel is not None and self.panel.display:
            self.panel.display = False
            self._host.prompt.focus()
        else:
            panel = self.show_panel()
            panel.call_after_refresh(panel.focus_first)  # its rows must be mounted before

    def show_panel(self) -> SettingsPanel:
        """Shows the panel and leaves the cursor where it is."""
        if self.panel is None:
            # imported when needed: its widgets take time
            from glmtui.ui.panels.settings_panel import SettingsPanel

            self.panel = SettingsPanel(
                on_value=self._session.set_value,
                on_preset=self.apply_preset,
                classes="-narrow" if self._host.narrow else "",
            )
            self._host.mount_panel(self.panel)
        self.panel.display = True
        self.refresh_panel()
        return self.panel

    def refresh_panel(self) -> None:
        """Shows the conversation's values, and the model's defaults beside them."""
        if self.panel is not None and self.panel.display:
            conversation, model = self._session.conversation, self._session.model
            defaults = model.defaults if model else type(conversation.params)()
            self.panel.show_values(conversation.params, conversation.system, defaults)

    def resize_panel(self, *, in_use: bool) -> None:
        """In a narrow window the panel gives way to the conversation, unless it is in use."""
        if self.panel is not None:
            narrow = self._host.narrow
            self.panel.set_class(narrow, "-narrow")
            self.panel.display = self.panel.display and (in_use or not narrow)

    def apply_preset(self, name: str) -> None:
        self._session.update(params=presets.find_preset(name))

    # ---- commands

    def set(self, text: str = "") -> None:
        self._host.toast(self._commands.set(text))

    def system(self, text: str = "") -> None:
        self._host.toast(self._commands.system(text))

    def preset(self, text: str = "") -> None:
        """Applies or saves a preset; without a name, lists them."""
        if text:
            self._host.toast(self._commands.preset(text))
            if self.panel is not None:
                self.panel.preset.reload()  # one may have been saved
        else:
            names, problems = self._commands.list_presets()
            self._host.notice.set("presets", problems)
            self._host.toast(names)
