"""ChatCommands: what the slash commands do in the chat screen and in the plain chat alike.

Knows the workspace, but neither front end.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from glmtui import config
from glmtui.config import presets
from glmtui.errors import UsageError
from glmtui.language import _, ngettext
from glmtui.ui.panels import status_text
from glmtui.ui.session.export import export
from glmtui.ui.session.workspace import Workspace


class ChatCommands:
    """The commands that the screen and the plain chat have in common.

    Most methods return the text to show.

    Where nothing can be done, the text says why; "" means that there is nothing to say. Arguments
    are what the user typed after the command. A wrong argument raises a GlmtuiError.
    """

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self._session = workspace.session

    # ---- the conversation

    def title(self, title: str = "") -> str:
        if title:
            self._session.update(title=title)
        return status_text.conversation_title(self._session.conversation)

    def pin(self) -> str:
        """Pins or unpins the conversation."""
        if not self._session.conversation.messages:
            return _empty()
        pinned = not self._session.conversation.pinned
        self._session.update(pinned=pinned)
        return _("Pinned.") if pinned else _("Unpinned.")

    def trash(self) -> str:
        """Moves the conversation to the trash. Raises StoreError."""
        conversation = self._session.conversation
        if not conversation.messages:
            return _empty()
        title = status_text.conversation_title(conversation)
        self._workspace.library.delete(conversation.id)
        return _("Deleted: {title}. /restore restores it.").format(title=title)

    def fork(self) -> str:
        self._workspace.fork()
        return _("You continue in a copy of the conversation.")

    def export(self, file: str = "") -> str:
        """Writes the conversation to a new file. Raises StoreError."""
        conversation = self._session.conversation
        if not conversation.messages:
            return _empty()
        path = export(conversation, Path(file).expanduser() if file else None)
        return _("Exported to {path}").format(path=path)

    # ---- its messages

    def delete(self, message_id: str) -> str:
        return status_text.deletion_notice(self._session.delete(message_id))

    def regenerate(self) -> str:
        """Answers the last question again."""
        return "" if self._session.regenerate() else _("No question to answer yet.")

    def continue_reply(self) -> str:
        return "" if self._session.continue_reply() else _("No reply to continue.")

    # ---- settings

    def set(self, text: str) -> str:
        """Changes one setting of the conversation, from "NAME VALUE"."""
        name, _space, value_text = text.partition(" ")
        row, value = config.find_setting(name), config.parse_setting(name, value_text)
        if row not in config.SAMPLING_FIELDS and row.name != "system_prompt":
            raise UsageError(_("{name} cannot be changed while glmtui runs.").format(name=name))
        self._session.set_value(row.name, value)
        text = _("{name}: {value}, from the next reply.")
        return text.format(name=name, value=value_text.strip() or _("model default"))

    def system(self, text: str = "") -> str:
        self._session.update(system=text or None)
        return _("The system prompt applies from the next reply.")

    def preset(self, text: str) -> str:
        """Applies a preset, or saves the current values as one, from "NAME" or "save NAME".

        Raises:
            UsageError: there is no such preset.
        """
        word, _space, name = text.partition(" ")
        if word == "save" and name.strip():
            path = presets.save_preset(name.strip(), self._session.conversation.params)
            return _("Saved to {path}.").format(path=path)
        self._session.update(params=presets.find_preset(text.strip()))
        return _('Preset "{name}" applies from the next reply.').format(name=text.strip())

    def list_presets(self) -> tuple[str, str]:
        """The presets and the current one; and what is wrong with the presets' file."""
        found, problems = presets.load_presets()
        current = presets.preset_name(self._session.conversation.params, found) or _("none")
        text = _("Current preset: {current}. Presets: {names}")
        text = text.format(names=", ".join(found), current=current)
        return text, "\n".join(map(str, problems))

    def keep(self, count: str = "") -> str:
        """Limits the prompt to the last turns; without a count, to what fits."""
        turns = config.parse_setting("keep_turns", count)
        assert turns is None or isinstance(turns, int)
        self._session.keep_turns = turns
        if turns is None:
            return _("The prompt contains all turns that fit.")
        return ngettext(
            "The prompt contains only the last turn. Nothing is deleted.",
            "The prompt contains only the last {count} turns. Nothing is deleted.",
            turns,
        ).format(count=turns)

    def set_quant(self, kind: str) -> str:
        """Sets the quantisation of the weights. Returns the name of the model to load again."""
        quant = str(config.parse_setting("load.quant", kind))
        if not self._session.model_name:
            raise UsageError(_("No model is loaded."))
        self._workspace.settings = replace(self._workspace.settings, quant=quant)
        return self._session.model_name


def _empty() -> str:
    return _("This conversation is empty.")
