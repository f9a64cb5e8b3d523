"""Messages, conversations and sampling parameters: plain data and pure edits.

A conversation is a tree of messages. Each message names its parent; the *path* from the root to
the *head* is what a person sees and what the model is given. Regenerating a reply or editing a
question adds a sibling and moves the head: nothing is ever overwritten. Every edit returns a new
Conversation. Nothing here knows about files, engines or screens.
"""

from __future__ import annotations

import itertools
import re
import secrets
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import datetime, timezone
from typing import Any, Literal

Role = Literal["system", "user", "assistant", "observation"]
FinishReason = Literal["stop", "length", "cancelled", "error"]

TITLE_CELLS = 48
MOST_RATE = 1e9  # tokens per second; more is a wrong clock
MOST_COUNT = 1e15  # tokens or seconds; more is no measurement


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How the next token is picked and when a reply ends.

    ``None`` leaves a value to the model's own default (see `over`); in the sampler itself it
    means "no such filter".

    Attributes:
        temperature: divides the logits; 0 is greedy.
        top_k: keep this many most likely tokens; 0 keeps all.
        top_p: keep the smallest set of tokens whose probability reaches this.
        repetition_penalty: over 1 makes tokens of the prompt and reply less likely (Keskar et al.
            2019, arXiv:1909.05858).
        do_sample: False is greedy.
        seed: makes a reply repeatable.
        max_length: prompt and reply together, in tokens.
        max_new_tokens: the reply alone, in tokens.
    """

    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    repetition_penalty: float | None = None
    do_sample: bool | None = None
    seed: int | None = None
    max_length: int | None = None
    max_new_tokens: int | None = None

    def over(self, defaults: SamplingParams) -> SamplingParams:
        """These parameters, with `defaults` wherever they say None."""
        known = {f.name: v for f in fields(self) if (v := getattr(self, f.name)) is not None}
        return replace(defaults, **known)

    @property
    def greedy(self) -> bool:
        """Whether the most likely token is always taken."""
        return self.do_sample is False or self.temperature == 0


@dataclass(frozen=True, slots=True)
class GenerationStats:
    """What one reply cost.

    Attributes:
        prompt_tokens: tokens the model was given.
        reused_tokens: of those, how many were still in the KV cache.
        generated_tokens: tokens of the reply.
        prefill_seconds: time spent on the rest of the prompt.
        decode_seconds: from the first generated token to the last.
        first_token_seconds: from the request to the first generated token.
        peak_memory: most bytes in use so far, of all GPUs the model is on or else of the whole
            process; None where unknown.
    """

    prompt_tokens: int = 0
    reused_tokens: int = 0
    generated_tokens: int = 0
    prefill_seconds: float = 0.0
    decode_seconds: float = 0.0
    first_token_seconds: float = 0.0
    peak_memory: int | None = None

    @property
    def prefill_rate(self) -> float | None:
        """Prompt tokens per second, the reused ones left out; None where nothing was timed."""
        return _rate(self.prompt_tokens - self.reused_tokens, self.prefill_seconds)

    @property
    def decode_rate(self) -> float | None:
        """Generated tokens per second after the first one; None where nothing was timed."""
        return _rate(self.generated_tokens - 1, self.decode_seconds)


@dataclass(frozen=True, slots=True)
class Message:
    """One thing said, by whom.

    Attributes:
        id: unique within its conversation; empty until the message joins one.
        parent: id of the message it follows; None at the root.
        model: which model wrote it (replies only).
        finish_reason: why a reply ended; None while it is written, or if it was cut by a crash.
        error: what ended a reply whose finish_reason is "error".
        metadata: what stands beside the role in the prompts of ChatGLM3 and GLM-4: the tool that
            a reply calls; empty for plain talk and for all other models.
        tools: declarations of the tools that a system prompt offers (see `with_tools`); they go
            to the model and are never saved.
    """

    role: Role
    content: str
    id: str = ""
    parent: str | None = None
    created: datetime | None = None
    model: str = ""
    finish_reason: FinishReason | None = None
    stats: GenerationStats | None = None
    error: str = ""
    metadata: str = ""
    tools: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True, slots=True)
class Conversation:
    """A tree of messages with what is needed to go on with it. Make one with `Conversation.new`.

    Attributes:
        id: eight hex digits, also the end of its file name.
        title: empty until the first question gives one.
        system: the system prompt; None leaves it to the model's own template.
        messages: every message of every branch, parents before children.
        head: id of the last message of the branch in view; None when empty.
        pinned: whether it stands before the others in a list.
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
        """An empty conversation with a fresh id, created now."""
        return cls(
            id=fresh_id(),
            created=now(),
            model=model,
            system=system,
            params=params or SamplingParams(),
        )

    # ---- reading

    def get(self, message_id: str) -> Message:
        """The message of this id. Raises KeyError."""
        for message in self.messages:
            if message.id == message_id:
                return message
        raise KeyError(message_id)

    @property
    def path(self) -> tuple[Message, ...]:
        """The branch in view, first message first."""
        return tuple(reversed(list(self.backwards())))

    def backwards(self) -> Iterator[Message]:
        """The branch in view, last message first; for who needs but the end of a long one."""
        at = self.head
        for message in reversed(self.messages):
            if message.id == at:
                yield message
                at = message.parent

    @property
    def prompt(self) -> tuple[Message, ...]:
        """What the model is given: the system prompt, then the branch in view."""
        system = () if self.system is None else (Message("system", self.system),)
        return system + self.path

    def siblings(self, message_id: str) -> tuple[Message, ...]:
        """The alternatives at this place, oldest first, the message itself among them."""
        parent = self.get(message_id).parent
        return tuple(m for m in self.messages if m.parent == parent)

    # ---- edits: each returns a new conversation

    def add(self, message: Message) -> Conversation:
        """`message` under the head, as the new head, with id, parent and time filled in."""
        message = replace(
            message,
            id=self._fresh_id(),
            parent=self.head,
            created=message.created or now(),
        )
        title = self.title or (title_of(message.content) if message.role == "user" else "")
        return replace(self, title=title, messages=(*self.messages, message), head=message.id)

    def put(self, message: Message) -> Conversation:
        """`message` in place of the one that has its id. Raises KeyError."""
        self.get(message.id)
        return replace(
            self, messages=tuple(message if m.id == message.id else m for m in self.messages)
        )

    def put_reply(self, reply: Message, said: Sequence[Message]) -> Conversation:
        """`reply` in place of the message at the head, as the messages that it turned out to be.

        Args:
            said: content and metadata of each (see `api.Reply.messages`), such as a remark and
                then a tool call; empty where `reply` itself says it.
        """
        first, *more = said or (reply,)
        stats = None if more else reply.stats
        kept = replace(reply, content=first.content, metadata=first.metadata, stats=stats)
        conversation = self.put(kept)
        for part in more:
            stats = reply.stats if part is more[-1] else None
            kept = replace(reply, content=part.content, metadata=part.metadata, stats=stats)
            conversation = conversation.add(kept)
        return conversation

    def rewind(self, message_id: str) -> Conversation:
        """The head just before this message; what is added next becomes its sibling."""
        return replace(self, head=self.get(message_id).parent)

    def edit(self, message_id: str, content: str) -> Conversation:
        """A sibling of this message with other words, as the head; the old branch is kept."""
        new = replace(self.get(message_id), content=content, created=None, stats=None)
        return self.rewind(message_id).add(new)

    def switch(self, message_id: str) -> Conversation:
        """The branch through this message in view, down to its newest leaf."""
        newest_child = {m.parent: m.id for m in self.messages}
        leaf = self.get(message_id).id
        while leaf in newest_child:
            leaf = newest_child[leaf]
        return replace(self, head=leaf)

    def delete(self, message_id: str) -> Conversation:
        """Without this message and all that follows it; a head that was among them moves up."""
        gone = {self.get(message_id).id}
        for message in self.messages:
            if message.parent in gone:
                gone.add(message.id)
        head = self.get(message_id).parent if self.head in gone else self.head
        kept = tuple(m for m in self.messages if m.id not in gone)
        return replace(self, messages=kept, head=head)

    def fork(self) -> Conversation:
        """The same talk under a fresh id: what is saved of it goes to a file of its own."""
        return replace(self, id=fresh_id())

    def _fresh_id(self) -> str:
        taken = {message.id for message in self.messages}
        return next(f"m{n}" for n in itertools.count(len(taken) + 1) if f"m{n}" not in taken)


