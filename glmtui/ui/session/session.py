"""Session: the conversation in view, the model, and the reply that is being written.

Send, stop, continue, regenerate and edit are one path: the conversation is edited and saved, then a
Request goes to the engine. Its events come back to `on_event`; text goes through a buffer that the
front end drains.
"""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from glmtui.chat import Conversation, FinishReason, Message, SamplingParams, last_turns, with_tools
from glmtui.config.setting_type import Value
from glmtui.engine.api import (
    Delta,
    Engine,
    Event,
    Failed,
    Finished,
    LoadFailed,
    Loading,
    Prefilling,
    Ready,
    Reply,
    Request,
    ToolCall,
)
from glmtui.engine.model_info import LoadedInfo, LoadOptions, ServerSpec, Target
from glmtui.errors import GlmtuiError
from glmtui.net.addresses import redact_if_url
from glmtui.sanitize import sanitize, sanitize_line
from glmtui.ui.session.deletions import Deletions
from glmtui.ui.session.reply_state import NullView, ReplyState, ReplyView, dropped_note, places
from glmtui.ui.session.safe_conversation import sanitized, sanitized_message
from glmtui.ui.session.saver import Saver


class Session:
    """A conversation with a model. All methods but `on_event` belong to one thread.

    Args:
        call_soon: calls a function on that thread; is called from any thread.
        on_change: called when something may have changed that `ReplyView` does not show.
        tool_declarations: the tools for a model that can call tools; asked before each request.
        on_tool_call: called with the tool call that a reply ends with; `answer_tool_call` answers.

    Attributes:
        reply: the reply that is being written; None between replies.
        model: the loaded model; None while there is none.
        loading: name and fraction of the model that is being loaded.
        load_error, reply_error: the last error; None after the next success.
        model_name: the name that the model was requested by; "" for none.
        has_replied: whether a reply has ended since the conversation was opened.
        was_stopped: whether the user stopped the last one.
        keep_turns: the number of last turns that go into a prompt; None for all that fit.
        cached_tokens: tokens in the model's KV cache at the end of the last reply.
        dropped_turns: number of oldest messages that the last prompt had no room for.
    """

    def __init__(
        self,
        conversation: Conversation,
        saver: Saver,
        view: ReplyView,
        *,
        call_soon: Callable[[Callable[[], None]], None],
        on_change: Callable[[], None],
        tool_declarations: Callable[[], Sequence[Mapping[str, Any]]] = tuple,
        on_tool_call: Callable[[ToolCall], None] = lambda call: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.conversation = conversation
        self.reply: ReplyState | None = None
        self.model: LoadedInfo | None = None
        self.loading: tuple[str, float] | None = None
        self.load_error: GlmtuiError | None = None
        self.reply_error: GlmtuiError | None = None
        self.model_name = self._target_name = ""
        self.has_replied = self.was_stopped = False
        self.dropped_turns = self.cached_tokens = 0
        self.keep_turns: int | None = None
        self._engine: Engine | None = None
        self._saver = saver
        self._view = view
        self._call_soon = call_soon
        self._on_change = on_change
        self._tool_declarations = tool_declarations
        self._on_tool_call = on_tool_call
        self._clock = clock
        self._buffer: deque[Delta] = deque()
        self._deletions = Deletions()
        self._request_ids = itertools.count(1)

    # ---- the model

    def attach(self, engine: Engine) -> None:
        """Sets the engine. Questions asked before wait until a model is loaded."""
        self._engine = engine

    @property
    def model_display_name(self) -> str:
        """The name of the loaded model, or else of the requested one."""
        return sanitize_line(self.model.name if self.model else redact_if_url(self.model_name))

    def load(self, target: Target, name: str, options: LoadOptions) -> None:
        """Loads a model in place of the present one. A question that waits is answered by it."""
        if self.reply is not None and self.reply.started:
            self.end_reply()
        self._withdraw_request()
        assert self._engine is not None
        self.model, self.loading, self.load_error = None, (redact_if_url(name), 0.0), None
        self.model_name = name
        self._target_name = target.url if isinstance(target, ServerSpec) else target.name
        self._engine.load(target, options)
        self._on_change()

    def clear_cache(self) -> None:
        """Frees the memory of the model's KV cache."""
        self.cached_tokens = 0
        if self._engine is not None:
            self._engine.clear_cache()
        self._on_change()

    # ---- the conversation

    def open(self, conversation: Conversation) -> None:
        """Shows another conversation. A reply that is being written ends and is kept in its own."""
        self.end_reply()
        self._deletions.clear()
        self.conversation = sanitized(conversation)
        self.reply_error, self.dropped_turns = None, 0
        self.has_replied = self.was_stopped = False
        self._show(self.conversation.path)
        self._on_change()

    def update(self, **values: SamplingParams | str | bool | None) -> None:
        """Sets `params`, `system`, `title` or `pinned` of the conversation from now on."""
        self.conversation = replace(self.conversation, **values)  # type: ignore[arg-type]
        if self.conversation.messages:
            self._saver.save(self.conversation)
        self._on_change()

    def set_value(self, name: str, value: Value) -> None:
        """Sets a sampling parameter, or "system_prompt". None is the model's default."""
        if name == "system_prompt":
            self.update(system=None if value is None else str(value))
        else:
            values: dict[str, Any] = {name: value}
            self.update(params=replace(self.conversation.params, **values))

    # These change the branch in view. None of them may be called while a reply is being written.

    def switch(self, message_id: str) -> None:
        """Shows the branch with this message."""
        self._set_branch(self.conversation.switch(message_id))

    def delete(self, message_id: str) -> int:
        """Deletes a message and all that follow it. Returns the number of messages deleted."""
        before = len(self.conversation.messages)
        self._set_branch(self._deletions.delete(self.conversation, message_id))
        return before - len(self.conversation.messages)

    @property
    def can_undo(self) -> bool:
        """Whether the last deletion can be undone: no message was added since."""
        return self._deletions.can_undo(self.conversation)

    def undo(self) -> str | None:
        """Undoes the last deletion. Returns the message's id, or None if nothing can be undone."""
        conversation, message_id = self._deletions.undo(self.conversation)
        if message_id is not None:
            self._set_branch(conversation)
        return message_id

    def _set_branch(self, conversation: Conversation) -> None:
        self.conversation, self.reply_error = conversation, None
        self._show(conversation.path)
        self._saver.save(conversation)
        self._on_change()

    def _show(self, messages: Sequence[Message]) -> None:
        self._view.show(messages, places(self.conversation))

    # ---- a reply begins, in one of five ways

    def ask(self, text: str, editing: str | None = None) -> None:
        """Sends a question, or replaces the one with the id `editing` on a new branch."""
        if editing is None:
            self._add(Message("user", sanitize(text)))
        else:
            self.conversation = self.conversation.edit(editing, sanitize(text))
            self._show(self.conversation.path)
            self._begin_reply()

    def answer_tool_call(self, text: str) -> None:
        """Sends the result of the tool that the last reply calls."""
        self._add(Message("observation", sanitize(text)))

    def _add(self, message: Message) -> None:
        self.conversation = self.conversation.add(message)
        added = self.conversation.path[-1]
        self._view.begin(added, None)
        self._view.finish(added)
        self._begin_reply()

    def regenerate(self, message_id: str | None = None) -> bool:
        """Answers a question again: the last one, or the one that a message is or replies to.

        Returns:
            False if there is no question.
        """
        path = self.conversation.path
        end = next((n for n, m in enumerate(path, 1) if m.id == message_id), len(path))
        count = next((n for n in range(end, 0, -1) if path[n - 1].role != "assistant"), 0)
        if not count:
            return False
        if count < len(path):  # a reply may be two messages: a remark and a tool call
            self.conversation = self.conversation.rewind(path[count].id)
            self._show(self.conversation.path)
        self._begin_reply()
        return True

    def continue_reply(self) -> bool:
        """Continues the last reply at its end. Returns False if there is no reply."""
        path = self.conversation.path
        if not path or path[-1].role != "assistant" or not path[-1].content:
            return False
        self._show(path[:-1])
        self._begin_reply(replace(path[-1], finish_reason=None, stats=None, error=""))
        return True

    def _begin_reply(self, message: Message | None = None) -> None:
        """Begins a new reply, or continues this message."""
        self.reply_error, self.was_stopped = None, False
        name = redact_if_url(self.model_name)
        question = replace(self.conversation, model=name or self.conversation.model)
        self.conversation = question
        if message is None:
            reply_message = Message("assistant", "", model=self.model_display_name)
            self.conversation = question.add(reply_message)
            message = self.conversation.path[-1]
        # The model is not shown replies that failed before their first word.
        prompt = tuple(
            m for m in question.prompt if m.content or m.metadata or m.role != "assistant"
        )
        if self.keep_turns is not None:
            prompt = last_turns(prompt, self.keep_turns)
        request = Request(next(self._request_ids), prompt, question.params)
        reply = self.reply = ReplyState(request, message, saved_at=self._clock())

        def on_saved() -> None:
            reply.question_saved = True
            self._submit()

        self._saver.save(question, lambda: self._call_soon(on_saved))
        self._view.begin(message, places(self.conversation).get(message.id))
        self._on_change()

    def _submit(self) -> None:
        """Sends the request to the engine, once the question is on disk and a model is loaded."""
        reply, engine, model = self.reply, self._engine, self.model
        if engine is None or model is None or reply is None:
            return
        if reply.submitted or not reply.question_saved:
            return
        reply.submitted = True
        tools = self._tool_declarations() if model.calls_tools else ()
        messages = with_tools(reply.request.messages, tools)
        engine.submit(replace(reply.request, messages=messages))

    def _withdraw_request(self) -> None:
        """Has a reply that the engine has not begun wait for the next model."""
        reply = self.reply
        if reply is not None and reply.submitted:
            self._cancel(reply)
            reply.request = replace(reply.request, id=next(self._request_ids))
            reply.submitted = False

    # ---- a reply ends

    def stop(self) -> None:
        """Stops the reply and keeps its text so far."""
        reply = self.reply
        if reply is None:
            return
        if reply.stopping or not reply.started:  # the second request, or the engine is loading
            self.end_reply()
        else:
            reply.stopping = True
            self._cancel(reply)
        self._on_change()

    def close(self) -> None:
        """Ends and saves the reply. The view is not used any more."""
        self._view, self._on_change = NullView(), lambda: None
        self.end_reply()

    def _cancel(self, reply: ReplyState) -> None:
        if self._engine is not None and reply.submitted:
            self._engine.cancel(reply.request.id)

    def end_reply(self) -> None:
        """Ends the reply, if there is one, without waiting for the engine. Late events are
        ignored."""
        if self.reply is not None:
            self._cancel(self.reply)
            self._end("cancelled")

    def _end(
        self,
        reason: FinishReason,
        engine_reply: Reply | None = None,
        error: GlmtuiError | None = None,
    ) -> None:
        """The end of every reply. `engine_reply` is None if the engine was not waited for."""
        self.drain()
        reply, self.reply = self.reply, None
        assert reply is not None
        error_text = sanitize(str(error)) if error else ""
        message = reply.final_message(self.model_display_name, reason, engine_reply, error_text)
        self.reply_error, self.has_replied = error, True
        self.was_stopped = reason == "cancelled"
        parts: list[Message] = []
        note = ""
        if engine_reply is not None:
            stats = engine_reply.stats
            self.cached_tokens = stats.prompt_tokens + stats.generated_tokens
            self.dropped_turns = engine_reply.dropped_turns
            parts = [sanitized_message(m) for m in engine_reply.messages]
            note = dropped_note(engine_reply.dropped_turns)
        if self.was_stopped and not message.content and len(parts) < 2:  # an empty reply
            self.conversation = self.conversation.delete(message.id)
            self._saver.save(self.conversation)
            self._show(self.conversation.path)
        else:
            self.conversation = self.conversation.replace_reply(message, parts)
            self._saver.save(self.conversation)  # before it is shown, which may fail
            self._show_end(message.id, note)
        self._on_change()

    def _show_end(self, message_id: str, note: str) -> None:
        """Shows the final messages of a reply: usually one, with this id."""
        path = self.conversation.path
        first = next(n for n, message in enumerate(path) if message.id == message_id)
        for message in path[first:]:
            if message.id != message_id:
                self._view.begin(message, None)
            self._view.finish(message, note if message is path[-1] else "")

    # ---- events of the engine

    def on_event(self, event: Event) -> None:
        """Takes an event on any thread and returns at once."""
        if isinstance(event, Delta):
            self._buffer.append(event)
        else:
            self._call_soon(lambda: self._handle(event))

    def drain(self, *, show: bool = True) -> None:
        """Takes the text received since the last call; saves the reply about once a second.

        Args:
            show: whether the text goes to the view now, or in a later call.
        """
        reply, now, texts = self.reply, self._clock(), []
        for _n in range(len(self._buffer)):  # what comes meanwhile waits for the next call
            delta = self._buffer.popleft()
            if reply and delta.request_id == reply.request.id:
                texts.append(delta.text)
        if reply is None:
            return
        reply.add(texts, now)
        if show and (text := reply.take_unseen()):
            self._view.append(text)
        if (partial := reply.take_unsaved(now)) is not None:
            self.conversation = self.conversation.replace_message(partial)
            self._saver.save(self.conversation)

    def _handle(self, event: Event) -> None:
        reply = self.reply
        if isinstance(event, Loading):
            if event.name == self._target_name and self.loading:  # else another was requested
                self.loading = (self.loading[0], event.fraction)
        elif isinstance(event, Ready):
            self.model, self.loading, self.load_error = event.model, None, None
            self.cached_tokens = 0
            self._submit()
        elif isinstance(event, LoadFailed):
            self.model, self.loading, self.load_error = None, None, event.error
            self._withdraw_request()
        elif reply is None or event.request_id != reply.request.id:
            return  # late: the reply has ended, or another conversation is open
        elif isinstance(event, Prefilling):
            reply.prefill = event.progress
        elif isinstance(event, Finished):
            self._end(event.reply.finish_reason, event.reply)
            if event.reply.call is not None:
                self._on_tool_call(event.reply.call)
        elif isinstance(event, Failed):
            self._end("error", event.partial, event.error)
        self._on_change()
