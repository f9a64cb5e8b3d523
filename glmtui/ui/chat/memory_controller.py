"""MemoryController: how full the devices are, what a reply cost, and ways to use less memory."""

from __future__ import annotations

from textual.content import Content

from glmtui.language import _
from glmtui.ui.chat.conversation_controller import ConversationController
from glmtui.ui.chat.host import Host
from glmtui.ui.chat.model_controller import ModelController
from glmtui.ui.chat_commands import ChatCommands
from glmtui.ui.panels import status_text
from glmtui.ui.panels.device_memory import DeviceMemory


class MemoryController:
    """The commands /stats, /keep, /quant and the warning when memory is low.

    Attributes:
        memories: the devices, as last measured.
    """

    def __init__(
        self,
        host: Host,
        commands: ChatCommands,
        models: ModelController,
        conversations: ConversationController,
    ) -> None:
        self.memories: tuple[DeviceMemory, ...] = ()
        self._host = host
        self._session = host.workspace.session
        self._commands = commands
        self._models = models
        self._conversations = conversations
        self._warned = False

    def warn(self) -> None:
        """Shows or removes the warning that memory will not suffice for the whole context."""
        warning = status_text.memory_warning(self._session, self.memories, self._host.key_hint)
        if bool(warning) != self._warned:  # only on a change: the user may have closed it
            self._warned = bool(warning)
            self._host.notice.set("memory", warning)

    def show_stats(self) -> None:
        from glmtui.ui.panels.stats import StatsPanel, stats_page

        def render(width: int) -> Content:
            memories = status_text.device_memories(self._session, self.memories)
            return stats_page(self._session.conversation.path, memories, width)

        self._host.open_dialog(StatsPanel(render))

    def keep(self, count: str = "") -> None:
        self._host.toast(self._commands.keep(count))

    def quant(self, kind: str) -> None:
        """Loads the model again with another quantisation."""
        self._models.load(self._commands.set_quant(kind))

    def clear(self) -> None:
        """Starts a new conversation and frees the KV cache."""
        self._conversations.new()
        self._session.clear_cache()
        self._host.toast(_("KV cache freed; the conversation is saved."))
