"""Entry: one message as lines: label, text, and how the reply ended.

User messages are shown as typed. Replies are Markdown, except for tool calls. The text of messages
was sanitised when it entered the session.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate

from glmtui.chat import Message
from glmtui.engine.tokenization.tool_calls import parse_json_arguments, parse_python_arguments
from glmtui.errors import EngineError
from glmtui.language import N_, _
from glmtui.sanitize import sanitize, sanitize_line
from glmtui.ui.markdown.document import render
from glmtui.ui.markdown.stream import MarkdownStream
from glmtui.ui.markdown.styled_text import BLANK_LINE, Line, Span, wrap
from glmtui.ui.transcript.reasoning import ReasoningSplitter, ReasoningView, split_reasoning

MARGIN = Span("  ")
_USER_MARGIN = Span("▌ ", ("user-bar",))
_REASONING_MARGIN = Span("┆ ", ("label",))
_SELECTED_MARGIN = Span("┃ ", ("selection-bar",))
_SELECTED_REASONING_MARGIN = Span("┃┆", ("selection-bar",))

_ENDINGS = {
    "cancelled": N_("stopped"),
    "length": N_("Length limit reached. /continue goes on."),
}


class Entry:
    """A message and its lines.

    Args:
        place: number of this reply among the alternatives, and how many there are: (2, 3).
        note: shown below the message.
        growing: whether the message is still being generated.

    Attributes:
        is_selected: whether this is the message that keys act on.
        folded: whether the model's reasoning is hidden.
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
        self.is_selected = False
        self.folded = True
        self.width = 0
        self._growing = growing
        self._text = message.content
        self._splitter = ReasoningSplitter()
        self._stream: MarkdownStream | None = None
        self._reasoning: ReasoningView | None = None
        self._head: list[Line] = []
        self._body: Sequence[Line] = ()
        self._foot: list[Line] = []

    def __len__(self) -> int:
        return self._body_start + len(self._body) + len(self._foot)

    def __getitem__(self, index: int) -> Line:
        reasoning = self._reasoning
        above = [reasoning.head, reasoning.body, reasoning.gap] if reasoning is not None else []
        for part in (self._head, *above, self._body):
            if index < len(part):
                return part[index]
            index -= len(part)
        return self._foot[index]

    @property
    def _body_start(self) -> int:
        return len(self._head) + (len(self._reasoning) if self._reasoning is not None else 0)

    def margin(self, index: int) -> Span:
        """What is drawn to the left of a line."""
        selected = self.is_selected and index < len(self) - 1  # not beside the empty last line
        if self.message.role == "user" and 0 <= index - self._body_start < len(self._body):
            return _SELECTED_MARGIN if selected else _USER_MARGIN
        if self._reasoning is not None:
            first = len(self._head) + len(self._reasoning.head)
            if first <= index < first + len(self._reasoning.body):
                return _SELECTED_REASONING_MARGIN if selected else _REASONING_MARGIN
        return _SELECTED_MARGIN if selected else MARGIN

    def is_reasoning_head(self, index: int) -> bool:
        """Whether a line is the heading of the reasoning, which a click folds or unfolds."""
        head = self._reasoning.head if self._reasoning is not None else ()
        return 0 <= index - len(self._head) < len(head)

    def set_folded(self, folded: bool) -> None:
        self.folded = folded
        self._lay_out_again()

    @property
    def has_reasoning(self) -> bool:
        return self._reasoning is not None and len(self._reasoning.head) > 0

    def lay_out(self, width: int) -> None:
        """Makes the lines for `width` cells, unless they already have this width."""
        if width == self.width:
            return
        self.width = width
        self._head = self._label()
        self._reasoning = None
        if self.message.role == "user":
            self._body = wrap([Span(self._text, ("user",))], width, fill=("user",))
        elif self.message.role == "observation":
            self._body = wrap([Span(self._text, ("observation",))], width)
        elif self.message.metadata and not self._growing:
            self._body = tool_call_lines(self.message, width)
        elif self._growing:
            self._splitter, self._stream = ReasoningSplitter(), MarkdownStream(width)
            self._body = self._stream.lines
            self._add_parts(*self._splitter.feed(self._text))
        else:
            reasoning, reply = split_reasoning(self._text)
            if reasoning:
                self._reasoning = ReasoningView(width, folded=self.folded)
                self._reasoning.feed(reasoning)
                self._reasoning.end()
            self._body = render(reply, width) if reply.strip() else ()
        self._foot = self._ending()

    def _lay_out_again(self) -> None:
        width, self.width = self.width, 0
        self.lay_out(width)

    def append(self, text: str) -> int:
        """Adds generated text. Returns the index of the first line that has changed."""
        self._text += text
        return self._add_parts(*self._splitter.feed(text)) if self._stream is not None else 0

    def _add_parts(self, reasoning: str, reply: str) -> int:
        first = len(self)
        if reasoning:
            if self._reasoning is None:
                self._reasoning = ReasoningView(self.width, folded=self.folded)
            first = len(self._head) + self._reasoning.feed(reasoning)
        if not self._splitter.in_reasoning:
            first = min(first, self._end_reasoning())
        if reply and self._stream is not None:
            first = min(first, self._body_start + self._stream.feed(reply))
        return first

    def _end_reasoning(self) -> int:
        if self._reasoning is None or self._reasoning.ended:
            return len(self)
        return len(self._head) + self._reasoning.end()

    def _end_text(self) -> int:
        """Ends the streams. Returns the index of the first line that has changed."""
        first = self._add_parts(*self._splitter.end())
        first = min(first, self._end_reasoning())
        if self._stream is not None:
            first = min(first, self._body_start + self._stream.finish())
        self._stream = None
        return first

    def finish(self, message: Message, note: str) -> int:
        """Sets the complete message. Returns the index of the first line that has changed."""
        text = message.content
        as_streamed = text == self._text and not message.metadata
        as_streamed = as_streamed and self._stream is not None and not self._stream.plain
        self.message, self.note, self._text = message, note, text
        self._growing = False
        if not as_streamed:
            self._stream = None
            self._lay_out_again()
            return 0
        first = self._end_text()
        self._foot = self._ending()
        return first

    def text_offset(self, index: int) -> int:
        """Number of characters of text before a line. `line_at` finds them at another width."""
        return sum(self[i].text_length for i in range(index))

    def line_at(self, offset: int) -> int:
        """Index of the line with the character at `offset`, or of the last line."""
        ends = list(accumulate(self[i].text_length for i in range(len(self))))
        return min(bisect_right(ends, offset), len(self) - 1)

    def _label(self) -> list[Line]:
        label = "" if self.message.role == "user" else self.message.model or self.message.role
        if self.place is not None:
            label = f"{label}  {self.place[0]}/{self.place[1]}".strip()
        return wrap([Span(label, ("label",))], self.width) if label else []

    def _ending(self) -> list[Line]:
        """How the reply ended, the note, and an empty line before the next message."""
        lines: list[Line] = []
        message = self.message
        if message.role == "assistant" and not self._growing:
            reason = message.finish_reason
            if reason == "error":
                text = _("error: {what}").format(what=message.error)
                lines += wrap([Span(text, ("note-error",))], self.width)
            elif reason != "stop":
                text = _(_ENDINGS[reason]) if reason else _("interrupted")
                lines += wrap([Span(text, ("note",))], self.width)
            elif not self._body:
                lines += wrap([Span(_("empty reply"), ("note",))], self.width)
        if self.note:
            lines += wrap([Span(self.note, ("note",))], self.width)
        return [*lines, BLANK_LINE]


def tool_call_lines(message: Message, width: int) -> Sequence[Line]:
    """The tool's name and its arguments; if these cannot be parsed, the text as Markdown."""
    text = message.content
    head = wrap([Span(_("calls {tool}").format(tool=message.metadata), ("strong",))], width)
    for parse_arguments in (
        parse_json_arguments,
        parse_python_arguments,
    ):  # of GLM-4 and of ChatGLM3
        try:
            # JSON and Python escapes decode to characters that are not sanitised yet.
            arguments = {
                sanitize_line(name): _format_argument(value)
                for name, value in parse_arguments(text).items()
            }
        except (EngineError, RecursionError):
            continue
        spans = [[Span(f"{name}: "), Span(value, ("code",))] for name, value in arguments.items()]
        return [*head, *(line for argument in spans for line in wrap(argument, width))]
    return [*head, *(render(text, width) if text.strip() else ())]


def _format_argument(value: object) -> str:
    return sanitize(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
