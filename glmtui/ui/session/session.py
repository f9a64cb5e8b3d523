"""Session: the conversation in view and the reply being written to it.

Send, stop, continue, regenerate and edit are one path: the conversation is edited, saved, and a
Request goes to the engine; its events come back here, pieces of text through a buffer that the
screen drains. Knows the engine's face and the saver; of the screen only a `ReplyView`.
"""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from glmtui.chat import Conversation, FinishReason, Message, SamplingParams, last_turns, with_tools
from glmtui.engine.api import (
    Delta,
    Engine,
    Event,
    Failed,
    Finished,
    LoadedInfo,
    LoadFailed,
    Loading,
    LoadOptions,
    Prefilling,
    Ready,
    Reply,
    Request,
    ServerSpec,
    Target,
    ToolCall,
)
from glmtui.errors import GlmtuiError
from glmtui.net.addresses import shown_name
from glmtui.sanitize import one_line, visible
from glmtui.ui.session.deletions import Deletions
from glmtui.ui.session.reply_state import NullView, ReplyState, ReplyView, left_out, places
from glmtui.ui.session.safe_conversation import made_visible, sanitized
from glmtui.ui.session.saver import Saver

SAVE_SECONDS = 0.7  # with a late frame and a slow disk, still within a second


class Session:
    """What is said, what is being said, and to which model.

    Args:
        soon: calls a function on the thread that owns this session; called from other threads.
        changed: called whenever something that `ReplyView` does not show may have changed.
        offered: the tools declared to a model that calls tools, asked for before each request.
        called: hears of a reply that is a tool call; `answer` answers it.

    Attributes:
        conversation: the one in view.
        run: the reply being written, if any.
        model: the model that answers; None while none is in memory.
        loading: name and fraction of the model being loaded.
        load_error, reply_error: what last went wrong; None once it goes right.
        model_name: what it was asked for by; "" for none.
        answered, stopped: whether a reply has ended since this conversation was opened, and
            whether that was by the user.
        keep_turns: how many of the last turns go into a prompt; None for all that fit.
        cached_tokens: how many the model's KV cache held at the end of the last reply.
        dropped_turns: how many of the oldest messages did not fit into the last prompt.
    """

    def __init__(
        self,
        conversation: Conversation,
        saver: Saver,
        view: ReplyView,
        *,
        soon: Callable[[Callable[[], None]], None],
        changed: Callable[[], None],
        offered: Callable[[], Sequence[Mapping[str, Any]]] = tuple,
        called: Callable[[ToolCall], None] = lambda call: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.conversation = conversation
        self.run: ReplyState | None = None
        self.model: LoadedInfo | None = None
        self.loading: tuple[str, float] | None = None
        self.load_error: GlmtuiError | None = None
        self.reply_error: GlmtuiError | None = None
        self.model_name = self._target_name = ""
        self.answered = self.stopped = False
        self.dropped_turns = self.cached_tokens = 0
        self.keep_turns: int | None = None
        self._engine: Engine | None = None
        self._saver = saver
        self._view = view
        self._soon = soon
        self._changed = changed
        self._offered = offered
        self._called = called
        self._clock = clock
        self._buffer: deque[Delta] = deque()
        self._deletions = Deletions()
        self._ids = itertools.count(1)

    def attach(self, engine: Engine) -> None:
        """Who answers; questions asked before wait."""
        self._engine = engine

    # ---- what is in view

    def open(self, conversation: Conversation) -> None:
        """Another conversation; a reply being written is cut and kept in its own."""
        self.cut()
        self._deletions.forget()
        self.conversation = sanitized(conversation)
        self.reply_error, self.dropped_turns = None, 0
        self.answered = self.stopped = False
        self._show(self.conversation.path)
        self._changed()

    def change(self, **values: SamplingParams | str | bool | None) -> None:
        """Puts `params`, `system`, `title` or `pinned` into the conversation, from now on."""
        self.conversation = replace(self.conversation, **values)  # type: ignore[arg-type]
        if self.conversation.messages:
            self._saver.save(self.conversation)
        self._changed()

    @property
    def answering(self) -> str:
        """The name of the model in memory, or the one that was asked for."""
        return one_line(self.model.name if self.model else shown_name(self.model_name))

    def load(self, target: Target, name: str, options: LoadOptions) -> None:
        """Loads a model in place of the one there is; a question that waits is answered by it."""
        if self.run is not None and self.run.working:
            self.cut()
        self._take_back()
        assert self._engine is not None
        self.model, self.loading, self.load_error = None, (shown_name(name), 0.0), None
        self.model_name = name
        self._target_name = target.url if isinstance(target, ServerSpec) else target.name
        self._engine.load(target, options)
        self._changed()

    def forget(self) -> None:
        """Gives the memory of the model's KV cache back."""
        self.cached_tokens = 0
        if self._engine is not None:
            self._engine.forget()
        self._changed()

    # ---- branches; none of it while a reply is written

    def switch(self, message_id: str) -> None:
        """The branch through this message."""
        self._turn_to(self.conversation.switch(message_id))

    def delete(self, message_id: str) -> int:
        """Takes out a message with all that follows it. Returns how many went."""
        before = len(self.conversation.messages)
        self._turn_to(self._deletions.delete(self.conversation, message_id))
        return before - len(self.conversation.messages)

    @property
    def can_undo(self) -> bool:
        """Whether what was deleted last can come back: the conversation has not gone on since."""
        return self._deletions.can_undo(self.conversation)

    def undo(self) -> str | None:
        """Brings back what was deleted last. Returns its id; None where nothing came back."""
        conversation, message_id = self._deletions.undo(self.conversation)
        if message_id is not None:
            self._turn_to(conversation)
        return message_id

    def _turn_to(self, conversation: Conversation) -> None:
        self.conversation, self.reply_error = conversation, None
        self._show(conversation.path)
        self._saver.save(conversation)
        self._changed()

    # ---- one reply: five ways in, one path

    def ask(self, text: str, editing: str | None = None) -> None:
        """A question, or other words for the one whose id is `editing`."""
        if editing is None:
            self._say(Message("user", visible(text)))
        else:
            self.conversation = self.conversation.edit(editing, visible(text))
            self._show(self.conversation.path)
            self._reply()

    def answer(self, text: str) -> None:
        """What came of the tool that the last reply calls."""
        self._say(Message("observation", visible(text)))

    def _say(self, message: Message) -> None:
        self.conversation = self.conversation.add(message)
        said = self.conversation.path[-1]
        self._view.begin(said, None)
        self._view.finish(said)
        self._reply()

    def regenerate(self, message_id: str | None = None) -> bool:
        """Answers the last question again, or the one that this message is or answers.

        Returns: False where there is no question.
        """
        path = self.conversation.path
        end = next((n for n, m in enumerate(path, 1) if m.id == message_id), len(path))
        asked = next((n for n in range(end, 0, -1) if path[n - 1].role != "assistant"), 0)
        if not asked:
            return False
        if asked < len(path):  # a reply may be a remark and a tool call: two messages
            self.conversation = self.conversation.rewind(path[asked].id)
            self._show(self.conversation.path)
        self._reply()
        return True

    def go_on(self) -> bool:
        """Continues the last reply from where it stops. False where there is none."""
        path = self.conversation.path
        if not path or path[-1].role != "assistant" or not path[-1].content:
            return False
        self._show(path[:-1])
        self._reply(replace(path[-1], finish_reason=None, stats=None, error=""))
        return True

    def _reply(self, begun: Message | None = None) -> None:
        self.reply_error, self.stopped = None, False
        name = shown_name(self.model_name)
        asked = replace(self.conversation, model=name or self.conversation.model)
        self.conversation = asked
        if begun is None:
            self.conversation = asked.add(Message("assistant", "", model=self.answering))
            begun = self.conversation.path[-1]
        # A reply that failed before its first word says nothing to the model.
        prompt = tuple(m for m in asked.prompt if m.content or m.metadata or m.role != "assistant")
        prompt = prompt if self.keep_turns is None else last_turns(prompt, self.keep_turns)
        request = Request(next(self._ids), prompt, asked.params)
        run = self.run = ReplyState(request, begun, saved_at=self._clock())

        def saved() -> None:
            run.on_disk = True
            self._submit()

        self._saver.save(asked, lambda: self._soon(saved))
        self._view.begin(begun, places(self.conversation).get(begun.id))
        self._changed()

    def _submit(self) -> None:
        """Hands the reply to the engine once its question is on disk and there is a model."""
        run, engine, model = self.run, self._engine, self.model
        if engine is None or model is None or run is None or run.submitted or not run.on_disk:
            return
        run.submitted = True
        tools = self._offered() if model.calls_tools else ()
        engine.submit(replace(run.request, messages=with_tools(run.request.messages, tools)))

    def _take_back(self) -> None:
        """A reply that the engine has not begun waits for another model, under another id."""
        run = self.run
        if run is not None and run.submitted:
            self._cancel(run)
            run.request = replace(run.request, id=next(self._ids))
            run.submitted = False

    def _show(self, messages: Sequence[Message]) -> None:
        self._view.show(messages, places(self.conversation))

    # ---- its end

    def stop(self) -> None:
        """Stops the reply and keeps what there is of it."""
        run = self.run
        if run is None:
            return
        if run.stopping or not run.working:  # asked twice, or the engine is busy with a load
            self.cut()
        else:
            run.stopping = True
            self._cancel(run)
        self._changed()

    def close(self) -> None:
        """Ends the reply, if one is being written, and saves what there is; the view is no more."""
        self._view, self._changed = NullView(), lambda: None
        self.cut()

    def _cancel(self, run: ReplyState) -> None:
        if self._engine is not None and run.submitted:
            self._engine.cancel(run.request.id)

    def cut(self) -> None:
        """Ends the reply here and now, if one is being written; what still comes is not heard."""
        if self.run is not None:
            self._cancel(self.run)
            self._end("cancelled")

    def _end(
        self,
        reason: FinishReason,
        reply: Reply | None = None,
        error: GlmtuiError | None = None,
    ) -> None:
        """Every reply ends here. `reply` is None where the engine was not waited for."""
        self.drain()
        run, self.run = self.run, None
        assert run is not None
        added = "".join(run.pieces) + run.stream.end() if reply is None else visible(reply.text)
        message = replace(
            run.message,
            content=run.message.content + added,
            model=self.answering,
            finish_reason=reason,
            stats=reply.stats if reply else None,
            error=visible(str(error)) if error else "",
        )
        self.reply_error, self.answered, self.stopped = error, True, reason == "cancelled"
        if reply is not None:
            self.cached_tokens = reply.stats.prompt_tokens + reply.stats.generated_tokens
        self.dropped_turns = reply.dropped_turns if reply else self.dropped_turns
        said = [made_visible(m) for m in reply.messages] if reply else []
        if self.stopped and not message.content and len(said) < 2:  # nothing was said
            self.conversation = self.conversation.delete(message.id)
            self._saver.save(self.conversation)
            self._show(self.conversation.path)
        else:
            self.conversation = self.conversation.replace_reply(message, said)
            self._saver.save(self.conversation)  # before it is shown, which may fail
            self._finish(message.id, left_out(reply.dropped_turns) if reply else "")
        self._changed()

    def _finish(self, message_id: str, note: str) -> None:
        """Shows a reply's messages as they are at its end: mostly one, of this id."""
        path = self.conversation.path
        first = next(n for n, message in enumerate(path) if message.id == message_id)
        for message in path[first:]:
            if message.id != message_id:
                self._view.begin(message, None)
            self._view.finish(message, note if message is path[-1] else "")

    # ---- what the engine says

    def hear(self, event: Event) -> None:
        """Takes an event, on any thread, and returns at once."""
        if isinstance(event, Delta):
            self._buffer.append(event)
        else:
            self._soon(lambda: self._handle(event))

    def drain(self, *, show: bool = True) -> None:
        """Takes the text that has come since, and saves the partial reply about once a second.

        Args:
            show: whether it goes to the view now; else it does with the next that does.
        """
        run, now, pieces = self.run, self._clock(), []
        for _more in range(len(self._buffer)):  # what comes meanwhile is for the next time
            delta = self._buffer.popleft()
            if run and delta.request_id == run.request.id:
                pieces.append(delta.text)
        if run is None:
            return
        if pieces:
            run.began = run.began or now
            run.count += len(pieces)
            text = run.stream.feed("".join(pieces))
            run.pieces.append(text)
            run.unseen.append(text)
        if show and run.unseen:
            self._view.append("".join(run.unseen))
            run.unseen.clear()
        if run.count > run.saved_count and now - run.saved_at >= SAVE_SECONDS:
            run.saved_at, run.saved_count = now, run.count
            self.conversation = self.conversation.replace_message(run.written)
            self._saver.save(self.conversation)

    def _handle(self, event: Event) -> None:
        run = self.run
        if isinstance(event, Loading):
            if event.name == self._target_name and self.loading:  # else of one given up
                self.loading = (self.loading[0], event.fraction)
        elif isinstance(event, Ready):
            self.model, self.loading, self.load_error = event.model, None, None
            self.cached_tokens = 0
            self._submit()
        elif isinstance(event, LoadFailed):
            self.model, self.loading, self.load_error = None, None, event.error
            self._take_back()
        elif run is None or event.request_id != run.request.id:
            return  # late: the reply was cut, or the conversation left
        elif isinstance(event, Prefilling):
            run.prefill = event.progress
        elif isinstance(event, Finished):
            self._end(event.reply.finish_reason, event.reply)
            if event.reply.call is not None:
                self._called(event.reply.call)
        elif isinstance(event, Failed):
            self._end("error", event.partial, event.error)
        self._changed()
