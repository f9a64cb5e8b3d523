"""An app that shows only a transcript, on an emulated terminal."""

from __future__ import annotations

import pyte
from rich.console import RenderableType
from textual._compositor import CompositorUpdate
from textual.app import App, ComposeResult
from textual.screen import Screen

from glmtui.chat import Message
from glmtui.ui.transcript.transcript import Transcript

REPLY = """\
## Section about 显存

Some **bold** text and `code` that is long enough to go over more than one line of the view.

1. first
   - nested 量化之后，模型可以在单张显卡上运行
2. second

```python
def step(cache, token):
    return cache.append(token)  # grows
```

| layer | size |
|-------|-----:|
| block | 37 MiB |

"""


def reply(text: str, **fields: object) -> Message:
    fields = {"id": "r", "model": "smollm2", "finish_reason": "stop", **fields}
    return Message("assistant", text, **fields)  # type: ignore[arg-type]


def numbered(first: int, last: int) -> str:
    return "".join(f"line {n}\n\n" for n in range(first, last))


class TranscriptApp(App[None]):
    """Shows a transcript on a terminal that pyte emulates.

    Attributes:
        time: what the transcript's clock shows; it advances by `tick` at each reading, so that
            older messages are laid out one at a time.
        following: the FollowingChanged messages that were posted.
        bytes: number of bytes sent to the terminal.
    """

    CSS = "Transcript { height: 1fr; }"

    def __init__(self) -> None:
        super().__init__()
        self.time = 0.0
        self.tick = 0.005
        self.transcript = Transcript(clock=self.clock)
        self.following: list[tuple[bool, int]] = []
        self.bytes = 0
        self._terminal: pyte.Screen | None = None

    def compose(self) -> ComposeResult:
        yield self.transcript

    def clock(self) -> float:
        self.time += self.tick
        return self.time

    def on_transcript_following_changed(self, event: Transcript.FollowingChanged) -> None:
        self.following.append((event.following, event.lines_below))

    def _display(self, screen: Screen[object], renderable: RenderableType | None) -> None:
        """Overrides the method in which Textual writes to its driver, which tests do not have."""
        if not isinstance(renderable, CompositorUpdate):
            return
        sequences = renderable.render_segments(self.console)
        width, height = screen.size
        if self._terminal is None:
            self._terminal = pyte.Screen(width, height)
            self._stream = pyte.Stream(self._terminal)
        elif (self._terminal.columns, self._terminal.lines) != (width, height):
            self._terminal.resize(height, width)
        self.bytes += len(sequences.encode())
        self._stream.feed(sequences)

    @property
    def rows(self) -> list[str]:
        assert self._terminal is not None
        return [row.rstrip() for row in self._terminal.display]

    @property
    def text(self) -> list[str]:
        """The rows without the scrollbar."""
        return [row[: self.size.width - 1].rstrip() for row in self.rows]

    @property
    def cells(self) -> list[tuple[object, ...]]:
        """The visible properties of each cell; of a blank cell not the text colour."""
        assert self._terminal is not None
        buffer, columns = self._terminal.buffer, self._terminal.columns
        seen = (buffer[y][x] for y in range(self._terminal.lines) for x in range(columns))
        return [
            (c.data, c.bg, c.underscore, c.reverse)
            if c.data == " "
            else (c.data, c.bg, c.underscore, c.reverse, c.fg, c.bold, c.italics)
            for c in seen
        ]

    def forget_terminal(self) -> None:
        assert self._terminal is not None
        self._terminal.reset()
