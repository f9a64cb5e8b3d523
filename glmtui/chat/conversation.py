"""Conversation: a tree of messages, and pure edits of it.

Each message names its parent. The *path* from the root to the *head* is the branch on screen and
the prompt of the model. Regenerating a reply or editing a question adds a sibling and moves the
head; nothing is overwritten.
"""

from __future__ import annotations

import itertools
import re
import secrets
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from typing import Any

from glmtui.chat.message import Message
from glmtui.chat.sampling_params import SamplingParams

MAX_TITLE_CELLS = 48  # terminal columns; fits a list beside a date in 80 columns


@dataclass(frozen=True, slots=True)
class Conversation:
    """A tree of messages and the settings to continue it. Create one with `Conversation.new`.

    Attributes:
        id: eight hexadecimal digits, also the end of its file name.
        title: empty until the first question.
        system: the system prompt; None means the default of the model's template.
        messages: the messages of all branches, parents before children.
        head: id of the last message of the current branch; None if there is none.
        pinned: whether it is listed before the others.
    """

    id: str
    created: datetime
    title: str = ""
    model: str = ""
    system: str | None = None
    params: SamplingParams = field(default_factory=SamplingParams)
    messages: tuple[Message, ...] = ()
    head: str | None = None
    pinned: bool = False

    @classmethod
    def new(
        cls, *, model: str = "", system: str | None = None, params: SamplingParams | None = None
    ) -> Conversation:
        """An empty conversation with a new id, created now."""
        return cls(
            id=new_conversation_id(),
            created=now(),
            model=model,
            system=system,
            params=params or SamplingParams(),
        )

    # ---- reading

    def get(self, message_id: str) -> Message:
        """The message with this id. Raises KeyError."""
        for message in self.messages:
            if message.id == message_id:
                return message
        raise KeyError(message_id)

    @property
    def path(self) -> tuple[Message, ...]:
        """The current branch, first message first."""
        return tuple(reversed(list(self.reversed_path())))

    def reversed_path(self) -> Iterator[Message]:
        """The current branch, last message first. Cheap if only the last few are needed."""
        next_id = self.head
        for message in reversed(self.messages):
            if message.id == next_id:
                yield message
                next_id = message.parent

    @property
    def prompt(self) -> tuple[Message, ...]:
        """What the model is given: the system prompt and the current branch."""
        system = () if self.system is None else (Message("system", self.system),)
        return system + self.path

    def siblings(self, message_id: str) -> tuple[Message, ...]:
        """The alternatives to a message, oldest first, including the message itself."""
        parent = self.get(message_id).parent
        return tuple(m for m in self.messages if m.parent == parent)

    # ---- edits: each returns a new conversation

    def add(self, message: Message) -> Conversation:
        """Adds `message` after the head as the new head; sets its id, its parent and its time."""
        message = replace(
            message,
            id=self._new_message_id(),
            parent=self.head,
            created=message.created or now(),
        )
        title = self.title or (make_title(message.content) if message.role == "user" else "")
        return replace(self, title=title, messages=(*self.messages, message), head=message.id)

    def replace_message(self, message: Message) -> Conversation:
        """Puts `message` in the place of the message with the same id. Raises KeyError."""
        self.get(message.id)
        return replace(
            self, messages=tuple(message if m.id == message.id else m for m in self.messages)
        )

    def replace_reply(self, reply: Message, parts: Sequence[Message]) -> Conversation:
        """Puts `reply` in the place of the head, as one message per part.

        Args:
            parts: content and metadata of each message (see `api.Reply.messages`), such as a
                remark and then a tool call; empty if `reply` is the whole message.
        """
        first, *others = parts or (reply,)
        stats = None if others else reply.stats  # the last message has them
        message = replace(reply, content=first.content, metadata=first.metadata, stats=stats)
        conversation = self.replace_message(message)
        for part in others:
            stats = reply.stats if part is others[-1] else None
            message = replace(reply, content=part.content, metadata=part.metadata, stats=stats)
            conversation = conversation.add(message)
        return conversation

    def rewind(self, message_id: str) -> Conversation:
        """Moves the head before this message; the next message added becomes its sibling."""
        return replace(self, head=self.get(message_id).parent)

    def edit(self, message_id: str, content: str) -> Conversation:
        """Adds a sibling of this message with other content, as the head."""
        new = replace(self.get(message_id), content=content, created=None, stats=None)
        return self.rewind(message_id).add(new)

    def switch(self, message_id: str) -> Conversation:
        """Moves the head to the newest leaf below this message."""
        newest_child = {m.parent: m.id for m in self.messages}
        leaf = self.get(message_id).id
        while leaf in newest_child:
            leaf = newest_child[leaf]
        return replace(self, head=leaf)

    def delete(self, message_id: str) -> Conversation:
        """Removes this message and its descendants. A removed head moves to the parent."""
        deleted = {self.get(message_id).id}
        for message in self.messages:
            if message.parent in deleted:
                deleted.add(message.id)
        head = self.get(message_id).parent if self.head in deleted else self.head
        messages = tuple(m for m in self.messages if m.id not in deleted)
        return replace(self, messages=messages, head=head)

    def fork(self) -> Conversation:
        """A copy with a new id, which is saved to a file of its own."""
        return replace(self, id=new_conversation_id())

    def _new_message_id(self) -> str:
        used = {message.id for message in self.messages}
        return next(f"m{n}" for n in itertools.count(len(used) + 1) if f"m{n}" not in used)


def last_turns(messages: Sequence[Message], count: int) -> tuple[Message, ...]:
    """The last `count` questions of a prompt and what follows each, after its system prompt."""
    questions = [n for n, message in enumerate(messages) if message.role == "user"]
    if len(questions) <= count:
        return tuple(messages)
    system = tuple(message for message in messages[:1] if message.role == "system")
    return system + tuple(messages[questions[-count] :])


def with_tools(
    messages: Sequence[Message], tools: Sequence[Mapping[str, Any]]
) -> tuple[Message, ...]:
    """The prompt with these tools in its system message, which is added if there is none.

    Args:
        tools: name, description and parameters of each, as in `glmtui.tools.Tool.declaration`.
    """
    if not tools:
        return tuple(messages)
    first, *rest = messages
    if first.role != "system":
        first, rest = Message("system", ""), list(messages)
    return (replace(first, tools=tuple(tools)), *rest)


def new_conversation_id() -> str:
    """Eight random hexadecimal digits."""
    return secrets.token_hex(4)


def now() -> datetime:
    """The current time in UTC, without fractions of a second."""
    return datetime.now(timezone.utc).replace(microsecond=0)


def make_title(text: str) -> str:
    """The first line of `text` with a letter or digit, without Markdown prefix, shortened."""
    line = next((s for s in text.splitlines() if re.search(r"\w", s)), text)
    line = re.sub(r"^([#>*-]+ )+", "", " ".join(line.split()))
    width = 0
    for i, char in enumerate(line):
        width += 2 if unicodedata.east_asian_width(char) in "WF" else 1
        if width > MAX_TITLE_CELLS:
            return line[:i].rstrip() + "…"
    return line
