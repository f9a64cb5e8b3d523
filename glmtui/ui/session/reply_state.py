"""Run: one reply being written, and the ReplyView in which it is seen to grow.

Plain data; the session moves it on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol, TypeAlias

from glmtui.chat import Conversation, Message
from glmtui.engine.api import PrefillProgress, Request
from glmtui.language import ngettext
from glmtui.sanitize import StreamSanitizer

Place: TypeAlias = tuple[int, int]
"""Which of how many alternatives a message is, counted from 1."""


class ReplyView(Protocol):
    """Where the conversation is seen; `glmtui.ui.transcript.transcript.Transcript` is one."""

    def show(self, messages: Sequence[Message], places: Mapping[str, Place]) -> None:
        """These and no others; `places` by message id."""
        ...

    def begin(self, message: Message, place: Place | None) -> None:
        """One more, which may grow."""
        ...

    def append(self, text: str) -> None:
        """The message that was begun goes on."""
        ...

    def finish(self, message: Message, note: str = "") -> None:
        """The message that was begun, as it is at its end, with a note under it."""
        ...


class NullView:
    """A ReplyView that nobody sees any more."""

    def show(self, messages: Sequence[Message], places: Mapping[str, Place]) -> None:
        """Nothing."""

    def begin(self, message: Message, place: Place | None) -> None:
        """Nothing."""

    def append(self, text: str) -> None:
        """Nothing."""

    def finish(self, message: Message, note: str = "") -> None:
        """Nothing."""


@dataclass(slots=True)
class ReplyState:
    """A reply being written.

    Attributes:
        request: its id comes back with every event.
        message: the reply as it was begun: empty, or what a continued one already had.
        on_disk: whether the question was saved, or could not be.
        submitted: whether the engine has the request.
        prefill: how far the prompt has been read; None before the engine began.
        pieces: what was added, made safe to show.
        unseen: the last of them, which the view does not have yet.
        count: pieces of text from the engine; a piece is a token, but where several make one
            character.
        began: when the first piece came, by the session's clock.
    """

    request: Request
    message: Message
    saved_at: float
    on_disk: bool = False
    submitted: bool = False
    stopping: bool = False
    prefill: PrefillProgress | None = None
    stream: StreamSanitizer = field(default_factory=StreamSanitizer)
    pieces: list[str] = field(default_factory=list)
    unseen: list[str] = field(default_factory=list)
    count: int = 0
    saved_count: int = 0
    began: float = 0.0

    @property
    def started(self) -> bool:
        """Whether the engine has begun with it."""
        return self.prefill is not None or self.count > 0

    @property
    def written(self) -> Message:
        """The reply with all that has come so far."""
        return replace(self.message, content=self.message.content + "".join(self.pieces))

    def rate(self, now: float) -> float | None:
        """Pieces per second since the first; None while there are too few."""
        return (
            (self.count - 1) / (now - self.began) if self.count > 1 and now > self.began else None
        )


def places(conversation: Conversation) -> dict[str, Place]:
    """By message id, which of how many alternatives it is, where there are several."""
    siblings: dict[str | None, list[str]] = {}
    for message in conversation.messages:
        siblings.setdefault(message.parent, []).append(message.id)
    return {
        name: (n, len(names))
        for names in siblings.values()
        if len(names) > 1
        for n, name in enumerate(names, 1)
    }


def left_out(dropped_turns: int) -> str:
    """What is said under a reply to a prompt that these oldest messages did not fit into."""
    if not dropped_turns:
        return ""
    return ngettext(
        "the oldest message left out of the prompt",
        "{count:,} oldest messages left out of the prompt",
        dropped_turns,
    ).format(count=dropped_turns)
