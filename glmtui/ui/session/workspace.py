"""Workspace: the settings, the session and the saved conversations of one running chat.

The chat screen and the plain chat are both built on it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

from glmtui.chat import Conversation
from glmtui.config import Settings
from glmtui.engine.api import Engine, Event, ToolCall
from glmtui.errors import StoreError
from glmtui.logs import log_unexpected
from glmtui.store import Store
from glmtui.system import paths
from glmtui.ui.session.drafts import PromptDrafts
from glmtui.ui.session.library import Library
from glmtui.ui.session.reply_state import ReplyView
from glmtui.ui.session.saver import Saver
from glmtui.ui.session.session import Session

ENGINE_CLOSE_SECONDS = 0.3
"""How long `close` waits for the engine's thread. A thread that is inside torch can take much
longer; the process then ends without it."""
SAVER_CLOSE_SECONDS = 5.0
"""How long `close` waits for the disk: enough for a slow network disk."""

EngineFactory = Callable[[Callable[[Event], None]], Engine]
"""Makes a started engine that sends its events to the given function."""


class FrontEnd(Protocol):
    """What a Workspace needs of the screen or the plain chat that shows it."""

    def call_soon(self, callback: Callable[[], None]) -> None:
        """Calls `callback` on the thread that owns the session. Any thread may call this."""
        ...

    def on_session_change(self) -> None:
        """Updates whatever shows the session's state, apart from the ReplyView."""
        ...

    def on_save_error(self, error: StoreError | None) -> None:
        """Shows why saving fails; None when it works again."""
        ...

    def on_copy(self, reason: StoreError) -> None:
        """Says that the conversation continues in a copy, and why."""
        ...

    def discard_conversation(self) -> None:
        """Replaces the conversation in view, which is deleted next, with an empty one."""
        ...

    def tool_declarations(self) -> Sequence[Mapping[str, Any]]:
        """The tools for the next request, as JSON schemas."""
        ...

    def on_tool_call(self, call: ToolCall) -> None:
        """Handles a reply that calls a tool."""
        ...


class Workspace:
    """What a running chat has besides its front end.

    Args:
        view: shows the conversation.

    Attributes:
        save_error: why saving fails at present; None while it works.
    """

    def __init__(
        self,
        settings: Settings,
        store: Store,
        engine_factory: EngineFactory,
        view: ReplyView,
        front_end: FrontEnd,
    ) -> None:
        self.settings = settings
        self.store = store
        self.engine: Engine | None = None
        self.save_error: StoreError | None = None
        self._engine_factory = engine_factory
        self._front_end = front_end
        call_soon = front_end.call_soon
        self.saver = Saver(
            store,
            lambda error: call_soon(lambda: self._on_save_error(error)),
            lambda name, reason: call_soon(lambda: self._on_copy(name, reason)),
        )
        self.drafts = PromptDrafts(paths.state_dir(), self.saver.call)
        self.session = Session(
            self.new_conversation(),
            self.saver,
            view,
            call_soon=call_soon,
            on_change=front_end.on_session_change,
            tool_declarations=front_end.tool_declarations,
            on_tool_call=front_end.on_tool_call,
        )
        self.session.keep_turns = settings.keep_turns
        self.library = Library(store, self.session, front_end.discard_conversation)

    # ---- the engine and its model

    def start_engine(self) -> None:
        """Starts the engine, which imports its libraries: this takes a moment."""
        self.engine = self._engine_factory(self.session.on_event)
        self.session.attach(self.engine)

    def first_model(self) -> str:
        """The name of the model to load at the start; "" where none is installed."""
        from glmtui.engine.catalog import resolver
        from glmtui.engine.catalog.known_models import DEFAULT_MODEL

        if name := self.settings.model or self.session.conversation.model:
            return name
        installed = [model.name for model in resolver.installed_models()]
        if DEFAULT_MODEL in installed:
            return DEFAULT_MODEL
        return installed[0] if installed else ""

    def load_model(self, name: str) -> None:
        """Begins to load the model with this name, path or address.

        Raises:
            ModelNotFound: no installed model and no server has this name.
            GlmtuiError: the model cannot be used.
        """
        from glmtui.engine.catalog import resolver

        options = self.settings.load_options
        target = resolver.resolve(name, self.settings.server_specs(), options.family)
        self.session.load(target, name, options)

    # ---- the conversation in view

    def new_conversation(self) -> Conversation:
        """An empty conversation with the system prompt and sampling of the settings."""
        return Conversation.new(system=self.settings.system_prompt, params=self.settings.sampling)

    def open(self, conversation: Conversation) -> None:
        """Shows another conversation. Other programs may then open the previous one."""
        previous = self.session.conversation
        self.session.open(conversation)
        self.saver.release(previous.id)

    def fork(self) -> None:
        """Continues in a copy; the original stays as it is on disk."""
        self.session.end_reply()
        self.saver.discard(self.session.conversation.id)
        self.session.open(self.session.conversation.fork())
        self.session.update()

    def discard_conversation(self) -> None:
        """Shows an empty conversation; what is not yet saved of the previous one is dropped."""
        previous = self.session.conversation
        self.session.open(self.new_conversation())
        self.saver.discard(previous.id)
        self.saver.wait(SAVER_CLOSE_SECONDS)

    # ---- what the saver's thread reports

    def _on_save_error(self, error: StoreError | None) -> None:
        self.save_error = error
        self._front_end.on_save_error(error)

    def _on_copy(self, conversation_id: str, reason: StoreError) -> None:
        copy_id = self.saver.pop_copy_id(conversation_id)
        if copy_id and self.session.conversation.id == conversation_id:
            self.session.conversation = replace(self.session.conversation, id=copy_id)
        self._front_end.on_copy(reason)

    # ---- the end

    def close(self) -> tuple[bool, tuple[Conversation, ...]]:
        """Ends the reply, the engine, the saver and the store. A disk that hangs is not waited for.

        Returns:
            Whether the threads of the engine and the saver have ended, and the conversations that
            could not be saved.
        """
        try:
            self.session.close()
        except Exception as fault:  # a bug; the conversations must be saved all the same
            log_unexpected(fault)
        ended = self.engine is None or self.engine.close(ENGINE_CLOSE_SECONDS)
        unsaved = self.saver.close(SAVER_CLOSE_SECONDS, self._close_files)
        return ended and self.saver.ended, unsaved

    def _close_files(self) -> None:
        self.drafts.close()
        self.store.close()
