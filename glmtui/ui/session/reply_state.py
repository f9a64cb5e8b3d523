"""ReplyState: one reply that is being written, and the ReplyView that shows it growing.

Plain data, which the session changes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol, TypeAlias

from glmtui.chat import Conversation, FinishReason, Message
from glmtui.engine.api import PrefillProgress, Reply, Request
from glmtui.language import ngettext
from glmtui.sanitize import StreamSanitizer, sanitize

SAVE_SECONDS = 0.7
"""Time between saves of a partial reply. With a late frame and a slow disk this is still within
one second."""

Place: TypeAlias = tuple[int, int]
"""Position of a message among its siblings in the tree, from 1, and the number of siblings."""


class ReplyView(Protocol):
    """What shows the conversation; `glmtui.ui.transcript.transcript.Transcript` is one."""

    def show(self, messages: Sequence[Message], places: Mapping[str, Place]) -> None:
        """Shows exactly these messages. `places` is by message id."""
        ...

    def begin(self, message: Message, place: Place | None) -> None:
        """Adds a message, to which `append` may add text."""
        ...

    def append(self, text: str) -> None:
        """Adds text to the message of the last `begin`."""
        ...

    def finish(self, message: Message, note: str = "") -> None:
        """Replaces the message of the last `begin` by its final state, with a note below it."""
        ...


class NullView:
    """A ReplyView that shows nothing, used after the screen is closed."""

    def show(self, messages: Sequence[Message], places: Mapping[str, Place]) -> None: ...

    def begin(self, message: Message, place: Place | None) -> None: ...

    def append(self, text: str) -> None: ...

    def finish(self, message: Message, note: str = "") -> None: ...


@dataclass(slots=True)
class ReplyState:
    """A reply that is being written. Times are those of the session's clock, in seconds.

    Attributes:
        request: its id comes back with every event.
        message: the reply before this request: empty, or the text that is continued.
        saved_at: when the partial reply was saved last.
        question_saved: whether the question is on disk, or could not be saved.
        submitted: whether the engine has the request.
        prefill: how much of the prompt is processed; None before the engine has begun.
        count: deltas received. A delta is one token, or several that form one character.
        first_delta_at: when the first delta came.
    """

    request: Request
    message: Message
    saved_at: float
    question_saved: bool = False
    submitted: bool = False
    stopping: bool = False
    prefill: PrefillProgress | None = None
    count: int = 0
    first_delta_at: float = 0.0
    _sanitizer: StreamSanitizer = field(default_factory=StreamSanitizer)
    _texts: list[str] = field(default_factory=list)
    _unseen: list[str] = field(default_factory=list)
    _saved_count: int = 0

    @property
    def started(self) -> bool:
        """Whether the engine has begun to work on it."""
        return self.prefill is not None or self.count > 0

    @property
    def partial_message(self) -> Message:
        """The reply with the text received so far."""
        return replace(self.message, content=self.message.content + "".join(self._texts))

    def tokens_per_second(self, now: float) -> float | None:
        """The rate since the first delta; None while there are too few."""
        if self.count < 2 or now <= self.first_delta_at:
            return None
        return (self.count - 1) / (now - self.first_delta_at)

    def add(self, texts: Sequence[str], now: float) -> None:
        """Adds the texts of deltas. This is where text of the model is sanitised."""
        if texts:
            self.first_delta_at = self.first_delta_at or now
            self.count += len(texts)
            text = self._sanitizer.feed("".join(texts))
            self._texts.append(text)
            self._unseen.append(text)

    def take_unseen(self) -> str:
        """The text added since the last call."""
        text = "".join(self._unseen)
        self._unseen.clear()
        return text

    def take_unsaved(self, now: float) -> Message | None:
        """The partial reply if it is time to save it again, else None."""
        if self.count == self._saved_count or now - self.saved_at < SAVE_SECONDS:
            return None
        self.saved_at, self._saved_count = now, self.count
        return self.partial_message

    def final_message(
        self, model: str, reason: FinishReason, reply: Reply | None, error: str
    ) -> Message:
        """The message at the end of the reply. `reply` is None if the engine was not waited for."""
        if reply is None:
            added = "".join(self._texts) + self._sanitizer.flush()
        else:
            added = sanitize(reply.text)
        return replace(
            self.message,
            content=self.message.content + added,
            model=model,
            finish_reason=reason,
            stats=None if reply is None else reply.stats,
            error=error,
        )


def places(conversation: Conversation) -> dict[str, Place]:
    """The places of the messages that have siblings, by message id."""
    siblings: dict[str | None, list[str]] = {}
    for message in conversation.messages:
        siblings.setdefault(message.parent, []).append(message.id)
    return {
        name: (n, len(names))
        for names in siblings.values()
        if len(names) > 1
        for n, name in enumerate(names, 1)
    }


def dropped_note(dropped_turns: int) -> str:
    """The note below a reply whose prompt had no room for the oldest messages."""
    if not dropped_turns:
        return ""
    return ngettext(
        "the oldest message left out of the prompt",
        "{count:,} oldest messages left out of the prompt",
        dropped_turns,
    ).format(count=dropped_turns)
