"""One message of a conversation as lines: who speaks, what is said, and how it ended.

Knows how a message looks, not where it is drawn. A person's words are shown as they were typed; a
model's are Markdown, but for the tools that it calls.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate

from glmtui.chat import Message
from glmtui.engine.tokenization.tool_calls import json_arguments, python_arguments
from glmtui.errors import EngineError
from glmtui.language import N_, _
from glmtui.sanitize import SafeText, StreamSanitizer, sanitize, sanitize_line
from glmtui.ui.markdown.document import render
from glmtui.ui.markdown.stream import MarkdownStream
from glmtui.ui.markdown.styled_text import BLANK, Line, Span, wrap
from glmtui.ui.transcript.reasoning import ReasoningStream, ReasoningView, split

MARGIN = Span("  ")
_USER_MARGIN = Span("▌ ", ("user-bar",))
_THOUGHT_MARGIN = Span("┆ ", ("label",))
_PICKED_MARGIN = Span("┃ ", ("picked-bar",))
_PICKED_THOUGHT_MARGIN = Span("┃┆", ("picked-bar",))

_ENDINGS = {
    "cancelled": N_("stopped"),
    "length": N_("cut: the reply reached its greatest length"),
}


class Entry:
    """A message and its lines.

    Args:
        place: which of how many alternatives it is, where there are several: (2, 3).
        note: more to say under it.
        growing: whether it is still being written.

    Attributes:
        picked: whether it is marked as the one that keys act on.
        folded: whether what the model thought is hidden.
    """

    def __init__(
        self,
        message: Message,
        place: tuple[int, int] | None = None,
        note: str = "",
        *,
        growing: bool = False,
    ) -> None:
        self.message = message
        self.place = place
        self.note = note
        self.picked = False
        self.folded = True
        self.width = 0
        self._growing = growing
        self._text = sanitize(message.content)
        self._pieces = StreamSanitizer()
        self._parts = ReasoningStream()
        self._stream: MarkdownStream | None = None
        self._thoughts: ReasoningView | None = None
        self._head: list[Line] = []
        self._body: Sequence[Line] = ()
        self._foot: list[Line] = []

    def __len__(self) -> int:
        return self._before + len(self._body) + len(self._foot)

    def __getitem__(self, index: int) -> Line:
        thoughts = self._thoughts
        above = [thoughts.head, thoughts.body, thoughts.gap] if thoughts is not None else []
        for part in (self._head, *above, self._body):
            if index < len(part):
                return part[index]
            index -= len(part)
        return self._foot[index]

    @property
    def _before(self) -> int:
        """Lines above the body."""
        return len(self._head) + (len(self._thoughts) if self._thoughts is not None else 0)

    def margin(self, index: int) -> Span:
        """What stands to the left of a line."""
        picked = self.picked and index < len(self) - 1  # the last parts it from the next message
        if self.message.role == "user" and 0 <= index - self._before < len(self._body):
            return _PICKED_MARGIN if picked else _USER_MARGIN
        if self._thoughts is not None:
            first = len(self._head) + len(self._thoughts.head)
            if first <= index < first + len(self._thoughts.body):
                return _PICKED_THOUGHT_MARGIN if picked else _THOUGHT_MARGIN
        return _PICKED_MARGIN if picked else MARGIN

    def is_fold(self, index: int) -> bool:
        """Whether a line says that there are thoughts, in their place where they are hidden."""
        head = self._thoughts.head if self._thoughts is not None else ()
        return 0 <= index - len(self._head) < len(head)

    def fold(self, folded: bool) -> None:
        """Hides or shows what the model thought."""
        self.folded = folded
        self._lay_out_anew()

    @property
    def has_thoughts(self) -> bool:
        """Whether there is something to fold."""
        return self._thoughts is not None and len(self._thoughts.head) > 0

    def lay_out(self, width: int) -> None:
        """Makes the lines anew for `width` cells, unless they are of that width."""
        if width == self.width:
            return
        self.width = width
        self._head = self._label()
        self._thoughts = None
        if self.message.role == "user":
            self._body = wrap([Span(self._text, ("user",))], width, fill=("user",))
        elif self.message.role == "observation":
            self._body = wrap([Span(self._text, ("observation",))], width)
        elif self.message.metadata and not self._growing:
            self._body = call_lines(self.message, width)
        elif self._growing:
            self._parts, self._stream = ReasoningStream(), MarkdownStream(width)
            self._body = self._stream.lines
            self._grow(*self._parts.feed(self._text))
        else:
            thought, said = split(self._text)
            if thought:
                self._thoughts = ReasoningView(width, folded=self.folded)
                self._thoughts.feed(thought)
                self._thoughts.end()
            self._body = render(said, width) if said.strip() else ()
        self._foot = self._ending()

    def _lay_out_anew(self) -> None:
        width, self.width = self.width, 0
        self.lay_out(width)

    def append(self, text: str) -> int:
        """The reply goes on. Returns the first line that is not as it was."""
        piece = self._pieces.feed(text)
        self._text = SafeText(self._text + piece)
        return self._grow(*self._parts.feed(piece)) if self._stream is not None else 0

    def _grow(self, thought: str, said: str) -> int:
        first = len(self)
        if thought:
            if self._thoughts is None:
                self._thoughts = ReasoningView(self.width, folded=self.folded)
            first = len(self._head) + self._thoughts.feed(thought)
        if self._thoughts is not None and not self._parts.thinking and not self._thoughts.ended:
            first = len(self._head) + self._thoughts.end()
        if said and self._stream is not None:
            first = min(first, self._before + self._stream.feed(said))
        return first

    def _complete(self) -> int:
        """The text is whole: the lines are what the parsed text's are. Returns as `append` does."""
        first = self._grow(*self._parts.end())
        if self._thoughts is not None and not self._thoughts.ended:
            first = len(self._head) + self._thoughts.end()
        if self._stream is not None:
            first = min(first, self._before + self._stream.finish())
        self._stream = None
        return first

    def finish(self, message: Message, note: str) -> int:
        """The message as it is at its end. Returns the first line that is not as it was."""
        text = sanitize(message.content)
        as_written = text == self._text and not message.metadata
        as_written = as_written and self._stream is not None and not self._stream.plain
        self.message, self.note, self._text = message, note, text
        self._growing = False
        if not as_written:
            self._stream = None
            self._lay_out_anew()
            return 0
        first = self._complete()
        self._foot = self._ending()
        return first

    def place_of(self, index: int) -> int:
        """How much text comes before a line; with `line_at`, finds it again at another width."""
        return sum(self[i].extent for i in range(index))

    def line_at(self, place: int) -> int:
        """The line that has the text at `place`, or the last."""
        ends = list(accumulate(self[i].extent for i in range(len(self))))
        return min(bisect_right(ends, place), len(self) - 1)

    def _label(self) -> list[Line]:
        if self.message.role == "user":
            words = ""
        else:
            words = sanitize_line(self.message.model) or self.message.role
        if self.place is not None:
            words = f"{words}  {self.place[0]}/{self.place[1]}".strip()
        return wrap([Span(words, ("label",))], self.width) if words else []

    def _ending(self) -> list[Line]:
        """What is said under the message, and the empty line that parts it from the next."""
        lines: list[Line] = []
        message = self.message
        if message.role == "assistant" and not self._growing:
            reason = message.finish_reason
            if reason == "error":
                words = _("error: {what}").format(what=sanitize(message.error))
                lines += wrap([Span(words, ("note-error",))], self.width)
            elif reason != "stop":
                words = _(_ENDINGS[reason]) if reason else _("interrupted")
                lines += wrap([Span(words, ("note",))], self.width)
            elif not self._body:
                lines += wrap([Span(_("an empty reply"), ("note",))], self.width)
        if self.note:
            lines += wrap([Span(sanitize(self.note), ("note",))], self.width)
        return [*lines, BLANK]


def call_lines(message: Message, width: int) -> Sequence[Line]:
    """A tool call: the tool's name and its arguments, or what was written in their place."""
    text = sanitize(message.content)
    head = wrap(
        [Span(_("calls {tool}").format(tool=sanitize_line(message.metadata)), ("strong",))], width
    )
    for arguments_in in (json_arguments, python_arguments):  # GLM-4's way, ChatGLM3's
        try:
            shown = {
                sanitize_line(name): _value(value) for name, value in arguments_in(text).items()
            }
        except (EngineError, RecursionError):
            continue
        spans = [[Span(f"{name}: "), Span(value, ("code",))] for name, value in shown.items()]
        return [*head, *(line for argument in spans for line in wrap(argument, width))]
    return [*head, *(render(text, width) if text.strip() else ())]


def _value(value: object) -> str:
    return sanitize(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