def last_turns(messages: Sequence[Message], count: int) -> tuple[Message, ...]:
    """A prompt of the last `count` questions and what was said after each; the system prompt
    stays."""
    asked = [n for n, message in enumerate(messages) if message.role == "user"]
    if len(asked) <= count:
        return tuple(messages)
    system = tuple(message for message in messages[:1] if message.role == "system")
    return system + tuple(messages[asked[-count] :])


def with_tools(
    messages: Sequence[Message], tools: Sequence[Mapping[str, Any]]
) -> tuple[Message, ...]:
    """The prompt with these tools declared in its system message, which is made if need be.

    Args:
        tools: a name, a description and parameters each, as `glmtui.tools.Tool.declaration`.
    """
    if not tools:
        return tuple(messages)
    first, *rest = messages
    if first.role != "system":
        first, rest = Message("system", ""), list(messages)
    return (replace(first, tools=tuple(tools)), *rest)


def _rate(count: int, seconds: float) -> float | None:
    """Tokens per second; None where it would be no rate that a machine can have."""
    if not (0 < count < MOST_COUNT and count / MOST_RATE < seconds < MOST_COUNT):
        return None
    return count / seconds


def fresh_id() -> str:
    """An id for a conversation: eight random hex digits."""
    return secrets.token_hex(4)


def now() -> datetime:
    """The present, in UTC, to the second."""
    return datetime.now(timezone.utc).replace(microsecond=0)


def title_of(text: str) -> str:
    """A title from a first message: its first line with words, cut to about 48 columns."""
    line = next((s for s in text.splitlines() if re.search(r"\w", s)), text)
    line = re.sub(r"^([#>*-]+ )+", "", " ".join(line.split()))
    width = 0
    for i, char in enumerate(line):
        width += 2 if unicodedata.east_asian_width(char) in "WF" else 1
        if width > TITLE_CELLS:
            return line[:i].rstrip() + "…"
    return line
