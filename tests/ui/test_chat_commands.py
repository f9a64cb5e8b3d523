"""ChatCommands: what commands do without a front end, and the texts they return."""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from glmtui.chat import Message
from glmtui.config import Settings
from glmtui.engine.api import ToolCall
from glmtui.errors import ConfigError, StoreError, UsageError
from glmtui.store import Store
from glmtui.ui.chat_commands import ChatCommands
from glmtui.ui.session.reply_state import NullView
from glmtui.ui.session.workspace import Workspace
from support.fake_engine import FakeEngine


class SilentFrontEnd:
    """A FrontEnd that shows nothing."""

    workspace: Workspace

    def __init__(self) -> None:
        self.callbacks: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()

    def call_soon(self, callback: Callable[[], None]) -> None:
        self.callbacks.put(callback)

    def on_session_change(self) -> None: ...

    def on_save_error(self, error: StoreError | None) -> None: ...

    def on_copy(self, reason: StoreError) -> None: ...

    def discard_conversation(self) -> None:
        self.workspace.discard_conversation()

    def tool_declarations(self) -> Sequence[Mapping[str, Any]]:
        return ()

    def on_tool_call(self, call: ToolCall) -> None: ...


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Workspace]:
    for name in ("DATA", "CONFIG", "CACHE", "STATE"):
        monkeypatch.setenv(f"GLMTUI_{name}_DIR", str(tmp_path / name.lower()))
    front_end = SilentFrontEnd()
    store = Store(tmp_path / "data/conversations")
    workspace = Workspace(Settings(), store, FakeEngine, NullView(), front_end)
    front_end.workspace = workspace
    workspace.start_engine()
    yield workspace
    assert workspace.close() == (True, ())


@pytest.fixture
def commands(workspace: Workspace) -> ChatCommands:
    return ChatCommands(workspace)


def add_question(workspace: Workspace) -> None:
    conversation = workspace.session.conversation.add(Message("user", "Why?"))
    workspace.session.open(conversation)
    workspace.session.update()  # saves it


def test_an_empty_conversation_has_nothing_to_pin_delete_or_export(commands: ChatCommands) -> None:
    empty = "This conversation is empty."
    assert (commands.pin(), commands.trash(), commands.export("x.md")) == (empty,) * 3
    assert commands.regenerate() == "No question to answer yet."
    assert commands.continue_reply() == "No reply to continue."


def test_a_conversation_is_pinned_and_unpinned(
    workspace: Workspace, commands: ChatCommands
) -> None:
    add_question(workspace)
    assert (commands.pin(), workspace.session.conversation.pinned) == ("Pinned.", True)
    assert (commands.pin(), workspace.session.conversation.pinned) == ("Unpinned.", False)


def test_a_deleted_conversation_is_replaced_and_can_be_restored(
    workspace: Workspace, commands: ChatCommands
) -> None:
    add_question(workspace)
    deleted = workspace.session.conversation.id
    workspace.saver.wait(10)
    assert commands.trash() == "Deleted: Why?. /restore restores it."
    assert workspace.session.conversation.messages == ()
    assert workspace.store.summaries() == []
    assert workspace.library.restore_last() == deleted
    assert workspace.store.load(deleted).path[0].content == "Why?"


def test_settings_change_the_conversation(workspace: Workspace, commands: ChatCommands) -> None:
    assert commands.set("temperature 0.3") == "temperature: 0.3, from the next reply."
    assert workspace.session.conversation.params.temperature == 0.3
    assert commands.set("temperature") == "temperature: model default, from the next reply."
    assert workspace.session.conversation.params.temperature is None
    commands.set("system_prompt Be brief.")
    assert workspace.session.conversation.system == "Be brief."
    commands.system()
    assert workspace.session.conversation.system is None
    with pytest.raises(ConfigError):
        commands.set("temperature 9")
    with pytest.raises(UsageError, match="cannot be changed"):
        commands.set("load.quant int8")


def test_presets_are_saved_applied_and_listed(workspace: Workspace, commands: ChatCommands) -> None:
    commands.set("top_k 7")
    assert commands.preset("save seven").startswith("Saved to ")
    commands.preset("precise")
    assert workspace.session.conversation.params.top_k != 7
    assert commands.preset("seven") == 'Preset "seven" applies from the next reply.'
    assert workspace.session.conversation.params.top_k == 7
    text, problems = commands.list_presets()
    assert text.startswith("Current preset: seven. ")
    assert problems == ""
    with pytest.raises(UsageError):
        commands.preset("none-such")


def test_the_prompt_is_limited_to_the_last_turns(
    workspace: Workspace, commands: ChatCommands
) -> None:
    assert "last 3 turns" in commands.keep("3")
    assert workspace.session.keep_turns == 3
    assert "all turns" in commands.keep()
    assert workspace.session.keep_turns is None


def test_without_a_model_there_is_none_to_load_again(
    workspace: Workspace, commands: ChatCommands
) -> None:
    with pytest.raises(UsageError, match="No model is loaded"):
        commands.set_quant("int8")
    assert workspace.settings.quant == "auto"
    workspace.load_model("http://fake.invalid/v1")
    assert commands.set_quant("int8") == "http://fake.invalid/v1"
    assert workspace.settings.quant == "int8"
